"""From charges (which events, how often) to one epsilon(delta) for all of them together.

Three bounds are valid at once and the least is taken: Renyi composition (every event has a curve, and curves
of equal order add up whatever the mechanisms), privacy loss distributions where every event has one
(`adpfl.privacy.pld`), and the sum of pure epsilons. Central-limit and Gaussian-DP approximations are not
upper bounds and are not used.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import dp_accounting
import numpy as np
from dp_accounting import NeighboringRelation
from dp_accounting.rdp import RdpAccountant

from adpfl.errors import ConfigError, PrivacyError
from adpfl.privacy import pld, renyi
from adpfl.privacy.events import (
    Charge,
    Event,
    ExponentialEvent,
    GaussianEvent,
    LaplaceL1Event,
    LaplaceL2Event,
    RegisteredEvent,
    UnboundedEvent,
)
from adpfl.privacy.registry import require_accounted

ORDERS: Final = renyi.default_orders()
"""Renyi orders at which charges are composed."""

LOG_TOTAL_VARIATION_PER_DRAW: Final = -34.0 * math.log(10.0)
"""Logarithm of the distance between one lattice draw and its ideal law (see `adpfl.kernels.lattice`)."""

_LOG_GAUSSIAN_DRAW: Final = LOG_TOTAL_VARIATION_PER_DRAW + math.log(3.0)
"""The same for a Gaussian draw: a Laplace one for each attempt, made conditional on its acceptance."""

IDEAL_SAMPLER_ONLY: Final = "ideal sampler; no meaningful protection"
"""Stands beside an epsilon so large that the last digits of the noise tables could be told apart."""

_GRID_DELTA: Final = 1e-15


@dataclass(frozen=True)
class Certified:
    """An epsilon that holds for a composition, and how it was found."""

    epsilon: float
    order: float
    """The Renyi order that certified it; infinite where another bound did."""
    caveats: tuple[str, ...] = ()
    accountant: str = "none"
    """`renyi`, `pld` (privacy loss distributions), `pure`, or `none` where nothing was to be accounted."""


class _Bound(NamedTuple):
    epsilon: float
    order: float
    accountant: str


def certify(spent: Iterable[Charge], delta: float, *, order: float | None = None) -> Certified:
    """The least epsilon at `delta` that any valid bound certifies for all charges together.

    An unbounded charge makes epsilon infinite.

    Args:
        spent: what one unit was exposed to.
        delta: in (0, 1). The distance between the lattice's draws and their ideal laws is taken off it
            first; where that is more than a hundredth of it, the figure is the ideal sampler's and a caveat
            says so.
        order: a Renyi order to use alone, as a filter fixed beforehand must; the best of all bounds by
            default.

    Raises:
        PrivacyError: delta is outside (0, 1).
        ConfigError: a registered mechanism is unknown here or has no accounting event.
    """
    if not 0.0 < delta < 1.0:
        raise PrivacyError(f"delta is {delta}; must be above 0 and below 1")
    grouped = _grouped(spent)
    if any(isinstance(event, UnboundedEvent) for event in grouped):
        return Certified(math.inf, math.inf)
    if not grouped:
        return Certified(0.0, math.inf)
    return _certify(tuple(grouped.items()), delta, order)


@lru_cache(maxsize=256)
def _certify(spent: tuple[tuple[Event, int], ...], delta: float, order: float | None) -> Certified:
    grouped = dict(spent)
    total_variation = _log_total_variation(grouped)

    def slack(cautious: float) -> float:
        """Logarithm of TV * (1 + e^epsilon): what comes off delta where epsilon is no more than this."""
        return total_variation + float(np.logaddexp(0.0, cautious))

    # Any valid epsilon at 0.99 delta will do; the Renyi one is the cheapest, and mostly small enough.
    log_slack = slack(_renyi_bound(grouped, 0.99 * delta, order).epsilon)
    if log_slack > math.log(delta / 100.0):
        log_slack = slack(_least_bound(grouped, 0.99 * delta, order).epsilon)
    if log_slack > math.log(delta / 100.0):
        epsilon, best, accountant = _least_bound(grouped, delta, order)
        return Certified(epsilon, best, (IDEAL_SAMPLER_ONLY,), accountant)
    epsilon, best, accountant = _least_bound(grouped, delta - math.exp(log_slack), order)
    return Certified(epsilon, best, (), accountant)


def composed_curve(spent: Iterable[Charge], orders: renyi.Curve = ORDERS) -> renyi.Curve:
    """Renyi divergence of all charges together at each order; infinite if a charge is unbounded."""
    return _curve_of(_grouped(spent), orders)


def divergence(event: Event, orders: renyi.Curve = ORDERS) -> renyi.Curve:
    """Renyi divergence of one event at each order."""
    return np.array(_divergence(event, tuple(orders.tolist())))


# A run repeats few events at the same orders, and a sampled one takes a tenth of a second.
@lru_cache(maxsize=256)
def _divergence(event: Event, orders: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(value) for value in _curve(event, np.array(orders)))


def _curve(event: Event, at: renyi.Curve) -> renyi.Curve:
    """The curve of one event.

    A group of k records that are all in the sum is one record with k times the shift. Under partition that
    is the worst case too, all k in one batch: the divergences are convex in the shift and 0 at 0, so one
    shift of k is no less than k shifts of 1. Under Poisson sampling two bounds hold: k steps of one record
    (`renyi.group_divergence`), and all k at once with probability 1 - (1 - q)^k.
    """
    match event:
        case UnboundedEvent():
            return np.full_like(at, math.inf)
        case ExponentialEvent():
            epsilon = event.epsilon * event.records
            bounded: renyi.Curve = np.minimum(at * epsilon**2 / 8.0, epsilon)
            return bounded
        case RegisteredEvent():
            return _registered_curve(event, at)
    q, records = event.sampling_probability, event.records
    at_once = renyi.poisson_sampled(_unsampled(event, records), at, pld.any_record_probability(q, records))
    if q == 1.0 or records == 1:
        return at_once
    single = renyi.poisson_sampled(_unsampled(event, 1), ORDERS, q)
    one_by_one = renyi.group_divergence(ORDERS, single, records)
    with np.errstate(invalid="ignore"):  # infinite beyond the orders that k steps reach
        between = np.interp(at, ORDERS, (ORDERS - 1.0) * one_by_one) / (at - 1.0)
    least: renyi.Curve = np.fmin(at_once, between)
    return least


def _unsampled(event: LaplaceL2Event | LaplaceL1Event | GaussianEvent, records: int) -> renyi.CurveOf:
    """Divergence of one release that holds all of so many records."""
    shift = event.signal * records
    match event:
        case LaplaceL2Event():
            bit = event.bit_signal * records

            def release(a: renyi.Curve) -> renyi.Curve:
                return renyi.laplace_l2_divergence(a, shift, event.dimension) + a * bit**2 / 2.0

        case LaplaceL1Event():

            def release(a: renyi.Curve) -> renyi.Curve:
                return renyi.laplace_divergence(a, shift)

        case GaussianEvent():

            def release(a: renyi.Curve) -> renyi.Curve:
                return a * (shift**2 / 2.0)

    return release


def _registered_curve(event: RegisteredEvent, at: renyi.Curve) -> renyi.Curve:
    """The curve that `dp_accounting` has for a researcher's event."""
    mechanism = require_accounted(event.mechanism)
    assert mechanism.event is not None
    inner = mechanism.event(event.noise_multiplier, event.dimension)
    if event.sampling_probability < 1.0:
        inner = dp_accounting.PoissonSampledDpEvent(event.sampling_probability, inner)
    accountant = RdpAccountant(list(at), NeighboringRelation.REPLACE_SPECIAL)
    try:
        accountant.compose(inner)
    except dp_accounting.UnsupportedEventError as error:
        raise ConfigError(
            f"privacy.mechanism {event.mechanism}: dp_accounting cannot account for its event {inner}"
        ) from error
    found: renyi.Curve = np.asarray(accountant._rdp, dtype=np.float64)  # noqa: SLF001 - no public accessor
    return found


def pure_epsilon(event: Event) -> float:
    """Epsilon of one event at delta = 0; infinite where it has none.

    sqrt(d) * T for `laplace_l2`: the L1 norm of a vector of L2 norm C is at most sqrt(d) * C. A Poisson
    sample with probability q turns it into ln(1 + q * (exp(epsilon) - 1)). Groups of k records multiply it
    before sampling.
    """
    match event:
        case ExponentialEvent():
            return event.epsilon * event.records
        case LaplaceL2Event() if event.bit_sensitivity == 0:
            epsilon = math.sqrt(event.dimension) * event.signal * event.records
        case LaplaceL1Event():
            epsilon = event.signal * event.records
        case _:
            return math.inf
    q = pld.any_record_probability(event.sampling_probability, event.records)
    if q == 1.0:
        return epsilon
    if epsilon < 1.0:
        return math.log1p(q * math.expm1(epsilon))
    return float(np.logaddexp(math.log1p(-q), math.log(q) + epsilon))


def _least_bound(spent: Mapping[Event, int], delta: float, order: float | None) -> _Bound:
    """The least of the valid bounds; a fixed order uses that order's alone."""
    of_orders = _renyi_bound(spent, delta, order)
    if order is not None:
        return of_orders
    pure = math.fsum(count * pure_epsilon(event) for event, count in spent.items())
    reach = min(pure, _renyi_bound(spent, _GRID_DELTA, None).epsilon)
    bounds = (
        of_orders,
        _Bound(pure, math.inf, "pure"),
        _Bound(pld.epsilon_of(spent, delta, at_most=reach), math.inf, "pld"),
    )
    return min(bounds, key=lambda bound: bound.epsilon)


def _renyi_bound(spent: Mapping[Event, int], delta: float, order: float | None) -> _Bound:
    orders = ORDERS if order is None else np.array([order])
    epsilons = renyi.epsilon_at(orders, _curve_of(spent, orders), delta)
    best = int(np.argmin(epsilons))
    return _Bound(float(epsilons[best]), float(orders[best]), "renyi")


def _curve_of(spent: Mapping[Event, int], orders: renyi.Curve) -> renyi.Curve:
    total = np.zeros_like(orders)
    for event, count in spent.items():
        total = total + count * divergence(event, orders)
    return total


def _log_total_variation(spent: Mapping[Event, int]) -> float:
    """Logarithm of the distance of all draws together from their ideal laws."""
    total = -math.inf
    for event, count in spent.items():
        draw = _LOG_GAUSSIAN_DRAW if isinstance(event, GaussianEvent) else LOG_TOTAL_VARIATION_PER_DRAW
        draws = count * getattr(event, "dimension", 1) + (
            count if getattr(event, "bit_sensitivity", 0) else 0
        )
        total = float(np.logaddexp(total, math.log(draws) + draw))
    return total


def _grouped(spent: Iterable[Charge]) -> dict[Event, int]:
    grouped: dict[Event, int] = {}
    for charge in spent:
        if charge.count:
            grouped[charge.event] = grouped.get(charge.event, 0) + charge.count
    return grouped
