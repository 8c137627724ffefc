import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from adpfl.kernels.keystream import KeystreamKey
from adpfl.privacy.plan import Sampling
from adpfl.privacy.sampling import (
    expected_units,
    partition_batch,
    poisson_sample,
    releases_seen,
    shuffled_order,
    steps_per_epoch,
)

KEY = bytes(range(32))


def test_poisson_takes_each_unit_at_its_rate_independently() -> None:
    with KeystreamKey.from_bytes(KEY) as key:
        drawn = np.zeros((400, 500), dtype=bool)
        for step in range(400):
            drawn[step, poisson_sample(key, step=step, unit_count=500, probability=0.1)] = True
    total = int(drawn.sum())
    assert stats.binomtest(total, drawn.size, 0.1).pvalue > 1e-4
    assert stats.binomtest(total, drawn.size, 0.102).pvalue < 0.05  # a rate 2 % off would be seen
    sizes = drawn.sum(axis=1)
    assert stats.chi2.sf(np.sum((sizes - 50) ** 2) / 45, 400) > 1e-4  # batch sizes vary as a binomial's do
    assert stats.chi2.cdf(np.sum((sizes - 50) ** 2) / 45, 400) > 1e-4


def test_poisson_gives_the_same_for_the_same_step_and_another_for_another() -> None:
    with KeystreamKey.from_bytes(KEY) as key:
        first = poisson_sample(key, step=3, unit_count=100, probability=0.5)
        assert np.array_equal(first, poisson_sample(key, step=3, unit_count=100, probability=0.5))
        assert not np.array_equal(first, poisson_sample(key, step=4, unit_count=100, probability=0.5))


def test_poisson_with_certainty_takes_all_and_a_rare_sample_may_be_empty() -> None:
    with KeystreamKey.from_bytes(KEY) as key:
        everyone = poisson_sample(key, step=0, unit_count=50, probability=1.0)
        nobody = poisson_sample(key, step=0, unit_count=50, probability=1e-12)
    assert np.array_equal(everyone, np.arange(50))
    assert nobody.shape == (0,)


@given(st.integers(1, 200), st.fractions(min_value="1/40", max_value=1))
def test_batches_of_an_epoch_are_disjoint_and_about_qn(unit_count: int, rate: object) -> None:
    sampling = Sampling(mode="partition", probability=float(rate))  # type: ignore[arg-type]
    with KeystreamKey.from_bytes(KEY) as key:
        order = shuffled_order(key, step=0, unit_count=unit_count)
    assert sorted(order.tolist()) == list(range(unit_count))
    batches = [
        partition_batch(sampling, order, position=position) for position in range(steps_per_epoch(sampling))
    ]
    seen = np.concatenate(batches)
    assert len(set(seen.tolist())) == len(seen)
    assert all(abs(len(batch) - expected_units(sampling, unit_count)) <= 1 for batch in batches)


def test_thirds_leave_no_unit_out() -> None:
    sampling = Sampling(mode="partition", probability=1 / 3)
    batches = [partition_batch(sampling, np.arange(100), position=position) for position in range(3)]
    assert sorted(len(batch) for batch in batches) == [33, 33, 34]


@pytest.mark.parametrize(
    ("probability", "epoch"), [(0.1, 10), (0.3, 3), (1.0, 1), (1 / 3, 3), (0.7, 1), (1e-3, 1000)]
)
def test_steps_of_an_epoch(probability: float, epoch: int) -> None:
    assert steps_per_epoch(Sampling(mode="partition", probability=probability)) == epoch


@given(st.lists(st.integers(1, 17), min_size=1, max_size=30), st.sampled_from([0.1, 0.3, 0.25, 1.0]))
def test_rounds_in_sequence_add_up_to_the_epochs_of_the_whole_run(
    rounds: list[int], probability: float
) -> None:
    sampling = Sampling(mode="partition", probability=probability)
    taken = charged = 0
    for steps in rounds:
        charged += releases_seen(sampling, first_step=taken, steps=steps)
        taken += steps
    assert charged == releases_seen(sampling, first_step=0, steps=taken)
    assert charged == -(-taken // steps_per_epoch(sampling))


def test_a_repeated_window_charges_every_epoch_that_it_touches() -> None:
    sampling = Sampling(mode="partition", probability=0.1)
    assert releases_seen(sampling, first_step=5, steps=5) == 0  # the second half of an epoch paid for already
    assert releases_seen(sampling, first_step=5, steps=5, repeated=True) == 1
    assert releases_seen(sampling, first_step=5, steps=10, repeated=True) == 2


@pytest.mark.parametrize("mode", ["poisson", "full"])
def test_every_step_counts_without_epochs(mode: str) -> None:
    assert releases_seen(Sampling(mode=mode), first_step=7, steps=12) == 12
