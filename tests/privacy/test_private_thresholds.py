"""Noisy bits and noisy slack: what one unit can move, and where they lead."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adpfl.kernels.lattice import LatticeScale
from adpfl.privacy.clipping import clipped_lattice_sum
from adpfl.privacy.plan import NoisyBitsThreshold, SlackThreshold
from adpfl.privacy.thresholds import (
    ThresholdState,
    after_noisy_bits,
    after_slack,
    bit_sum,
    choose_clip_norm,
    slack_sum,
)

BITS = NoisyBitsThreshold(method="noisy_bits")
SLACK = SlackThreshold(method="slack")
K = 10


def test_bits_count_units_under_the_clip_against_those_above() -> None:
    assert bit_sum(np.array([0.5, 1.0, 1.5, 2.0, 9.0]), 1.0) == 2 - 3
    assert bit_sum(np.zeros(0), 1.0) == 0


@pytest.mark.parametrize("norm", [0.0, math.nan, math.inf])
def test_a_zeroed_or_unusable_unit_gives_neither_bit_nor_slack(norm: float) -> None:
    others = np.array([0.5, 2.0])
    assert bit_sum(np.append(others, norm), 1.0) == bit_sum(others, 1.0)
    with_it = slack_sum(np.append(others, norm), clip_norm=1.0, sensitivity=10**6, coordinates=K, order=2)
    assert np.array_equal(
        with_it, slack_sum(others, clip_norm=1.0, sensitivity=10**6, coordinates=K, order=2)
    )


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-6, 1e3), st.floats(1e-3, 10.0), st.sampled_from([1, 2]), st.integers(0, 2**31))
def test_gradient_and_slack_together_stay_within_the_sensitivity(
    norm: float, clip_norm: float, order: int, seed: int
) -> None:
    """In integers, exactly: one unit's whole contribution has norm at most A."""
    lattice = LatticeScale(30, 2**30 - 12345)
    rows = torch.randn(1, 7, generator=torch.Generator().manual_seed(seed))
    rows *= norm / float(torch.linalg.vector_norm(rows, ord=order))
    summed = clipped_lattice_sum([[rows]], clip_norm=clip_norm, lattice=lattice, dimension=7, order=order)
    slack = slack_sum(
        summed.norms, clip_norm=clip_norm, sensitivity=lattice.sensitivity, coordinates=K, order=order
    )
    parts = [*summed.total.tolist(), *slack.tolist()]
    assert min(slack.tolist()) >= 0
    if order == 1:
        assert sum(map(abs, parts)) <= lattice.sensitivity
    else:
        assert sum(part * part for part in parts) <= lattice.sensitivity**2


@pytest.mark.parametrize("order", [1, 2])
def test_slack_fills_its_coordinates_one_after_the_other(order: int) -> None:
    capacity = 1.0 / math.sqrt(K) if order == 2 else 1.0 / K
    found = slack_sum(np.array([0.75]), clip_norm=1.0, sensitivity=10**9, coordinates=K, order=order) / 1e9
    expected = capacity * np.array([1.0, 1.0, 0.5, 0, 0, 0, 0, 0, 0, 0])
    assert found == pytest.approx(expected, abs=1e-8)
    full = slack_sum(np.array([1e-9]), clip_norm=1.0, sensitivity=10**9, coordinates=K, order=order) / 1e9
    assert full == pytest.approx(np.full(K, capacity), abs=1e-8)
    assert not slack_sum(np.array([7.0]), clip_norm=1.0, sensitivity=10**9, coordinates=K, order=order).any()


def test_c_rises_while_too_few_lie_under_it_and_falls_while_too_many() -> None:
    m = 40.0
    rising = after_noisy_bits(BITS, 1.0, -m / 2, m).last_clip_norm
    falling = after_noisy_bits(BITS, 1.0, m / 2, m).last_clip_norm
    assert rising == pytest.approx(math.exp(0.1))
    assert falling == pytest.approx(math.exp(-0.1))
    assert after_noisy_bits(BITS, 1.0, 0.0, m).last_clip_norm == 1.0


def test_c_stays_between_its_bounds_whatever_the_noise_says() -> None:
    bounded = NoisyBitsThreshold(method="noisy_bits", min_clip_norm=0.5, max_clip_norm=2.0)
    assert after_noisy_bits(bounded, 1.0, 1e300, 1.0).last_clip_norm == 0.5
    assert after_noisy_bits(bounded, 1.0, -1e300, 1.0).last_clip_norm == 2.0


@pytest.mark.parametrize("percentile", [20.0, 50.0, 80.0])
@pytest.mark.parametrize("start", [0.01, 100.0])
@pytest.mark.parametrize("method", ["noisy_bits", "slack"])
def test_without_noise_c_comes_to_the_percentile(method: str, start: float, percentile: float) -> None:
    norms = np.exp(np.random.default_rng(3).normal(size=500))
    clip_norm = start
    for _ in range(400):
        if method == "noisy_bits":
            bits = NoisyBitsThreshold(method="noisy_bits", percentile=percentile)
            state = after_noisy_bits(bits, clip_norm, bit_sum(norms, clip_norm) / 2, 500.0)
        else:
            slack = SlackThreshold(method="slack", percentile=percentile)
            total = slack_sum(norms, clip_norm=clip_norm, sensitivity=2**30, coordinates=K, order=2)
            state = after_slack(slack, clip_norm, total * (clip_norm / 2**30), expected_units=500.0, order=2)
        assert state.last_clip_norm is not None
        clip_norm = state.last_clip_norm
    # Slack's first coordinate averages over the top tenth of C.
    assert np.quantile(norms, percentile / 100) == pytest.approx(clip_norm, rel=0.12)


def test_slack_falls_faster_the_further_down_the_norms_lie() -> None:
    def next_clip(norm: float) -> float:
        total = slack_sum(np.full(50, norm), clip_norm=1.0, sensitivity=2**30, coordinates=K, order=2)
        state = after_slack(SLACK, 1.0, total / 2**30, expected_units=50.0, order=2)
        assert state.last_clip_norm is not None
        return state.last_clip_norm

    assert next_clip(0.05) < next_clip(0.5) < next_clip(0.85) < 1.0 < next_clip(3.0)


@pytest.mark.parametrize("threshold", [BITS, SLACK])
def test_the_initial_clip_norm_serves_first_and_the_released_one_after(
    threshold: NoisyBitsThreshold | SlackThreshold,
) -> None:
    assert choose_clip_norm(threshold, np.zeros(0), ThresholdState())[0] == 1.0
    assert choose_clip_norm(threshold, np.zeros(0), ThresholdState(last_clip_norm=0.3))[0] == 0.3
