"""The exponential mechanism over a grid of clip norms, in exact arithmetic (McSherry, Talwar 2007).

Candidates y are a log grid from `min_clip_norm` to `max_clip_norm`. Utility u(y) = -|#{x < y} - p * n| over
all n units: replacing one unit by zero moves it by at most 1. P(y) proportional to exp(epsilon * u / 2) is
epsilon-DP of bounded range epsilon, hence zCDP with rho = epsilon^2 / 8.

The law is realised in integers: exponents are fractions, weights exp(.) are computed by correctly rounded
decimal arithmetic and cut to integers over 2^256, relative to the best candidate's, and one 256-bit word of
keystream picks a candidate by its place in their sum. Its distance from the ideal law is below
4097 * 2^-255 a choice, and no floating-point number stands between the data and the draw.
"""

from decimal import Context, Decimal
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from adpfl.kernels.keystream import Domain, KeystreamKey, nonce, words
from adpfl.privacy.plan import ExponentialThreshold

_WEIGHT_BITS: Final = 256
_WORDS: Final = _WEIGHT_BITS // 32
_EXACT: Final = Context(prec=120, Emin=-(10**9), Emax=10**9)
_SEGMENT: Final = 2  # beside the two streams of the noisy bit, though a plan has one or the other


def grid(threshold: ExponentialThreshold) -> NDArray[np.float64]:
    """The candidates, rising."""
    return np.geomspace(threshold.min_clip_norm, threshold.max_clip_norm, threshold.grid_points)


def exponential_choice(
    threshold: ExponentialThreshold, norms: NDArray[np.float64], *, key: KeystreamKey, step: int
) -> float:
    """A clip norm near the percentile of the norms, chosen privately.

    Args:
        threshold: the plan's.
        norms: (n,), of ALL the site's units; NaN ones count as zero, as a zeroed unit does.
        key: the secret key.
        step: the step within the key's life; one choice each.

    Returns:
        One of the candidates.
    """
    candidates = grid(threshold)
    weights = choice_weights(threshold, norms)
    stream = words(key, nonce(Domain.THRESHOLD, step=step, segment=_SEGMENT), 0, _WORDS)
    uniform = sum(int(word) << 32 * place for place, word in enumerate(stream))
    mark = uniform * sum(weights) >> _WEIGHT_BITS
    for candidate, weight in zip(candidates, weights, strict=True):
        if mark < weight:
            return float(candidate)
        mark -= weight
    raise AssertionError("a mark lies below the sum of the weights")


def choice_weights(threshold: ExponentialThreshold, norms: NDArray[np.float64]) -> list[int]:
    """Integer weights of the candidates, in proportion to their probabilities."""
    ranked = np.sort(np.where(np.isnan(norms), 0.0, norms))
    below = np.searchsorted(ranked, grid(threshold), side="left")
    target = Fraction(repr(float(threshold.percentile))) * len(norms) / 100
    distances = [abs(int(count) - target) for count in below]
    nearest = min(distances)
    half = Fraction(repr(float(threshold.epsilon))) / 2
    return [_weight(half * (distance - nearest)) for distance in distances]


def _weight(exponent: Fraction) -> int:
    """floor(2^256 * exp(-exponent))."""
    power = _EXACT.exp(_EXACT.divide(Decimal(-exponent.numerator), Decimal(exponent.denominator)))
    return int(_EXACT.multiply(power, Decimal(1 << _WEIGHT_BITS)))
