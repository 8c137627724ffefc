"""Confidence bounds: known values, coverage on mechanisms whose truth is known, and the blunt ends."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from adpfl.privacy.audit.bounds import (
    epsilon_lower_bound,
    guessing_p_value,
    mu_lower_bound,
    rate_at_least,
    rate_at_most,
)


def test_without_delta_the_p_value_is_a_binomial_tail() -> None:
    # All of 10 guesses right under randomised response with accuracy 3/4: (3/4)^10.
    value = guessing_p_value(canaries=10, guesses=10, correct=10, epsilon=math.log(3.0), delta=0.0)
    assert value == pytest.approx(0.75**10)


def test_delta_adds_its_worst_share() -> None:
    # With one guess, P[1 > W >= 0] / 1 = P[W = 0] = 1/4, times 2 m delta.
    value = guessing_p_value(canaries=50, guesses=1, correct=1, epsilon=math.log(3.0), delta=1e-3)
    assert value == pytest.approx(0.75 + 2 * 50 * 1e-3 * 0.25)


def test_no_correct_guess_says_nothing() -> None:
    assert guessing_p_value(canaries=10, guesses=10, correct=0, epsilon=0.0, delta=0.0) == 1.0
    assert epsilon_lower_bound(canaries=10, guesses=10, correct=5, delta=0.0, error_probability=0.05) == 0.0


def test_perfect_guesses_show_what_their_number_can_show() -> None:
    bound = epsilon_lower_bound(canaries=1000, guesses=1000, correct=1000, delta=0.0, error_probability=0.05)
    accuracy = 0.05 ** (1 / 1000)
    assert bound == pytest.approx(math.log(accuracy / (1 - accuracy)), rel=1e-6)


def test_one_run_bound_covers_randomised_response() -> None:
    """At error probability 0.1 about a tenth of runs may exceed the truth, and no more."""
    epsilon, runs, canaries = 1.0, 400, 500
    correct = np.random.default_rng(0).binomial(canaries, 1 / (1 + math.exp(-epsilon)), runs)
    bounds = np.array(
        [
            epsilon_lower_bound(
                canaries=canaries, guesses=canaries, correct=int(v), delta=0.0, error_probability=0.1
            )
            for v in correct
        ]
    )
    exceeded = int((bounds > epsilon).sum())
    assert 10 <= exceeded <= 64  # 40 expected; five deviations above, and not idle below
    assert float(bounds.mean()) > 0.6


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (3, 20), (20, 20)])
def test_clopper_pearson_limits_leave_the_stated_tail(successes: int, trials: int) -> None:
    low, high = rate_at_least(successes, trials, 0.01), rate_at_most(successes, trials, 0.01)
    assert low <= successes / trials <= high
    if successes:
        assert binom.sf(successes - 1, trials, low) == pytest.approx(0.01)
    if successes == 0:
        assert high == pytest.approx(1 - 0.01 ** (1 / trials))


def test_mu_bound_covers_two_normals() -> None:
    mu, runs, each = 1.0, 300, 1000
    generator = np.random.default_rng(1)
    hits = generator.binomial(each, norm.cdf(mu / 2), runs)
    false_alarms = generator.binomial(each, norm.cdf(-mu / 2), runs)
    bounds = [
        mu_lower_bound(hits=int(h), present=each, false_alarms=int(f), absent=each, error_probability=0.1)
        for h, f in zip(hits, false_alarms, strict=True)
    ]
    assert sum(bound > mu for bound in bounds) <= 45  # at most 30 expected; 45 is far outside its spread
    assert 0.75 < float(np.mean(bounds)) < mu


def test_mu_bound_of_no_difference_or_no_canary_is_zero() -> None:
    assert mu_lower_bound(hits=50, present=100, false_alarms=50, absent=100, error_probability=0.05) == 0.0
    assert mu_lower_bound(hits=0, present=0, false_alarms=0, absent=5, error_probability=0.05) == 0.0
