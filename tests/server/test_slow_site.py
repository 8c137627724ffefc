"""A site on 4 Mbit/s, beside sites on a fast link: each moves its bytes at its own pace."""

import socket
import threading
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from adpfl_server.turns import Turns

BYTES_PER_SECOND = 4_000_000 // 8
PIECE_BYTES = 16_384
SHAPE = (2, 2**18)
"""Two chunks of a mebibyte: some four seconds on the slow link."""


class SlowLink:
    """Passes one connection's bytes on, either way, no faster than the link."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE_BYTES)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
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
                time.sleep(len(piece) / BYTES_PER_SECOND)
                sink.sendall(piece)
        except OSError:
            pass
        finally:
            sink.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def round_with_slow_site(consortium, monkeypatch) -> Iterator[tuple]:
    """One chunk in memory at a time, so that whoever kept it would stop everybody."""
    monkeypatch.setattr("adpfl_server.service.Turns", partial(Turns, 1))
    generator = np.random.default_rng(0)
    weights = {"weights": generator.standard_normal(SHAPE).astype(np.float32)}
    consortium.write_safetensors(consortium.root / "large.safetensors", weights)
    plan = consortium.plan(cohort={"sites": ["slow", "fast"], "quorum": 2, "round_deadline_seconds": 600.0})
    daemon = consortium.start({**plan, "initial_model": "large.safetensors"})
    link = SlowLink(daemon.ports.main)
    fast = consortium.caller("fast")
    slow = consortium.again(consortium.caller("slow"), port=link.port)
    for number, caller in enumerate((fast, slow)):
        caller.enter(str(number))
    yield fast, slow, consortium
    link.close()


def timed(work, times: dict[str, float], name: str) -> threading.Thread:
    def run() -> None:
        started = time.monotonic()
        work()
        times[name] = time.monotonic() - started

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_slow_site_slows_nobody_either_way(round_with_slow_site):
    fast, slow, consortium = round_with_slow_site
    base = fast.next_task(wait_seconds=10).base_digest
    times: dict[str, float] = {}

    fetching = timed(lambda: slow.fetch(base), times, "slow fetch")
    time.sleep(0.5)
    for _ in range(3):
        _, chunks = fast.fetch(base)
        assert len(chunks) == 2
    assert fetching.is_alive()
    fetching.join(60)

    def update(seed: int):
        values = np.random.default_rng(seed).standard_normal(SHAPE) * 1e-3
        return consortium.update_of({"weights": values.astype(np.float32)})

    pushing = timed(lambda: slow.send(1, base, update(1)), times, "slow push")
    time.sleep(0.5)
    for _ in range(3):  # more chunks than the slow site sends: taking turns with it would outlast it
        fast.fetch(base)
    fast.send(1, base, update(2))
    assert pushing.is_alive()
    pushing.join(60)
    assert fast.next_task(wait_seconds=10).round == 2
    assert min(times["slow fetch"], times["slow push"]) > 3.0
