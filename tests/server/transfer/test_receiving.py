"""A push that writes, syncs and receives at once loses nothing and lets nothing half-checked count."""

import asyncio
import dataclasses
import threading
from contextlib import suppress

import numpy as np
import pytest

from adpfl.errors import ProtocolError
from adpfl.wire import limits
from adpfl.wire.chunks import iter_chunks, manifest_of_arrays, sha256_hex
from adpfl.wire.transfers import Chunk
from adpfl_server.storage.blobs import BlobFolder
from adpfl_server.transfer import receiving
from adpfl_server.transfer.receiving import WRITTEN_AT_ONCE, Reception
from adpfl_server.transfer.turns import Patience, Turns

CHUNKS = 40


class Threads:
    """What a reception needs of the runner."""

    def __init__(self, folder):
        self.store = self
        self.blobs = BlobFolder(folder)
        self.under_way = self.most_under_way = 0
        self.go = threading.Event()
        """Nothing is done in a file before a test lets it."""
        self.go.set()

    async def in_files(self, function, *arguments):
        return await asyncio.to_thread(self._work, function, *arguments)

    def _work(self, function, *arguments):
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.go.wait(20)
        self.under_way -= 1
        return function(*arguments)


@pytest.fixture
def update():
    values = np.random.default_rng(1).standard_normal(CHUNKS * limits.CHUNK_SIZE_MIN // 4).astype(np.float32)
    arrays = {"weights": values}
    chunks = [Chunk(sha256_hex(data), data) for data in iter_chunks(arrays, limits.CHUNK_SIZE_MIN)]
    return manifest_of_arrays(arrays, chunk_size=limits.CHUNK_SIZE_MIN), chunks


async def arrived(size):
    return


async def stream(parts):
    for part in parts:
        if isinstance(part, Exception):
            raise part
        await asyncio.sleep(0)
        yield part


async def take_in(threads, manifest, parts, missing=None, turns=None):
    digests = tuple(manifest.indices_of) if missing is None else missing
    async with Reception(threads, turns or Turns(), manifest, digests) as reception:
        await reception.take_in(stream(parts), arrived)
    return reception.missing


def receive(*arguments, **options):
    return asyncio.run(take_in(*arguments, **options))


def incoming(threads):
    return [path.name for path in (threads.blobs._root / "incoming").iterdir()]


@pytest.mark.parametrize("together", [1, 3, 7, 1000])
def test_every_chunk_is_stored_whatever_the_batches(tmp_path, update, together, monkeypatch):
    monkeypatch.setattr(receiving, "SETTLED_TOGETHER", together)
    manifest, chunks = update
    threads = Threads(tmp_path)
    assert receive(threads, manifest, chunks) == ()
    assert [threads.blobs.get(chunk.digest) for chunk in chunks] == [bytes(chunk.data) for chunk in chunks]
    assert list((tmp_path / "incoming").iterdir()) == []


def test_a_stream_that_breaks_off_leaves_what_it_brought(tmp_path, update):
    manifest, chunks = update
    threads = Threads(tmp_path)
    with pytest.raises(ConnectionError):
        receive(threads, manifest, [*chunks[:10], ConnectionError("cut")])
    assert [threads.blobs.has(chunk.digest) for chunk in chunks] == [True] * 10 + [False] * 30
    missing = tuple(chunk.digest for chunk in chunks[10:])
    assert receive(threads, manifest, chunks[10:], missing) == ()


def test_a_spoilt_chunk_ends_the_stream_and_the_others_stay(tmp_path, update):
    manifest, chunks = update
    threads = Threads(tmp_path)
    spoilt = Chunk(chunks[2].digest, chunks[3].data)
    with pytest.raises(ProtocolError, match="do not match"):
        receive(threads, manifest, [*chunks[:2], spoilt])
    assert [threads.blobs.has(chunk.digest) for chunk in chunks[:4]] == [True, True, False, False]


def test_a_value_that_is_not_finite_is_not_stored(tmp_path):
    arrays = {"weights": np.full(limits.CHUNK_SIZE_MIN // 4, np.nan, np.float32)}
    manifest = manifest_of_arrays(arrays, chunk_size=limits.CHUNK_SIZE_MIN)
    threads = Threads(tmp_path)
    chunk = Chunk(manifest.chunk_digests[0], arrays["weights"].tobytes())
    with pytest.raises(ProtocolError, match="not finite"):
        receive(threads, manifest, [chunk])
    assert not threads.blobs.has(chunk.digest)


def test_a_chunk_comes_once(tmp_path, update):
    manifest, chunks = update
    with pytest.raises(ProtocolError, match="not asked for"):
        receive(Threads(tmp_path), manifest, [chunks[0], chunks[0]])


def test_a_disk_that_refuses_the_sync_is_an_error_of_the_call(tmp_path, update, monkeypatch):
    manifest, chunks = update
    threads = Threads(tmp_path)

    def full(staged):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(threads.blobs, "settle", full)
    with pytest.raises(OSError, match="No space left"):
        receive(threads, manifest, chunks[:1])
    assert not threads.blobs.has(chunks[0].digest)


def test_a_chunk_of_another_length_than_announced_is_not_stored(tmp_path, update):
    """Its bytes are those of its name; but the sum would read another number of values."""
    manifest, _ = update
    longer = bytes(2 * limits.CHUNK_SIZE_MIN)
    chunk = Chunk(sha256_hex(longer), longer)
    forged = dataclasses.replace(manifest, chunk_digests=(chunk.digest, *manifest.chunk_digests[1:]))
    threads = Threads(tmp_path)
    with pytest.raises(ProtocolError, match=rf"has {len(longer)} bytes; must be {limits.CHUNK_SIZE_MIN}"):
        receive(threads, forged, [chunk])
    assert not threads.blobs.has(chunk.digest)


@pytest.mark.parametrize("parts", [0, 1], ids=["at the end", "refused"])
def test_a_stream_keeps_no_turn_when_it_is_over(tmp_path, update, parts):
    manifest, chunks = update
    threads = Threads(tmp_path)

    async def play():
        turns = Turns(1)
        for _ in range(2):
            with suppress(ProtocolError):
                await asyncio.wait_for(take_in(threads, manifest, chunks[:parts], (), turns), 5.0)

    asyncio.run(play())


def test_one_stream_has_so_many_chunks_being_written(tmp_path, update):
    manifest, chunks = update
    threads = Threads(tmp_path)
    threads.go.clear()

    async def play():
        receiving_all = asyncio.create_task(take_in(threads, manifest, chunks[:10], turns=Turns(10)))
        await asyncio.sleep(0.2)
        threads.go.set()
        await receiving_all

    asyncio.run(play())
    assert threads.most_under_way == WRITTEN_AT_ONCE


def test_a_batch_that_was_not_made_durable_is_an_error_although_the_next_ones_were(
    tmp_path, update, monkeypatch
):
    monkeypatch.setattr(receiving, "SETTLED_TOGETHER", 1)
    manifest, chunks = update
    threads = Threads(tmp_path)
    settle, batches = threads.blobs.settle, []

    def fails_once(staged):
        batches.append(staged)
        if len(batches) == 1:
            raise OSError(28, "No space left on device")
        settle(staged)

    monkeypatch.setattr(threads.blobs, "settle", fails_once)
    with pytest.raises(OSError, match="No space left"):
        receive(threads, manifest, chunks)


def test_a_sender_that_was_given_up_waits_for_a_turn_before_its_chunk_is_taken(tmp_path, update, monkeypatch):
    monkeypatch.setattr(receiving, "Patience", lambda: Patience(0.02))
    manifest, chunks = update
    threads, sizes = Threads(tmp_path), []

    async def slow():
        await asyncio.sleep(0.2)
        yield chunks[0]

    async def note(size):
        sizes.append(size)

    async def play():
        turns = Turns(1)
        async with Reception(threads, turns, manifest, tuple(manifest.indices_of)) as reception:
            taking = asyncio.create_task(reception.take_in(slow(), note))
            await asyncio.sleep(0)
            other = await asyncio.wait_for(turns.take(Patience()), 5.0)
            await asyncio.sleep(0.4)
            assert sizes == []
            other.end()
            await asyncio.wait_for(taking, 5.0)
        assert sizes == [limits.CHUNK_SIZE_MIN]

    asyncio.run(play())


@pytest.mark.parametrize("times", [1, 2])
def test_a_stream_that_is_cancelled_while_it_writes_leaves_whole_chunks_alone(tmp_path, update, times):
    manifest, chunks = update
    threads = Threads(tmp_path)
    threads.go.clear()

    async def play():
        reception = Reception(threads, Turns(), manifest, tuple(manifest.indices_of))

        async def take():
            async with reception:
                await reception.take_in(stream(chunks), arrived)

        taking = asyncio.create_task(take())
        await asyncio.sleep(0.2)
        for _ in range(times):
            taking.cancel()
            await asyncio.sleep(0.05)
        threads.go.set()
        await asyncio.gather(taking, return_exceptions=True)
        await reception.ended

    asyncio.run(play())
    brought = [threads.blobs.has(chunk.digest) for chunk in chunks]
    assert brought == [True] * WRITTEN_AT_ONCE + [False] * (CHUNKS - WRITTEN_AT_ONCE)
    assert incoming(threads) == []
