"""A push that writes, syncs and receives at once loses nothing and lets nothing half-checked count."""

import asyncio

import numpy as np
import pytest

from adpfl.errors import ProtocolError
from adpfl.wire import limits
from adpfl.wire.chunks import iter_chunks, manifest_of_arrays, sha256_hex
from adpfl.wire.transfers import Chunk
from adpfl_server import receiving
from adpfl_server.blobs import BlobFolder
from adpfl_server.receiving import Reception
from adpfl_server.turns import Turns

CHUNKS = 40


class Threads:
    """What a reception needs of the runner."""

    def __init__(self, folder):
        self.store = self
        self.blobs = BlobFolder(folder)

    async def in_files(self, function, *arguments):
        return await asyncio.to_thread(function, *arguments)


@pytest.fixture
def update():
    values = np.random.default_rng(1).standard_normal(CHUNKS * limits.CHUNK_SIZE_MIN // 4).astype(np.float32)
    arrays = {"weights": values}
    chunks = [Chunk(sha256_hex(data), data) for data in iter_chunks(arrays, limits.CHUNK_SIZE_MIN)]
    return manifest_of_arrays(arrays, chunk_size=limits.CHUNK_SIZE_MIN), chunks


async def arrived(size):
    return


def receive(threads, manifest, parts, missing=None):
    async def stream():
        for part in parts:
            if isinstance(part, Exception):
                raise part
            await asyncio.sleep(0)
            yield part

    async def play():
        digests = tuple(manifest.indices_of) if missing is None else missing
        async with Reception(threads, Turns(), manifest, digests) as reception:
            await reception.take_in(stream(), arrived)
        return reception.missing

    return asyncio.run(play())


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
