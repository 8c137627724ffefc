"""The streaming weighted sum against numpy, and what it must refuse."""

import tracemalloc

import numpy as np
import pytest

from adpfl.errors import IntegrityError, ModelMismatchError
from adpfl.federated.aggregation import WeightedUpdate, aggregate, is_finite
from adpfl.wire.chunks import Manifest, iter_chunks, manifest_of_arrays, sha256_hex

CHUNK = 65_536


class Chunks:
    """A blob folder in memory."""

    def __init__(self):
        self.data = {}

    def add(self, arrays) -> Manifest:
        for chunk in iter_chunks(arrays, CHUNK):
            self.write(chunk)
        return manifest_of_arrays(arrays, chunk_size=CHUNK)

    def read(self, digest):
        return self.data[digest]

    def write(self, chunk):
        digest = sha256_hex(chunk)
        self.data[digest] = chunk
        return digest

    def values(self, manifest):
        return np.frombuffer(b"".join(self.data[digest] for digest in manifest.chunk_digests), dtype="<f4")


def arrays(seed, sizes=(20_000, 3, 17_001)):
    generator = np.random.default_rng(seed)
    return {f"t{n}": generator.standard_normal(size).astype(np.float32) for n, size in enumerate(sizes)}


def flat(named):
    return np.concatenate(list(named.values())).astype(np.float64)


def test_the_sum_is_numpys_in_double_precision_rounded_once():
    store = Chunks()
    weights = [0.2, 0.5, 0.3]
    base, updates = arrays(0), [arrays(seed) for seed in (1, 2, 3)]
    result = aggregate(
        store.add(base),
        [
            WeightedUpdate(f"s{n}", w, store.add(u))
            for n, (w, u) in enumerate(zip(weights, updates, strict=True))
        ],
        read=store.read,
        write=store.write,
    )
    expected = flat(base)
    for weight, update in zip(weights, updates, strict=True):
        expected = expected + weight * flat(update)
    np.testing.assert_array_equal(store.values(result), expected.astype(np.float32))
    assert result.tensors == manifest_of_arrays(base, chunk_size=CHUNK).tensors


def test_double_precision_keeps_what_single_would_lose():
    store = Chunks()
    base = {"w": np.full(4, 1.0, np.float32)}
    tiny = {"w": np.full(4, 6e-8, np.float32)}
    updates = [WeightedUpdate(f"s{n}", 0.25, store.add(tiny)) for n in range(4)]
    result = aggregate(store.add(base), updates, read=store.read, write=store.write)
    np.testing.assert_array_equal(store.values(result), np.float32(1.0 + 6e-8))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_and_its_site_named(value):
    store = Chunks()
    bad = arrays(1)
    bad["t2"][5] = value
    updates = [WeightedUpdate("a", 0.5, store.add(arrays(2))), WeightedUpdate("b", 0.5, store.add(bad))]
    with pytest.raises(IntegrityError, match="update of b has a value that is not finite"):
        aggregate(store.add(arrays(0)), updates, read=store.read, write=store.write)


def test_a_sum_beyond_float32_is_refused():
    store = Chunks()
    huge = {"w": np.full(4, 3e38, np.float32)}
    with pytest.raises(IntegrityError, match="leaves the range of float32"):
        aggregate(
            store.add(huge), [WeightedUpdate("a", 1.0, store.add(huge))], read=store.read, write=store.write
        )


def test_other_tensors_are_refused():
    store = Chunks()
    with pytest.raises(ModelMismatchError):
        aggregate(
            store.add(arrays(0)),
            [WeightedUpdate("a", 1.0, store.add(arrays(1, (20_000, 4, 17_000))))],
            read=store.read,
            write=store.write,
        )


@pytest.mark.parametrize("weights", [[], [0.5, 0.4], [1.0, 1.0]])
def test_weights_that_are_no_mean_are_refused(weights):
    store = Chunks()
    updates = [WeightedUpdate(f"s{n}", w, store.add(arrays(n))) for n, w in enumerate(weights)]
    with pytest.raises(ValueError, match=r"updates is empty|must be 1"):
        aggregate(store.add(arrays(9)), updates, read=store.read, write=store.write)


def test_a_chunk_of_the_wrong_size_is_refused():
    store = Chunks()
    update = store.add(arrays(1))
    store.data[update.chunk_digests[0]] = b"\0" * 8
    with pytest.raises(IntegrityError, match="has 8 bytes"):
        aggregate(
            store.add(arrays(0)), [WeightedUpdate("a", 1.0, update)], read=store.read, write=store.write
        )


def test_memory_does_not_grow_with_the_number_of_sites():
    chunk = np.zeros(CHUNK // 4, np.float32).tobytes()
    tensors = manifest_of_arrays({"w": np.zeros(64 * CHUNK // 4, np.float32)}, chunk_size=CHUNK)

    def peak(sites):
        updates = [WeightedUpdate(f"s{n}", 1 / sites, tensors) for n in range(sites)]
        tracemalloc.start()
        aggregate(tensors, updates, read=lambda _: bytes(bytearray(chunk)), write=sha256_hex)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    assert peak(64) < 2 * peak(2)
    assert peak(64) < 16 * CHUNK


def test_is_finite():
    assert is_finite(np.ones(4, np.float32).tobytes())
    assert not is_finite(np.array([1, np.nan], np.float32).tobytes())
    assert is_finite(b"")
