"""Privacy loss distributions: the tight figure where every mechanism of a run has one.

Google's `dp_accounting` builds and composes them; this module chooses the grid, and guards the result.
Covered are the Gaussian (also Poisson-sampled, also with several records a patient, as a mixture of
Gaussians), the L1-clipped Laplace (also Poisson-sampled) and the exponential mechanism (as a pure one). The
L2-clipped Laplace is NOT: `LaplaceDpEvent` means one coordinate and certifies too little for it.

The neighbouring relation is zero-out, which the library calls REPLACE_SPECIAL; its distributions are those of
add-or-remove.

**The grid.** "Connect the dots" discretisation (Doroshenko et al. 2022) gives an upper bound on any grid,
with an error of second order in its step h. Two things set h from below: the composed range must fit a
million cells, and rounding errors of about 1e-16 / h a cell add up over the compositions. So the finest h is
the loss range of one release over 2^14 (2^17 where a rare sample's usual loss is far below that range) or the
composed range over 2^19, whichever is larger; then coarser grids are tried while they give less, and the
least is taken. Rounding moves mass upwards (negative cells are cut to zero), so what is left of it errs to
the safe side; a grid on which it left more than a hundredth in all is not used, and a ten-thousandth of
delta, and 2e-11 for the Fourier transform, are taken off delta besides.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
from dp_accounting import NeighboringRelation
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from dp_accounting.pld import privacy_loss_distribution as pld_library
from dp_accounting.pld import privacy_loss_mechanism as losses
from scipy import stats

from adpfl.privacy.events import Event, ExponentialEvent, GaussianEvent, LaplaceL1Event

Distribution = Any
"""`dp_accounting`'s PrivacyLossDistribution, which has no types."""

SMALLEST_DELTA: Final = 1e-9
"""Below it the Fourier transform's errors are no longer negligible, and Renyi bounds serve alone."""

_FOURIER_DELTA: Final = 2e-11
_DELTA_RESERVE: Final = 1e-4
_FEWEST_CELLS: Final = 1 << 14
_MOST_CELLS: Final = 1 << 17
_MIXTURE_CELLS: Final = 1 << 11  # its cells are inverted one by one
_COMPOSED_CELLS: Final = 1 << 19
_LARGEST_STEP: Final = 600.0  # exp(h) must stay within a double
_TAIL: Final = 1e-16
_MASS_TOLERANCE: Final = 1e-2


def epsilon_of(spent: Mapping[Event, int], delta: float, *, at_most: float) -> float:
    """The least epsilon that privacy loss distributions certify; infinite where they cannot say.

    Args:
        spent: events and how often.
        delta: in (0, 1).
        at_most: an epsilon known to hold at a delta of 1e-15, for the choice of the grid.
    """
    counted = _by_counting(spent, delta)
    if all(_is_one_gaussian(event) for event in spent) or delta < SMALLEST_DELTA:
        return counted
    key = tuple(spent.items())
    step = _finest_step(key, at_most)
    best = math.inf
    # Every grid gives an upper bound. Rounding grows as the step falls and discretisation as it rises:
    # coarser grids are tried for as long as they pay.
    while step <= _LARGEST_STEP:
        found = _epsilon_on(key, _power_of_two(step), (1.0 - _DELTA_RESERVE) * delta - _FOURIER_DELTA)
        if found >= best < math.inf:
            break
        best = found
        step *= 4.0
    return min(counted, best)


def _by_counting(spent: Mapping[Event, int], delta: float) -> float:
    """Exact epsilon of unsampled Gaussians; with other events and Poisson samples, an upper bound.

    Gaussians compose to one Gaussian with T^2 = sum of T_i^2 (Balle, Wang 2018 for its epsilon); pure
    epsilons are added to it. A unit is in more than H of n samples with probability at most delta / 100,
    and which samples it is in may even be revealed: so H releases at 0.99 delta bound it. Almost exact where
    the noise is so weak that sampling hides nothing; and n releases at delta are a bound always.
    """
    if not all(isinstance(event, GaussianEvent | LaplaceL1Event | ExponentialEvent) for event in spent):
        return math.inf
    sampled = sum(_is_sampled(event) for event in spent)
    bound = _of_hits([(event, float(count)) for event, count in spent.items()], delta)
    if not sampled:
        return bound
    likely = [(event, _likely_hits(event, count, 0.01 * delta / sampled)) for event, count in spent.items()]
    return min(bound, _of_hits(likely, 0.99 * delta))


def _of_hits(hits: list[tuple[Event, float]], delta: float) -> float:
    """Epsilon of so many unsampled releases of each event, by a Gaussian and the sum of pure epsilons."""
    squared, pure = 0.0, 0.0
    for event, count in hits:
        match event:
            case GaussianEvent():
                squared += count * _squared(event)
            case LaplaceL1Event():
                pure += count * event.signal * event.records
            case ExponentialEvent():
                pure += count * event.epsilon * event.records
    return _gaussian_epsilon(squared, delta) + pure


def _gaussian_epsilon(squared_signal: float, delta: float) -> float:
    if squared_signal == 0.0:
        return 0.0
    with np.errstate(divide="ignore"):  # the logarithm of a delta of zero
        found = float(get_epsilon_gaussian(1.0 / math.sqrt(squared_signal), delta))
    return found * (1.0 + 1e-11) + 1e-12 if found > 0.0 else 0.0  # the root's own tolerance


def _finest_step(spent: tuple[tuple[Event, int], ...], at_most: float) -> float:
    """The finest grid worth trying; infinite where an event has no distribution."""
    widths = [_loss_range(event) for event, _ in spent]
    if any(math.isinf(width) for width in widths):
        return math.inf
    finest = max(_step_for(event, width) for (event, _), width in zip(spent, widths, strict=True))
    total_range = min(at_most, _range_by_counting(spent))
    return _power_of_two(max(finest, 2.5 * total_range / _COMPOSED_CELLS))


def _epsilon_on(spent: tuple[tuple[Event, int], ...], step: float, delta: float) -> float:
    """Epsilon on one grid; infinite if rounding has left too much mass on it."""
    composed = _composed(spent, step)
    if composed is None:
        return math.inf
    sides = (composed._pmf_remove, composed._pmf_add)  # noqa: SLF001 - the library has no accessor
    return max(_epsilon_of_side(side.to_dense_pmf(), delta) for side in sides)


def _epsilon_of_side(side: Distribution, delta: float) -> float:
    """Least epsilon at delta of one direction, in one sweep over arrays.

    With U and L the masses of losses above a grid point, under the two laws, delta(epsilon) = U - L *
    exp(epsilon) between that point and the next lower one. The library's own search visits cell by cell; it
    serves where exp(-loss) leaves the range of a double. Mass that a numerical failure of the library's
    truncation lost counts as infinite loss.
    """
    if side.size == 0:
        return math.inf
    probabilities = np.flip(side._probs)  # noqa: SLF001 - the library has no accessor
    missing = 1.0 - side._infinity_mass - float(probabilities.sum())  # noqa: SLF001 - as above
    infinite = side._infinity_mass + max(missing, 0.0)  # noqa: SLF001 - as above
    top = (side._lower_loss + side.size - 1) * side._discretization  # noqa: SLF001 - as above
    losses = top - side._discretization * np.arange(side.size)  # noqa: SLF001 - as above
    if max(abs(losses[0]), abs(losses[-1])) > _LARGEST_STEP:
        with np.errstate(over="ignore"):
            return (
                math.inf if infinite > delta else float(side.get_epsilon_for_delta(delta - max(missing, 0.0)))
            )
    if infinite > delta:
        return math.inf
    upper = infinite + np.cumsum(probabilities)
    lower = np.cumsum(probabilities * np.exp(-losses))
    reached = np.flatnonzero(upper - np.exp(losses) * lower > delta)
    # Above the first point whose delta is too large lies the answer, between it and the one before.
    last = int(reached[0]) - 1 if reached.size else side.size - 1
    if last < 0 or upper[last] <= delta:
        return max(float(losses[max(last, 0)]), 0.0)
    return max(math.log((upper[last] - delta) / lower[last]), 0.0)


@lru_cache(maxsize=64)
def _composed(spent: tuple[tuple[Event, int], ...], step: float) -> Distribution | None:
    """The composition on one grid; None if rounding has left too much mass on it."""
    plain = [(event, count) for event, count in spent if not _is_one_gaussian(event)]
    squared = sum(count * _squared(event) for event, count in spent if _is_one_gaussian(event))
    composed: Distribution | None = None
    if squared:
        composed = pld_library.from_gaussian_mechanism(
            1.0 / math.sqrt(squared),
            value_discretization_interval=step,
            neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
        )
    for event, count in plain:
        single = _distribution(event, step)
        if single is None or count * _excess_mass(single) > _MASS_TOLERANCE:
            return None
        repeated = single.self_compose(count) if count > 1 else single
        composed = repeated if composed is None else composed.compose(repeated)
    return composed


@lru_cache(maxsize=64)
def _distribution(event: Event, step: float) -> Distribution | None:
    """One release's distribution on a grid of this step."""
    match event:
        case GaussianEvent() if event.records == 1:
            return pld_library.from_gaussian_mechanism(
                1.0 / event.signal,
                value_discretization_interval=step,
                sampling_prob=event.sampling_probability,
                neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
            )
        case GaussianEvent():
            return pld_library.from_mixture_gaussian_mechanism(
                1.0 / event.signal, *_record_mixture(event), value_discretization_interval=step
            )
        case LaplaceL1Event():
            return pld_library.from_laplace_mechanism(
                1.0 / (event.signal * event.records),
                value_discretization_interval=step,
                sampling_prob=any_record_probability(event.sampling_probability, event.records),
            )
        case ExponentialEvent():
            return pld_library.from_privacy_parameters(
                pld_library.common.DifferentialPrivacyParameters(event.epsilon * event.records),
                value_discretization_interval=step,
            )
        case _:
            return None


def any_record_probability(probability: float, records: int) -> float:
    """1 - (1 - q)^k: that at least one of k records is sampled.

    With one record it is q. With more, "all k are in with this probability, else none" is an upper bound
    for any mechanism whose divergence rises with the shift, because divergences are jointly convex in the
    mixture.
    """
    if probability >= 1.0 or records == 1:
        return probability
    return -math.expm1(records * math.log1p(-probability))


def _record_mixture(event: GaussianEvent) -> tuple[list[float], list[float]]:
    """How many of a patient's k records are in a Poisson sample, and how probably: Binomial(k, q)."""
    counts = range(event.records + 1)
    weights = stats.binom.pmf(counts, event.records, event.sampling_probability)
    return [float(count) for count in counts], [float(weight) for weight in weights]


def _loss_range(event: Event) -> float:
    """Width of one release's privacy loss, tails under exp(-50) cut; infinite where it is not covered."""
    match event:
        case GaussianEvent() if event.records == 1:
            return _gaussian_range(1.0 / event.signal, event.sampling_probability)
        case GaussianEvent():
            signal = event.signal * event.records
            return _gaussian_range(
                1.0 / signal, any_record_probability(event.sampling_probability, event.records)
            )
        case LaplaceL1Event():
            return _laplace_range(event)
        case ExponentialEvent():
            return 2.0 * event.epsilon * event.records
        case _:
            return math.inf


def _laplace_range(event: LaplaceL1Event) -> float:
    """Twice ln(1 + q * (exp(T) - 1)), T of all records together; infinite where the library overflows."""
    reach = event.signal * event.records
    if not _is_sampled(event):
        return 2.0 * reach
    if reach > _LARGEST_STEP:
        return math.inf
    q = any_record_probability(event.sampling_probability, event.records)
    return 2.0 * math.log1p(q * math.expm1(reach))


def _gaussian_range(deviation: float, probability: float) -> float:
    widest = 0.0
    for adjacency in (losses.AdjacencyType.REMOVE, losses.AdjacencyType.ADD):
        loss = losses.GaussianPrivacyLoss(deviation, sampling_prob=probability, adjacency_type=adjacency)
        bounds = loss.connect_dots_bounds()
        widest = max(widest, float(bounds.epsilon_upper - bounds.epsilon_lower))
    return widest


def _range_by_counting(spent: tuple[tuple[Event, int], ...]) -> float:
    """About how far the composed loss reaches, from how often a unit is likely to be sampled."""
    squared, pure = 0.0, 0.0
    for event, count in spent:
        hits = _likely_hits(event, count, _TAIL)
        match event:
            case GaussianEvent():
                squared += hits * _squared(event)
            case LaplaceL1Event():
                pure += hits * event.signal * event.records
            case ExponentialEvent():
                pure += hits * event.epsilon * event.records
    return squared / 2.0 + 9.0 * math.sqrt(squared) + pure


def _likely_hits(event: Event, count: int, tail: float) -> float:
    """How many of `count` releases a unit is sampled for, but with probability `tail`."""
    if not _is_sampled(event):
        return float(count)
    assert isinstance(event, GaussianEvent | LaplaceL1Event)
    q = any_record_probability(event.sampling_probability, event.records)
    return float(min(count, 1 + stats.binom.isf(tail, count, q)))


def _is_sampled(event: Event) -> bool:
    return getattr(event, "sampling_probability", 1.0) < 1.0


def _is_one_gaussian(event: Event) -> bool:
    """Unsampled Gaussians are one Gaussian, without a grid."""
    return isinstance(event, GaussianEvent) and not _is_sampled(event)


def _squared(event: Event) -> float:
    assert isinstance(event, GaussianEvent)
    return (event.signal * event.records) ** 2


def _step_for(event: Event, width: float) -> float:
    """A grid step for one release whose loss is so wide: fine enough for the usual loss of a rare sample."""
    if isinstance(event, GaussianEvent) and event.records > 1:
        return width / _MIXTURE_CELLS
    if isinstance(event, ExponentialEvent) or not _is_sampled(event):
        return width / _FEWEST_CELLS
    assert isinstance(event, GaussianEvent | LaplaceL1Event)
    squared = min((event.signal * event.records) ** 2, 50.0)
    usual = math.sqrt(math.log1p(event.sampling_probability**2 * math.expm1(squared)))
    return width / min(max(width / (0.05 * usual), _FEWEST_CELLS), _MOST_CELLS)


def _excess_mass(distribution: Distribution) -> float:
    """By how much the masses of a distribution sum to more than 1: what rounding has added."""
    sides = (distribution._pmf_remove, distribution._pmf_add)  # noqa: SLF001 - the library has no accessor
    return max(
        float(side.to_dense_pmf()._probs.sum() + side._infinity_mass) - 1.0  # noqa: SLF001 - as above
        for side in sides
    )


def _power_of_two(value: float) -> float:
    """The power of two nearest to a number: few different grids, so that they are shared."""
    if not 0.0 < value < math.inf:
        return value
    return 2.0 ** round(math.log2(value))
