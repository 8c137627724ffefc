"""The private choice of a clip norm: its law, its sensitivity, its draws."""

import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from adpfl.kernels.keystream import KeystreamKey
from adpfl.privacy.exponential import choice_weights, exponential_choice, grid
from adpfl.privacy.plan import ExponentialThreshold

NORMS = np.exp(np.random.default_rng(7).normal(size=60))


def threshold(**changes: object) -> ExponentialThreshold:
    keys = {
        "method": "exponential",
        "epsilon": 0.4,
        "refresh_steps": 1,
        "grid_points": 24,
        "min_clip_norm": 0.05,
        "max_clip_norm": 20.0,
    }
    return ExponentialThreshold.model_validate(keys | changes)


def test_weights_are_the_law_to_sixty_digits() -> None:
    chosen = threshold()
    weights = choice_weights(chosen, NORMS)
    with mpmath.workdps(100):
        utilities = [-abs(int((candidate > NORMS).sum()) - mpmath.mpf(30)) for candidate in grid(chosen)]
        exact = [mpmath.exp(mpmath.mpf("0.4") * utility / 2) for utility in utilities]
        for weight, value in zip(weights, exact, strict=True):
            share = mpmath.mpf(weight) / sum(weights)
            assert abs(share - value / sum(exact)) < mpmath.mpf(10) ** -60


def test_one_unit_changes_no_probability_by_more_than_its_epsilon() -> None:
    chosen = threshold(percentile=30.0)
    whole = np.array(choice_weights(chosen, NORMS), dtype=object)
    for unit in (0, 11, int(np.argmax(NORMS))):
        changed = NORMS.copy()
        changed[unit] = 0.0
        other = np.array(choice_weights(chosen, changed), dtype=object)
        ratios = [
            math.log(a / sum(whole)) - math.log(b / sum(other)) for a, b in zip(whole, other, strict=True)
        ]
        assert max(map(abs, ratios)) <= 0.4
        assert max(ratios) - min(ratios) <= 0.4 + 1e-12  # bounded range, which rho = eps^2 / 8 rests on


def test_choices_follow_the_law() -> None:
    chosen = threshold()
    key = KeystreamKey.from_bytes(bytes(range(32)))
    candidates = grid(chosen).tolist()
    counts = np.zeros(len(candidates))
    for step in range(3000):
        counts[candidates.index(exponential_choice(chosen, NORMS, key=key, step=step))] += 1
    weights = choice_weights(chosen, NORMS)
    right = np.array([weight / sum(weights) for weight in weights])
    sharper = choice_weights(threshold(epsilon=0.5), NORMS)
    wrong = np.array([weight / sum(sharper) for weight in sharper])
    assert stats.chisquare(counts, 3000 * right).pvalue > 1e-3
    assert stats.chisquare(counts, 3000 * wrong).pvalue < 1e-6


def test_a_strong_choice_is_the_percentile() -> None:
    chosen = threshold(epsilon=100.0, percentile=75.0, grid_points=400)
    found = exponential_choice(chosen, NORMS, key=KeystreamKey.fresh(), step=0)
    assert found == pytest.approx(np.quantile(NORMS, 0.75), rel=0.1)


def test_unusable_norms_count_like_zeroed_units_or_above_every_candidate() -> None:
    chosen = threshold()
    with_nan = np.append(NORMS, [math.nan, math.inf])
    same = np.append(NORMS, [0.0, 1e30])
    assert choice_weights(chosen, with_nan) == choice_weights(chosen, same)


def test_no_unit_at_all_still_gives_a_choice() -> None:
    assert exponential_choice(threshold(), np.zeros(0), key=KeystreamKey.fresh(), step=0) in grid(threshold())
