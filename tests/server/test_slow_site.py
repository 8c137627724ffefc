"""Sites on 4 Mbit/s, or slower, beside sites on a fast link: each moves its bytes at its own pace."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from adpfl.wire import transfers
from adpfl_server.transfer.turns import Turns

BYTES_PER_SECOND = 4_000_000 // 8
PIECE_BYTES = 16_384
CHUNK_BYTES = 2**20
SMALL_CHUNKS = 2
"""Some four seconds on the slow link."""
LARGE_CHUNKS = 24
"""Many times what the sockets and gRPC hold between two ends: the server itself must wait for the reader."""


class SlowLink:
    """Passes one connection's bytes on, either way, no faster than the link."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE_BYTES)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._repaired = threading.Event()
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            there = socket.socket()
            for end in (here, there):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE_BYTES)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE_BYTES)
            there.connect(("127.0.0.1", self._target))
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(PIECE_BYTES):
                self._repaired.wait(len(piece) / BYTES_PER_SECOND)
                sink.sendall(piece)
        except OSError:
            pass
        finally:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

    def repair(self) -> None:
        """From now on it is as fast as the others."""
        self._repaired.set()

    def close(self) -> None:
        self._listener.close()


def weights(chunks: int, seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    values = np.random.default_rng(seed).standard_normal((chunks, CHUNK_BYTES // 4), dtype=np.float32)
    return {"weights": scale * values}


@pytest.fixture
def sites_of(consortium, monkeypatch) -> Iterator:
    """A fast and a slow site in a round, by their model's chunks; and the slow one's link.

    One chunk is in memory at a time, so that whoever kept it would stop everybody.
    """
    monkeypatch.setattr("adpfl_server.service.Turns", partial(Turns, 1))
    links: list[SlowLink] = []

    def start(chunks: int):
        consortium.write_safetensors(consortium.root / "large.safetensors", weights(chunks, 0))
        cohort = {"sites": ["slow", "fast"], "quorum": 2, "round_deadline_seconds": 600.0}
        daemon = consortium.start({**consortium.plan(cohort=cohort), "initial_model": "large.safetensors"})
        links.append(SlowLink(daemon.ports.main))
        fast = consortium.caller("fast")
        slow = consortium.again(consortium.caller("slow"), port=links[0].port)
        for number, caller in enumerate((fast, slow)):
            caller.enter(str(number))
        return fast, slow, links[0]

    yield start
    for link in links:
        link.close()


class Download:
    """A site that fetches the round's model beside the test."""

    def __init__(self, caller, base: str) -> None:
        self.received = 0
        have = transfers.HaveResponse.from_wire(
            caller.stub.Have(transfers.HaveRequest("demo", base).to_wire(), timeout=20)
        )
        request = transfers.FetchRequest("demo", base, have.missing)
        self._call = caller.stub.Fetch(request.to_wire(), timeout=120)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for message in self._call:
            transfers.Chunk.from_fetch(message)
            self.received += 1

    def finish(self) -> int:
        """Wait for the end; returns how many came."""
        self._thread.join(60)
        return self.received

    def wait(self, chunks: int) -> None:
        """Until so many have come."""
        deadline = time.monotonic() + 60
        while self.received < chunks:
            assert time.monotonic() < deadline, self.received
            time.sleep(0.02)


def test_a_slow_reader_slows_nobody(sites_of):
    fast, slow, link = sites_of(LARGE_CHUNKS)
    base = fast.next_task(wait_seconds=10).base_digest
    download = Download(slow, base)
    download.wait(1)  # the links between are full, and the server waits for the reader
    for _ in range(3):  # three times as many chunks: taking turns with the reader would outlast it
        _, chunks = fast.fetch(base)
        assert len(chunks) == LARGE_CHUNKS
    assert download.received < LARGE_CHUNKS // 3
    link.repair()
    assert download.finish() == LARGE_CHUNKS


def test_a_slow_sender_slows_nobody(sites_of, consortium):
    fast, slow, _ = sites_of(SMALL_CHUNKS)
    base = fast.next_task(wait_seconds=10).base_digest
    started = time.monotonic()
    update = consortium.update_of(weights(SMALL_CHUNKS, 1, 1e-3))
    pushing = threading.Thread(target=slow.send, args=(1, base, update), daemon=True)
    pushing.start()
    time.sleep(0.5)
    for _ in range(3):  # more chunks than the slow site sends: taking turns with it would outlast it
        fast.fetch(base)
    fast.send(1, base, consortium.update_of(weights(SMALL_CHUNKS, 2, 1e-3)))
    assert pushing.is_alive()
    pushing.join(60)
    assert fast.next_task(wait_seconds=10).round == 2
    assert time.monotonic() - started > 3.0
