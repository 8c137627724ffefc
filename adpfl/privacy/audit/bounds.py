"""Lower bounds on what an adversary learns, from counts of right and wrong guesses. Numbers in, numbers out.

Sources:

- Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", 2023: Theorem 5.2.
- Clopper, Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case of the Binomial", 1934.
- Dong, Roth, Su, "Gaussian Differential Privacy", 2019: mu as a pair of error rates.
"""

import math
from functools import lru_cache
from typing import Final

import numpy as np
from scipy.stats import beta, binom, norm

_LARGEST_EPSILON: Final = 60.0
"""No number of canaries that fits a machine certifies more: exp(60) guesses would have to be right."""

_BISECTIONS: Final = 50


def guessing_p_value(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """How probable so many correct guesses are, at most, if the mechanism is (epsilon, delta)-DP.

    Steinke et al. 2023, Theorem 5.2: m canaries are each present with probability 1/2, an adversary sees one
    output of one run and commits to r guesses. With W ~ Binomial(r, e^epsilon / (1 + e^epsilon)),

        P[correct >= v] <= P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i.

    It needs no independence between the canaries' scores: the mechanism may mix them as it likes.

    Args:
        canaries: m.
        guesses: r <= m, fixed before the scores are seen.
        correct: v <= r.
        epsilon: of the hypothesis; >= 0.
        delta: of the hypothesis; in [0, 1].

    Returns:
        A probability; 1 where nothing can be said.
    """
    accuracy = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, accuracy))
    if correct == 0:
        return 1.0
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, accuracy))
    steepest = float(np.max(below / np.arange(1, correct + 1)))
    return min(1.0, tail + 2.0 * canaries * delta * steepest)


# The same few counts are asked for at every audit: what an engine without noise would give.
@lru_cache(maxsize=1024)
def epsilon_lower_bound(
    *, canaries: int, guesses: int, correct: int, delta: float, error_probability: float
) -> float:
    """The largest epsilon that the guesses refute: the mechanism is not (epsilon', delta)-DP below it.

    Args:
        canaries: m.
        guesses: r.
        correct: v.
        delta: at which epsilon is stated.
        error_probability: that the bound is above the mechanism's true epsilon.

    Returns:
        0 where the guesses refute nothing.
    """

    def refuted(epsilon: float) -> bool:
        p_value = guessing_p_value(
            canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta
        )
        return p_value <= error_probability

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, _LARGEST_EPSILON
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def rate_at_least(successes: int, trials: int, error_probability: float) -> float:
    """Clopper-Pearson lower limit of a rate, exact for independent trials."""
    if successes == 0:
        return 0.0
    return float(beta.ppf(error_probability, successes, trials - successes + 1))


def rate_at_most(successes: int, trials: int, error_probability: float) -> float:
    """Clopper-Pearson upper limit of a rate, exact for independent trials."""
    if successes == trials:
        return 1.0
    return float(beta.ppf(1.0 - error_probability, successes + 1, trials - successes))


def mu_lower_bound(
    *, hits: int, present: int, false_alarms: int, absent: int, error_probability: float
) -> float:
    """The least mu of Gaussian DP that allows these two error rates: how far apart the two worlds are.

    A mechanism is mu-GDP if telling the worlds apart is as hard as telling N(0, 1) from N(mu, 1); any test
    with rate `hits` / `present` where the unit is present and `false_alarms` / `absent` where it is not then
    satisfies mu >= Phi^-1(hit rate) - Phi^-1(false alarm rate).

    Args:
        hits: present canaries that were called present.
        present: canaries that were present.
        false_alarms: absent canaries that were called present.
        absent: canaries that were absent.
        error_probability: that the bound is above the test's true mu; halved between the two rates.

    Returns:
        0 where nothing is shown.
    """
    if present == 0 or absent == 0:
        return 0.0
    half = error_probability / 2.0
    hit_rate = rate_at_least(hits, present, half)
    false_alarm_rate = rate_at_most(false_alarms, absent, half)
    return max(0.0, float(norm.ppf(hit_rate) - norm.ppf(false_alarm_rate)))
