"""Renyi divergences of the noise laws, their sampled form, and the conversion to (epsilon, delta).

Everything here is a function of numbers: no plan, no site, no data. Orders are given as `a`, always above
1. Sources:

- Mironov, "Renyi Differential Privacy", 2017: definition, composition, Proposition 6 (Laplace).
- Mironov, Talwar, Zhang, "Renyi Differential Privacy of the Sampled Gaussian Mechanism", 2019: the sampled
  form.
- Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy", 2020: Proposition 12
  (conversion).
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Curve = NDArray[np.float64]
"""A divergence at each of some orders."""

CurveOf = Callable[[Curve], Curve]
"""Gives the divergence at any orders."""

_SERIES_BELOW: Final = 0.5
_SERIES_TERMS: Final = 18
"""0.5^19 / 19! is under 2^-75 of the leading term: the truncated tail is far below rounding."""

_LARGEST_SUMMED_ORDER: Final = 1 << 17


def default_orders() -> Curve:
    """The orders at which runs are composed, ascending: 1 + 10^-9 to 2^17.

    Between neighbours the ratio of a - 1 is about 1.05, which costs at most 0.03 % of the part of epsilon
    that depends on the order. At an epsilon of hundreds of millions the best order lies near 1.0002; at an
    epsilon of a thousandth, in the ten thousands. From 2 on every whole number up to 64 is there, because
    sampled curves are exact at whole orders.
    """
    ratio = math.log(1.05)
    fine = 1.0 + np.exp(np.arange(math.log(1e-9), math.log(31.0), ratio))
    whole = np.arange(2, 65, dtype=np.float64)
    coarse = np.round(np.exp(np.arange(math.log(64.0), math.log(_LARGEST_SUMMED_ORDER), ratio)))
    return np.unique(np.concatenate([fine, whole, coarse, [float(_LARGEST_SUMMED_ORDER)]]))


def laplace_divergence(orders: Curve, shift: float) -> Curve:
    """D_a between Laplace(0, 1) and Laplace(shift, 1) (Mironov 2017, Proposition 6).

    D_a(t) = 1/(a-1) * ln[ a/(2a-1) * exp((a-1) t) + (a-1)/(2a-1) * exp(-a t) ], the sum of which is 1 + [a
    * h((a-1) t) + (a-1) * h(-a t)] / (2a-1) with h(x) = exp(x) - 1 - x: written so, every term is positive
    and no digits cancel, down to t = 10^-7 and a = 1 + 10^-9. Where exp would overflow, its logarithm is
    used.

    Args:
        orders: a > 1.
        shift: t >= 0, in units of the scale.
    """
    a = orders
    gap = a - 1.0
    exponent = gap * shift
    small = exponent < 30.0
    bounded = np.where(small, exponent, 0.0)
    excess = (a * _exp_less_linear(bounded) + gap * _exp_less_linear(-a * shift)) / (2.0 * a - 1.0)
    near = np.log1p(np.maximum(excess, 0.0))
    far = (
        exponent
        + np.log(a / (2.0 * a - 1.0))
        + np.log1p(gap / a * np.exp(-np.where(small, 0.0, (2.0 * a - 1.0) * shift)))
    )
    value: Curve = np.where(small, near, far) / gap
    return value


def laplace_l2_divergence(orders: Curve, signal: float, dimension: int) -> Curve:
    """R_a of one release with L2 clip C and Laplace noise of scale b in each of `dimension` coordinates.

    R_a = d * D_a(T / sqrt(d)), T = C/b. D_a(sqrt(s)) is concave in s, so by Jensen's inequality no shift of
    L2 norm C is worse than the evenly spread one; for that one the bound is exact. It rises with d towards
    a * T^2 / 2.

    Args:
        orders: a > 1.
        signal: T = C/b > 0.
        dimension: d >= 1.
    """
    return dimension * laplace_divergence(orders, signal / math.sqrt(dimension))


def poisson_sampled(divergence: CurveOf, orders: Curve, probability: float) -> Curve:
    """Divergence of a release over a Poisson sample, from that of the release itself.

    At whole orders a >= 2: R = 1/(a-1) * ln sum_j C(a, j) (1-q)^(a-j) q^j exp((j-1) R_j), exact for
    Gaussian and Laplace noise. (a-1) R(a) is convex and 0 at a = 1, so between whole orders its chord is an
    upper bound. Sampling never costs, so the release's own divergence is another, and near order 1 much the
    better one.

    Args:
        divergence: R_a of the release without sampling.
        orders: a > 1.
        probability: q in (0, 1]; each unit joins independently, by randomness that stays secret.
    """
    unsampled = divergence(orders)
    if probability >= 1.0:
        return unsampled
    lower = np.floor(orders)
    upper = np.ceil(orders)
    summed = np.unique(np.concatenate([lower, upper]))
    summed = summed[(summed >= 2.0) & (summed <= _LARGEST_SUMMED_ORDER)]
    if not summed.size:
        return unsampled
    log_moments = _log_moments(divergence, int(summed[-1]))
    scaled = np.array([_log_sampled_moment(log_moments, int(a), probability) for a in summed])
    knots = np.concatenate([[1.0], summed])
    chord = np.interp(orders, knots, np.concatenate([[0.0], scaled])) / (orders - 1.0)
    within = np.isin(lower, knots) & np.isin(upper, knots)
    bounded: Curve = np.where(within, np.minimum(unsampled, chord), unsampled)
    return bounded


def group_divergence(orders: Curve, single: Curve, records: int) -> Curve:
    """Divergence of a release from one without any of a patient's k records, from that of one record.

    The k records are taken out one at a time, and the steps are joined by the weak triangle inequality
    (Mironov 2017, Proposition 11), for 1/p + 1/q = 1: D_a(P || Q) <= (a - 1/p) / (a - 1) * D_{pa}(P || R) +
    D_{q (a - 1/p)}(R || Q), the best p of a grid at each order. What the other records do is the same on
    both sides of a step, and by joint convexity no worse than its worst case, so each step costs `single`
    whatever is sampled. For a curve a * rho the result is near k^2 * a * rho. Between orders, (a - 1) R(a)
    lies under its chords.

    Args:
        orders: a > 1, ascending; wide enough: order a needs up to about k * a.
        single: divergence of one record, sampled or not, at these orders.
        records: k >= 1.
    """
    knots = np.concatenate([[1.0], orders])
    inverse_p = np.concatenate([np.linspace(0.02, 0.98, 49), [0.001, 0.005, 0.01, 0.99, 0.995, 0.999]])

    def joined(first: Curve, second: Curve) -> Curve:
        def at(curve: Curve, order: Curve) -> Curve:
            scaled = np.interp(order, knots, np.concatenate([[0.0], (orders - 1.0) * curve]), right=math.inf)
            value: Curve = scaled / (order - 1.0)
            return value

        a = orders[:, None]
        through = (a - inverse_p) / (a - 1.0) * at(first, a / inverse_p)
        through = through + at(second, (a - inverse_p) / (1.0 - inverse_p))
        best: Curve = through.min(axis=1)
        return best

    total: Curve | None = None
    power = single
    while True:
        if records & 1:
            total = power if total is None else joined(total, power)
        records >>= 1
        if not records:
            assert total is not None
            return total
        power = joined(power, power)


def epsilon_at(orders: Curve, divergence: Curve, delta: float) -> Curve:
    """Epsilon that each order certifies at `delta`: R + `conversion_overhead`, and never below 0."""
    return np.maximum(divergence + conversion_overhead(orders, delta), 0.0)


def conversion_overhead(orders: Curve, delta: float) -> Curve:
    """What turns a divergence of each order into an epsilon at `delta`.

    ln(1 - 1/a) - (ln delta + ln a) / (a - 1) (Canonne, Kamath, Steinke 2020, Proposition 12).
    """
    gap = orders - 1.0
    value: Curve = np.log(gap / orders) - (math.log(delta) + np.log(orders)) / gap
    return value


def _exp_less_linear(x: Curve) -> Curve:
    """h(x) = exp(x) - 1 - x >= 0, without cancellation near 0: its series there, the plain form elsewhere."""
    tail = np.ones_like(x)
    near = np.clip(x, -_SERIES_BELOW, _SERIES_BELOW)
    for term in range(_SERIES_TERMS, 2, -1):
        tail = 1.0 + near / term * tail
    series = near * near / 2.0 * tail
    value: Curve = np.where(np.abs(x) < _SERIES_BELOW, series, np.expm1(x) - x)
    return value


def _log_moments(divergence: CurveOf, largest: int) -> Curve:
    """(j-1) * R_j for j = 2 .. largest."""
    j = np.arange(2, largest + 1, dtype=np.float64)
    value: Curve = (j - 1.0) * divergence(j)
    return value


def _log_sampled_moment(log_moments: Curve, order: int, probability: float) -> float:
    """Logarithm of sum_j C(a, j) (1-q)^(a-j) q^j M_j, with M_j = exp((j-1) R_j) and M_0 = M_1 = 1.

    The binomial weights sum to 1, so the sum is 1 + sum over j >= 2 of weight * (M_j - 1): nothing cancels
    when sampling is rare and noise is strong.
    """
    j = np.arange(2, order + 1, dtype=np.float64)
    log_weight = (
        gammaln(order + 1.0)
        - gammaln(j + 1.0)
        - gammaln(order - j + 1.0)
        + j * math.log(probability)
        + (order - j) * math.log1p(-probability)
    )
    moment = log_moments[: order - 1]
    # ln(exp(m) - 1), for m from 1e-15 to millions
    log_excess = np.where(moment > 30.0, moment, np.log(np.expm1(np.minimum(moment, 30.0))))
    largest = float(np.max(log_weight + log_excess))
    total = largest + math.log(float(np.sum(np.exp(log_weight + log_excess - largest))))
    return float(np.logaddexp(0.0, total))
