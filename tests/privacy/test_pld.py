"""Epsilon read off a distribution, against the library's own search."""

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.pld.pld_pmf import DensePLDPmf

from adpfl.privacy.pld import _epsilon_of_side, any_record_probability


@pytest.mark.parametrize("delta", [0.3, 1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize(
    ("deviation", "probability", "count"), [(1.0, 0.01, 100), (0.3, 0.01, 10), (9.0, 0.5, 50)]
)
def test_one_sweep_finds_what_the_librarys_search_finds(
    deviation: float, probability: float, count: int, delta: float
) -> None:
    composed = privacy_loss_distribution.from_gaussian_mechanism(
        deviation, value_discretization_interval=1e-3, sampling_prob=probability
    ).self_compose(count)
    for side in (composed._pmf_remove, composed._pmf_add):
        found = _epsilon_of_side(side.to_dense_pmf(), delta)
        assert found == pytest.approx(side.get_epsilon_for_delta(delta), rel=1e-8, abs=1e-10)


def test_mass_that_was_lost_counts_as_infinite_loss() -> None:
    whole = DensePLDPmf(0.1, 0, np.array([0.5, 0.5]), 0.0, True)
    lost = DensePLDPmf(0.1, 0, np.array([0.5, 0.4]), 0.0, True)
    assert math.isfinite(_epsilon_of_side(whole, 0.05))
    assert _epsilon_of_side(lost, 0.05) == math.inf
    assert _epsilon_of_side(DensePLDPmf(0.1, 0, np.zeros(0), 0.0, True), 0.5) == math.inf


def test_some_record_of_a_patient_is_sampled_with_one_minus_all_misses() -> None:
    assert any_record_probability(0.1, 3) == pytest.approx(1 - 0.9**3, rel=1e-14)
    assert any_record_probability(1e-12, 2) == pytest.approx(2e-12, rel=1e-9)
    assert any_record_probability(1.0, 5) == 1.0
