"""Spread and difference of a few runs, with intervals that know how few they are."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from scipy import stats

from adpfl.config import FrozenModel

CONFIDENCE: Final = 0.95
"""Of every interval in the report."""


class Interval(FrozenModel):
    """A two-sided confidence interval; its ends in the unit of what was measured."""

    low: float
    high: float


class Center(FrozenModel):
    """Mean of one figure over runs, and how far the runs lie apart."""

    mean: float
    deviation: float | None
    """Sample standard deviation (n - 1); None of a single run."""
    n: int

    @property
    def variation(self) -> float | None:
        """Coefficient of variation, deviation over mean; None of a single run or a mean of 0."""
        return None if self.deviation is None or self.mean == 0 else self.deviation / abs(self.mean)


class Difference(FrozenModel):
    """Mean of paired differences, one for each seed that both sides have."""

    mean: float
    interval: Interval | None
    """Student's t over the paired differences; None of a single pair."""
    n: int


def center(values: Sequence[float]) -> Center | None:
    """Mean and sample standard deviation; None of nothing."""
    if not values:
        return None
    return Center(
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
    )


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Ours minus theirs, over the seeds that both hold.

    The runs of one seed share data, split and initial weights, so that pairing takes out what they share.
    The interval is mean -+ t(n - 1) * s / sqrt(n); it supposes that differences are about normal, which three
    of them cannot show.

    Args:
        ours: figure by seed.
        theirs: figure by seed.

    Returns:
        The difference, or None where no seed is in both.
    """
    gaps = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    found = center(gaps)
    if found is None:
        return None
    if found.deviation is None:
        return Difference(mean=found.mean, interval=None, n=found.n)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, found.n - 1)) * found.deviation / math.sqrt(found.n)
    return Difference(
        mean=found.mean, interval=Interval(low=found.mean - reach, high=found.mean + reach), n=found.n
    )


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Ours over theirs; None where either is missing or theirs is 0."""
    return None if ours is None or theirs is None or theirs == 0 else ours / theirs


def ratio_interval(ratio: float | None, ours: int, theirs: int) -> Interval | None:
    """What the ratio of two standard deviations may be, when samples of these sizes have shown it.

    The F distribution's interval: it supposes normal laws and samples that are independent of each other.

    Args:
        ratio: ours over theirs, as found.
        ours: values in the numerator's sample.
        theirs: values in the denominator's.

    Returns:
        The interval, or None where there is no ratio or a sample has fewer than two values.
    """
    above, below = chance_ratio(ours, theirs), chance_ratio(theirs, ours)
    if ratio is None or above is None or below is None:
        return None
    return Interval(low=ratio / above, high=ratio * below)


def chance_ratio(first: int, second: int) -> float | None:
    """How far apart two equal standard deviations look by chance alone.

    The square root of the F distribution's upper 2.5% point: between two samples of `first` and `second`
    values of one normal law, the ratio of standard deviations exceeds it in 2.5% of cases, and lies under
    its inverse in another 2.5%. None where a sample has fewer than two values.
    """
    if min(first, second) < 2:
        return None
    return math.sqrt(float(stats.f.ppf((1 + CONFIDENCE) / 2, first - 1, second - 1)))
