"""A mean score that may leave the site: noised on the lattice, charged as an event of its own.

Nothing of this happens unless a plan names the metric and the site's policy allows it. A validation score
looks harmless and is a function of patients all the same: unnoised, two of them from cohorts that differ in
one patient give that patient's score away.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import Field, PositiveFloat

from adpfl.config import FrozenModel
from adpfl.errors import PrivacyError
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale, laplace_draws
from adpfl.privacy.events import Charge, LaplaceL1Event

MAX_EPSILON: Final = 64.0
"""Above it a report gives one patient's score away; a plan that asks for more is a mistake."""


class MetricPlan(FrozenModel):
    """One metric that a plan names: what it is, what each report costs, how often it comes."""

    name: Literal["mean_dice"] = "mean_dice"
    """Mean over the held-out patients of each one's Dice, in [0, 1]."""
    epsilon: Annotated[PositiveFloat, Field(le=MAX_EPSILON)]
    """Pure epsilon of one report: its noise has scale 1 / (n * epsilon), n being the held-out patients."""
    every_rounds: Annotated[int, Field(ge=1)] = 1

    def lattice(self) -> LatticeScale:
        """Scale of the sum's noise and largest contribution of one patient, in lattice units.

        Raises:
            PrivacyError: no lattice carries so small an epsilon.
        """
        return LatticeScale.for_noise_multiplier(1.0 / self.epsilon, law="laplace", order=1)

    def reports(self, rounds: int) -> int:
        """How many reports a run of so many rounds makes."""
        return rounds // self.every_rounds

    def is_due(self, round_number: int) -> bool:
        """Whether a round, counted from 1, ends with a report."""
        return round_number % self.every_rounds == 0

    def charge(self, *, reports: int) -> Charge:
        """What so many reports cost one patient.

        A scalar of sensitivity A under Laplace noise of scale 2^s: pure epsilon A / 2^s, at most `epsilon`.
        """
        lattice = self.lattice()
        event = LaplaceL1Event(sensitivity=lattice.sensitivity, scale_bits=lattice.scale_bits, dimension=1)
        return Charge(event=event, count=reports)


def release_mean(
    scores: Sequence[float | None], metric: MetricPlan, *, key: KeystreamKey, step: int = 0
) -> float:
    """The noised mean of one score a patient, over a public number of patients.

    Each score becomes an integer in 0 .. A (clamped to [0, 1], truncated), so that replacing a patient by
    nothing moves the sum by at most A: 1/n of the mean. The noise is integer Laplace of scale 2^s. What is
    returned is post-processing of the noised sum; it may lie outside [0, 1].

    Args:
        scores: one place for each of the n patients declared; None (excluded) and NaN contribute zero.
        metric: the plan's.
        key: fresh for this report, made for its ledger reservation, wiped afterwards. Never a round's key.
        step: within the key's life; each value at most once.

    Raises:
        PrivacyError: there is no place for any patient, or the key was wiped.
    """
    if not scores:
        raise PrivacyError("scores is empty; must have a place for every patient declared")
    lattice = metric.lattice()
    total = sum(_lattice_score(score, lattice.sensitivity) for score in scores)
    draw = laplace_draws(key, scale_bits=lattice.scale_bits, step=step, first_index=0, count=1)
    return float(2 * total + int(draw[0])) / (2.0 * lattice.sensitivity * len(scores))


def _lattice_score(score: float | None, sensitivity: int) -> int:
    if score is None or math.isnan(score):
        return 0
    # A has at most 41 bits, so the product with a number up to 1 cannot round above A.
    return int(min(max(score, 0.0), 1.0) * sensitivity)
