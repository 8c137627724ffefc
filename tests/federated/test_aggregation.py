"""The streaming weighted sum against numpy, and what it must refuse."""

import tracemalloc

import numpy as np
import pytest

from adpfl.errors import IntegrityError, ModelMismatchError
from adpfl.federated.aggregation import WeightedUpdate, aggregate, check_update_tensors, is_finite
from adpfl.learning.plan import NetworkPlan
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


# --- updates of some tensors ----------------------------------------------------------------------

SIZES = {"a": 20_000, "b": 3, "c": 5, "d": 40_001, "e": 17_001}


def whole_and_part(names, seed=0):
    store = Chunks()
    generator = np.random.default_rng(seed)
    base = {name: generator.standard_normal(size).astype(np.float32) for name, size in SIZES.items()}
    updates = [
        {name: generator.standard_normal(SIZES[name]).astype(np.float32) for name in names} for _ in range(3)
    ]
    return store, base, updates


@pytest.mark.parametrize(
    "names", [["a"], ["b"], ["e"], ["b", "c"], ["a", "c", "e"], ["b", "d"], ["d"], ["a", "b", "c", "d", "e"]]
)
def test_an_update_of_some_tensors_moves_these_alone(names):
    store, base, updates = whole_and_part(names)
    weights = [0.2, 0.5, 0.3]
    parts = [
        WeightedUpdate(f"s{place}", weight, store.add(update))
        for place, (weight, update) in enumerate(zip(weights, updates, strict=True))
    ]
    result = aggregate(store.add(base), parts, read=store.read, write=store.write)
    expected = dict(base)
    for name in names:
        total = base[name].astype(np.float64)
        for weight, update in zip(weights, updates, strict=True):
            total = total + weight * update[name].astype(np.float64)
        expected[name] = total.astype(np.float32)
    np.testing.assert_array_equal(store.values(result), np.concatenate(list(expected.values())))
    assert result.tensors == manifest_of_arrays(base, chunk_size=CHUNK).tensors


def test_chunks_that_are_frozen_whole_are_neither_read_nor_written():
    store, base, updates = whole_and_part(["b"])
    manifest = store.add(base)
    parts = [WeightedUpdate("s", 1.0, store.add(updates[0]))]
    touched = []

    def read(digest):
        touched.append(digest)
        return store.read(digest)

    result = aggregate(manifest, parts, read=read, write=store.write)
    changed = [
        index
        for index, (old, new) in enumerate(zip(manifest.chunk_digests, result.chunk_digests, strict=True))
        if old != new
    ]
    assert len(changed) == 1
    assert set(touched) == {manifest.chunk_digests[changed[0]], *parts[0].manifest.chunk_digests}


def test_tensors_in_another_order_or_unlike_the_others_are_refused():
    store, base, _ = whole_and_part([])
    manifest = store.add(base)

    def update(site, weight, *names):
        arrays = {name: np.zeros(SIZES[name], np.float32) for name in names}
        return WeightedUpdate(site, weight, store.add(arrays))

    for updates in (
        [update("s", 1.0, "c", "b")],
        [update("s", 0.5, "b"), update("t", 0.5, "b", "c")],
        [update("s", 0.5, "b"), update("t", 0.5, "c")],
    ):
        with pytest.raises(ModelMismatchError):
            aggregate(manifest, updates, read=store.read, write=store.write)


def test_an_announced_update_must_be_the_plans_trainable_tensors():
    zeros = {"features.0.weight": np.zeros(4, np.float32), "head.1.weight": np.zeros(2, np.float32)}
    base = manifest_of_arrays(zeros, chunk_size=CHUNK)
    head = manifest_of_arrays({"head.1.weight": zeros["head.1.weight"]}, chunk_size=CHUNK)
    some, everything = NetworkPlan(trainable=("head",)), NetworkPlan()
    check_update_tensors(head, base, some)
    check_update_tensors(base, base, everything)
    for update, network in ((base, some), (head, everything)):
        with pytest.raises(ModelMismatchError, match=r"stands where the model has|tensors; the model has"):
            check_update_tensors(update, base, network)
    other = manifest_of_arrays({"head.1.weight": zeros["head.1.weight"]}, chunk_size=2 * CHUNK)
    with pytest.raises(ModelMismatchError, match="chunk_size is 131072; the base model has 65536"):
        check_update_tensors(other, base, some)


@pytest.mark.parametrize("names", [["a", "b", "c", "d", "e"], ["b", "d"]])
def test_a_bad_value_anywhere_in_an_update_is_found(names):
    store, base, updates = whole_and_part(names)
    updates[1][names[-1]][-1] = np.nan
    parts = [WeightedUpdate(f"s{n}", 1 / 3, store.add(update)) for n, update in enumerate(updates)]
    with pytest.raises(IntegrityError, match="of the update of s1 has a value that is not finite"):
        aggregate(store.add(base), parts, read=store.read, write=store.write)
