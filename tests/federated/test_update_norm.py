"""The norm of an update from its chunks."""

import numpy as np
import pytest

from adpfl.errors import IntegrityError
from adpfl.federated.update_norm import update_norm
from adpfl.wire.chunks import Manifest, iter_chunks, manifest_of_arrays, sha256_hex

CHUNK = 65_536


def stored(arrays):
    return manifest_of_arrays(arrays, chunk_size=CHUNK), {
        sha256_hex(chunk): chunk for chunk in iter_chunks(arrays, CHUNK)
    }


def test_the_norm_is_that_of_all_coordinates():
    values = np.random.default_rng(1).standard_normal(50_000).astype(np.float32)
    manifest, chunks = stored({"a": values[:30_000].reshape(300, 100), "b": values[30_000:]})
    assert len(manifest.chunk_digests) == 4
    expected = np.linalg.norm(values.astype(np.float64))
    assert update_norm(manifest, chunks.__getitem__) == pytest.approx(expected, rel=1e-14)


def test_equal_chunks_are_read_once_and_counted_at_each_place():
    manifest, chunks = stored({"a": np.ones(3 * CHUNK // 4, np.float32), "b": np.ones(5, np.float32)})
    read = []

    def get(digest):
        read.append(digest)
        return chunks[digest]

    assert update_norm(manifest, get) == pytest.approx(np.sqrt(3 * CHUNK // 4 + 5), rel=1e-14)
    assert len(read) == 2


def test_the_greatest_floats_do_not_overflow():
    top = np.finfo(np.float32).max
    manifest, chunks = stored({"a": np.full(1000, top, np.float32)})
    assert update_norm(manifest, chunks.__getitem__) == pytest.approx(float(top) * np.sqrt(1000), rel=1e-12)


def test_no_update_is_zero():
    manifest, chunks = stored({"a": np.zeros(7, np.float32)})
    assert update_norm(manifest, chunks.__getitem__) == 0.0


@pytest.mark.parametrize("spoiled", [b"", bytes(24), np.full(7, np.nan, "<f4").tobytes()])
def test_a_damaged_chunk_has_no_norm(spoiled):
    manifest, chunks = stored({"a": np.zeros(7, np.float32)})
    with pytest.raises(IntegrityError):
        update_norm(manifest, dict.fromkeys(chunks, spoiled).__getitem__)


def test_an_object_of_the_greatest_number_of_chunks_is_measured():
    chunk = np.ones(CHUNK // 4, "<f4").tobytes()
    real, _ = stored({"a": np.ones(CHUNK // 4, np.float32)})
    digests = real.chunk_digests * 65_536
    tensors = (type(real.tensors[0])("a", (65_536 * CHUNK // 4,)),)
    whole = Manifest(tensors, CHUNK, digests)
    assert update_norm(whole, lambda _digest: chunk) == pytest.approx(2.0**15, rel=1e-12)
