"""The audit's gates: what the canaries' scores prove, held against what was promised.

Three gates:

- Guessing. The one-run lower bound on epsilon may not exceed the ledger's epsilon at the same delta. A
  theorem about any mechanism, and blunt. At the delta of a plan it could not be both certain and strong: a
  mechanism may fail altogether with probability delta for each canary. So of `GUESSING_DELTAS` the one is
  taken at which these canaries could show most beyond the promise.
- Telling apart. The lower bound on mu may not exceed T * sqrt(steps), T = C over the noise scale. It sees a
  factor of two. For a sum of Gaussian noises the limit is met with equality at every threshold. A Laplace
  sum keeps below it from two steps on (its largest ratio is 0.89, for weak signals); a single Laplace
  release does not (1.25), so at least two steps are scored.
- Contribution. No canary may move a step's sum by more than C. It needs no strong noise, so it speaks where
  the others cannot.

All thresholds, shares and error probabilities are fixed before the scores are seen, and the error
probabilities add up to `FALSE_ALARM_PROBABILITY`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import norm

from adpfl.errors import PrivacyError
from adpfl.privacy.audit.bounds import epsilon_lower_bound, mu_lower_bound
from adpfl.privacy.audit.canaries import Canaries, Scores
from adpfl.privacy.audit.report import Gate, Measure, Verdict
from adpfl.privacy.guarantee import Guarantee

FALSE_ALARM_PROBABILITY: Final = 1e-6
"""That an engine which keeps its promise fails. A third goes to each gate, shared equally by its tests."""

GATE_ERROR_PROBABILITY: Final = FALSE_ALARM_PROBABILITY / 3.0

GUESSED_SHARES: Final = (0.02, 0.1, 0.25, 0.5, 1.0)
"""Shares of the canaries that the first gate guesses: those with the clearest scores, or all."""

GUESSING_DELTAS: Final = (1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12)
"""Besides the plan's own. The choice among them looks at the promise alone, never at scores."""

THRESHOLDS: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Where the second gate calls a canary present, in promised scores of a present one. The best places for
defects that enlarge a contribution lie above 1."""

LAPLACE_SHARE: Final = 0.75
"""What a sum of a few Laplace noises shows of its limit on mu at the best threshold: with T = 1, 0.84 after
two steps and 0.74 after six."""

USEFUL_RESOLUTION: Final = 2.0
"""A gate that would miss more than a factor of two says that it cannot tell."""


@dataclass(frozen=True)
class Promise:
    """What the accounting says of the steps that are audited.

    Attributes:
        guarantee: its honest figure.
        signal: T, clip norm over noise scale, exactly as drawn.
        noise_deviation: standard deviation of a coordinate's noise in noise scales: sqrt(2) for Laplace.
        exposures: releases in which one unit takes part at most.
        participation: share of the steps in which one unit takes part on average.
        epsilon_at: the honest epsilon at any delta.
    """

    guarantee: Guarantee
    signal: float
    noise_deviation: float
    exposures: int
    participation: float
    epsilon_at: Callable[[float], float]

    @property
    def mu(self) -> float:
        """T * sqrt(steps), over the steps in which one unit takes part at most."""
        return self.signal * math.sqrt(self.exposures)

    @property
    def visible_mu(self) -> float:
        """What the best threshold shows of `mu`: all of it under Gaussian noise."""
        return self.mu * (LAPLACE_SHARE if self.noise_deviation > 1.0 else 1.0)

    def scored_mu(self, steps: int) -> float:
        """What a correct engine's summed score shows: rare canaries meet the noise of every step."""
        return self.visible_mu * self.participation * math.sqrt(steps / self.exposures)


class Group:
    """The canaries of one family and their scores, apart by coin."""

    def __init__(self, canaries: Canaries, scores: Scores, index: int) -> None:
        ours = canaries.family == index
        self.family = canaries.families[index]
        self.present: Scores = scores[ours & canaries.present]
        self.absent: Scores = scores[ours & ~canaries.present]
        if min(len(self.present), len(self.absent)) < 2:
            raise PrivacyError(f"{len(canaries)} canaries are too few to judge by")

    @property
    def difference(self) -> float:
        """What presence adds to the score, on average."""
        return float(self.present.mean() - self.absent.mean())

    @property
    def standard_error(self) -> float:
        """Of `difference`."""
        return math.sqrt(sum(float(side.var(ddof=1)) / len(side) for side in (self.present, self.absent)))

    def measure(self, promise: Promise, steps: int) -> Measure:
        """Estimates for the reader."""
        return Measure(
            canaries=self.family.name,
            count=len(self.present) + len(self.absent),
            present=len(self.present),
            contribution=self.difference / steps,
            contribution_promised=self.family.contribution,
            noise=float(self.absent.std(ddof=1)) / math.sqrt(steps),
            noise_promised=promise.noise_deviation / promise.signal,
        )


def guessing(canaries: Canaries, scores: Scores, promise: Promise) -> Gate:
    """The first gate: call the highest scores present, the lowest absent, and count.

    Faint canaries stay out of it; their coins are independent of the others', so the theorem holds for these
    alone.
    """
    loud = np.array([family.raw_norm >= 1.0 for family in canaries.families])[canaries.family]
    present = canaries.present[loud][np.argsort(scores[loud], kind="stable")]
    count = len(present)

    def bound(guesses: int, correct: int, delta: float) -> float:
        return epsilon_lower_bound(
            canaries=count,
            guesses=guesses,
            correct=correct,
            delta=delta,
            error_probability=GATE_ERROR_PROBABILITY / len(GUESSED_SHARES),
        )

    promises = {delta: promise.epsilon_at(delta) for delta in (promise.guarantee.delta, *GUESSING_DELTAS)}
    reaches = {delta: bound(count, count, delta) for delta in promises}
    delta = max(promises, key=lambda delta: reaches[delta] / promises[delta])
    shown = 0.0
    for share in GUESSED_SHARES:
        half = int(share * count) // 2
        correct = int((~present[:half]).sum() + present[count - half :].sum())
        shown = max(shown, bound(2 * half, correct, delta))
    promised, reach = promises[delta], reaches[delta]
    return Gate(
        name="guessing",
        quantity=f"epsilon at delta {delta:g}",
        canaries="all" if loud.all() else "all above C",
        shown=shown,
        promised=promised,
        reach=reach,
        resolution=reach / promised if reach > promised else math.inf,
        verdict=_verdict(shown, promised, able=reach > promised),
    )


def telling_apart(group: Group, promise: Promise, steps: int, error_probability: float) -> Gate:
    """The second gate, for canaries of one family.

    Args:
        group: their scores.
        promise: of these steps; a canary of norm s*C with s < 1 is promised s times its mu.
        steps: that were summed.
        error_probability: of the bound at one threshold.
    """
    shown = 0.0
    for threshold in THRESHOLDS:
        at = threshold * group.family.contribution * steps
        bound = mu_lower_bound(
            hits=int((group.present > at).sum()),
            present=len(group.present),
            false_alarms=int((group.absent > at).sum()),
            absent=len(group.absent),
            error_probability=error_probability,
        )
        shown = max(shown, bound)
    promised = promise.mu * group.family.contribution
    fewer = min(len(group.present), len(group.absent))
    scored = promise.scored_mu(steps) * group.family.contribution
    resolution = mu_resolution(promised, scored, fewer, error_probability)
    return Gate(
        name="telling apart",
        quantity="mu",
        canaries=group.family.name,
        shown=shown,
        promised=promised,
        reach=_expected_mu_bound(math.inf, fewer, error_probability),
        resolution=resolution,
        verdict=_verdict(shown, promised, able=resolution <= USEFUL_RESOLUTION),
    )


def contribution(group: Group, promise: Promise, steps: int, error_probability: float) -> Gate:
    """A difference of two means of many scores, taken as normal: good at five deviations of hundreds."""
    margin = float(norm.isf(error_probability)) * group.standard_error / steps
    promised = group.family.contribution
    shown = max(0.0, group.difference / steps - margin)
    resolution = (promised + margin) / (promised * promise.participation)
    return Gate(
        name="contribution",
        quantity="clip norms a step",
        canaries=group.family.name,
        shown=shown,
        promised=promised,
        reach=max(0.0, group.family.raw_norm - margin),
        resolution=resolution,
        verdict=_verdict(shown, promised, able=resolution <= USEFUL_RESOLUTION),
    )


def _verdict(shown: float, promised: float, *, able: bool) -> Verdict:
    if shown > promised:
        return "failed"
    return "passed" if able else "cannot tell"


def error_of_one_test(*, families: int) -> float:
    """What is left of the second gate's error probability for one threshold of one family."""
    return GATE_ERROR_PROBABILITY / (families * len(THRESHOLDS))


def _expected_mu_bound(mu: float, canaries: int, error_probability: float) -> float:
    """The second gate's bound for normal scores mu apart, `canaries` present and as many absent.

    Both counts are taken one deviation worse than expected, so that a resolution is met nearly always.
    """
    rate = float(norm.cdf(mu / 2.0))
    hits = round(rate * canaries - math.sqrt(rate * (1.0 - rate) * canaries))
    return mu_lower_bound(
        hits=hits,
        present=canaries,
        false_alarms=canaries - hits,
        absent=canaries,
        error_probability=error_probability,
    )


def mu_resolution(promised: float, scored: float, canaries: int, error_probability: float) -> float:
    """By what factor normal scores must be further apart than they should for the second gate to fail."""
    for factor in np.geomspace(1.0, 100.0, 200):
        if _expected_mu_bound(float(factor) * scored, canaries, error_probability) > promised:
            return float(factor)
    return math.inf
