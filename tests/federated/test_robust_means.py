"""Median and trimmed mean over chunks: against numpy and scipy, with bad sites, in bounded memory."""

import tracemalloc

import numpy as np
import pytest
from scipy.stats import trim_mean

from adpfl.federated import aggregation
from adpfl.federated.aggregation import WeightedUpdate, aggregate
from adpfl.wire.chunks import manifest_of_arrays, sha256_hex

SIZE = 40_003
MEDIAN = {"strategy": "median"}
TRIMMED = {"strategy": "trimmed_mean", "trim_fraction": 0.25}
OF_NUMPY = {
    "median": lambda updates: np.median(updates.astype(np.float64), axis=0),
    "trimmed_mean": lambda updates: trim_mean(updates.astype(np.float64), 0.25, axis=0),
}


def updates_of(sites, seed=0):
    return np.random.default_rng(seed).standard_normal((sites, SIZE)).astype(np.float32)


@pytest.mark.parametrize("rule", [MEDIAN, TRIMMED], ids=["median", "trimmed"])
@pytest.mark.parametrize("sites", [5, 6, 8])
@pytest.mark.parametrize("ranked_bytes", [aggregation.RANKED_BYTES, 10_007])
def test_it_is_numpys_whatever_the_slices(federation, rule, sites, ranked_bytes, monkeypatch):
    monkeypatch.setattr(aggregation, "RANKED_BYTES", ranked_bytes)
    updates = updates_of(sites)
    run = federation(np.zeros(SIZE, np.float32), sites=sites, aggregation=rule)
    run.play(*updates)
    np.testing.assert_allclose(run.model, OF_NUMPY[rule["strategy"]](updates), rtol=2**-23, atol=1e-12)


@pytest.mark.parametrize("rule", [MEDIAN, TRIMMED], ids=["median", "trimmed"])
def test_one_bad_site_cannot_move_the_model_beyond_the_others(federation, rule):
    updates = updates_of(5)
    updates[2] = 1e30
    run = federation(np.zeros(SIZE, np.float32), sites=5, aggregation=rule)
    run.play(*updates)
    honest = np.delete(updates, 2, axis=0)
    assert (run.model >= honest.min(axis=0)).all()
    assert (run.model <= honest.max(axis=0)).all()


@pytest.mark.parametrize("rule", [MEDIAN, TRIMMED], ids=["median", "trimmed"])
def test_a_site_counts_once_however_many_patients_it_declares(federation, rule):
    updates = updates_of(5)
    made = []
    for patients in ([10] * 5, [10_000, 1, 1, 1, 1]):
        run = federation(np.zeros(SIZE, np.float32), sites=5, patients=patients, aggregation=rule)
        run.play(*updates)
        made.append(run.state.model_digest)
    assert made[0] == made[1]


def test_memory_is_bounded_whatever_the_number_of_sites(monkeypatch):
    chunk_bytes, ranked_bytes = 2**20, 2**21
    monkeypatch.setattr(aggregation, "RANKED_BYTES", ranked_bytes)
    chunk = np.zeros(chunk_bytes // 4, np.float32).tobytes()
    model = manifest_of_arrays({"w": np.zeros(2 * chunk_bytes // 4, np.float32)}, chunk_size=chunk_bytes)

    def peak(sites):
        updates = [WeightedUpdate(f"s{n}", 1 / sites, model) for n in range(sites)]
        tracemalloc.start()
        aggregate(
            model, updates, read=lambda _: bytes(bytearray(chunk)), write=sha256_hex, trimmed=sites // 2 - 1
        )
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    assert peak(40) < ranked_bytes + 16 * chunk_bytes < 40 * chunk_bytes


def test_nothing_left_is_an_error():
    model = manifest_of_arrays({"w": np.zeros(4, np.float32)}, chunk_size=65_536)
    updates = [WeightedUpdate(f"s{n}", 0.5, model) for n in range(2)]
    with pytest.raises(ValueError, match="trimmed is 1; must leave some of 2 updates"):
        aggregate(model, updates, read=lambda _: bytes(16), write=sha256_hex, trimmed=1)
