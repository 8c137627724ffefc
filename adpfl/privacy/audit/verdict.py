"""What the canaries' scores prove, held against what was promised.

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
from adpfl.privacy.audit.canaries import Canaries, Family, Scores
from adpfl.privacy.audit.report import AuditReport, Gate, Measure, Verdict
from adpfl.privacy.guarantee import Guarantee

FALSE_ALARM_PROBABILITY: Final = 1e-6
"""That an engine which keeps its promise fails. A third goes to each gate, shared equally by its tests."""

MIN_STEPS: Final = 2

GUESSED_SHARES: Final = (0.02, 0.1, 0.25, 0.5, 1.0)
"""Shares of the canaries that the first gate guesses: those with the clearest scores, or all."""

GUESSING_DELTAS: Final = (1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12)
"""Besides the plan's own. The choice among them looks at the promise alone, never at scores."""

THRESHOLDS: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Where the second gate calls a canary present, in promised scores of a present one. The best places for
defects that enlarge a contribution lie above 1."""

LOUD_NORM: Final = 3.0
"""Raw norm of an ordinary canary in clip norms: a clip that does nothing shows."""

FAINT_MU: Final = 1.5
"""What faint canaries are promised to be worth under the second gate, where it measures best."""

USEFUL_RESOLUTION: Final = 2.0
"""A gate that would miss more than a factor of two says that it cannot tell."""

_SHARE: Final = FALSE_ALARM_PROBABILITY / 3.0


@dataclass(frozen=True)
class Promise:
    """What the accounting says of the steps that are audited.

    Attributes:
        guarantee: its honest figure.
        signal: T, clip norm over noise scale, exactly as drawn.
        noise_deviation: standard deviation of a coordinate's noise in noise scales: sqrt(2) for Laplace.
        exposures: releases in which one unit takes part at most.
        epsilon_at: the honest epsilon at any delta.
    """

    guarantee: Guarantee
    signal: float
    noise_deviation: float
    exposures: int
    epsilon_at: Callable[[float], float]

    @property
    def mu(self) -> float:
        """T * sqrt(steps)."""
        return self.signal * math.sqrt(self.exposures)


def families_for(promise: Promise, *, canaries: int) -> tuple[Family, ...]:
    """The kinds of canaries that can tell something about such a promise.

    Loud ones, three clip norms long, always. Where even a correct engine would give these away beyond what
    so many canaries can measure, faint ones too: they lie below the clip and see the noise alone.
    """
    loud = tuple(Family(alternating=alternating, raw_norm=LOUD_NORM) for alternating in (False, True))
    if _mu_resolution(promise.mu, canaries // 4, _error_of_one_test(families=2)) <= USEFUL_RESOLUTION:
        return loud
    share = min(1.0, FAINT_MU / promise.mu)
    # So weak a noise hides nothing of a contribution: few loud canaries do, and faint ones need numbers.
    faint = tuple(Family(alternating=alternating, raw_norm=share, weight=4) for alternating in (False, True))
    return loud + faint if share < 1.0 else loud


def judge(canaries: Canaries, scores: Scores, *, promise: Promise, steps: int) -> AuditReport:
    """Hold the scores against the promise.

    Args:
        canaries: as drawn, with their coins.
        scores: (m,): summed over steps, in clip norms; see `CanaryEngine.scores`.
        promise: of exactly these steps.
        steps: releases that were scored.

    Raises:
        PrivacyError: fewer than two steps were scored, or nothing finite was promised.
    """
    check_auditable(promise, steps)
    groups = [_Group(canaries, scores, index) for index in range(len(canaries.families))]
    gates = [_guessing(canaries, scores, promise)]
    for group in groups:
        gates.append(_telling_apart(group, promise, steps, _error_of_one_test(families=len(groups))))
        gates.append(_contribution(group, steps, _SHARE / len(groups)))
    return AuditReport(
        verdict=_overall(gates),
        gates=tuple(gates),
        measures=tuple(group.measure(promise, steps) for group in groups),
        guarantee=promise.guarantee,
        noise_multiplier=1.0 / promise.signal,
        canaries=len(canaries),
        steps=steps,
        false_alarm_probability=FALSE_ALARM_PROBABILITY,
        remarks=_remarks(gates, canaries, promise),
    )


def check_auditable(promise: Promise, steps: int) -> None:
    """Refuse steps and promises that no audit could say anything about.

    Raises:
        PrivacyError: fewer than two steps, or an infinite epsilon.
    """
    if steps < MIN_STEPS:
        raise PrivacyError(f"steps is {steps}; must be at least {MIN_STEPS}: one Laplace release exceeds mu")
    if math.isinf(promise.guarantee.epsilon):
        raise PrivacyError("the honest epsilon is infinite: no audit of it can fail, so none is made")


class _Group:
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
        return Measure(
            canaries=self.family.name,
            count=len(self.present) + len(self.absent),
            present=len(self.present),
            contribution=self.difference / steps,
            contribution_promised=self.family.contribution,
            noise=float(self.absent.std(ddof=1)) / math.sqrt(steps),
            noise_promised=promise.noise_deviation / promise.signal,
        )


def _guessing(canaries: Canaries, scores: Scores, promise: Promise) -> Gate:
    loud = np.array([family.raw_norm >= 1.0 for family in canaries.families])[canaries.family]
    present = canaries.present[loud][np.argsort(scores[loud], kind="stable")]
    count = len(present)

    def bound(guesses: int, correct: int, delta: float) -> float:
        return epsilon_lower_bound(
            canaries=count,
            guesses=guesses,
            correct=correct,
            delta=delta,
            error_probability=_SHARE / len(GUESSED_SHARES),
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


def _telling_apart(group: _Group, promise: Promise, steps: int, error_probability: float) -> Gate:
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
    resolution = _mu_resolution(promised, fewer, error_probability)
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


def _contribution(group: _Group, steps: int, error_probability: float) -> Gate:
    """A difference of two means of many scores, taken as normal: good at five deviations of hundreds."""
    margin = float(norm.isf(error_probability)) * group.standard_error / steps
    promised = group.family.contribution
    shown = max(0.0, group.difference / steps - margin)
    resolution = (promised + margin) / promised
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


def _overall(gates: list[Gate]) -> Verdict:
    """Passed needs a sharp second gate and a sharp third one; the first adds to them where it can."""
    if any(gate.verdict == "failed" for gate in gates):
        return "failed"
    able = {gate.name for gate in gates if gate.verdict == "passed"}
    return "passed" if {"telling apart", "contribution"} <= able else "cannot tell"


def _error_of_one_test(*, families: int) -> float:
    return _SHARE / (families * len(THRESHOLDS))


def _expected_mu_bound(mu: float, canaries: int, error_probability: float) -> float:
    """The second gate's bound for normal scores that are mu apart, `canaries` present and as many absent."""
    hits = round(float(norm.cdf(mu / 2.0)) * canaries)
    return mu_lower_bound(
        hits=hits,
        present=canaries,
        false_alarms=canaries - hits,
        absent=canaries,
        error_probability=error_probability,
    )


def _mu_resolution(promised: float, canaries: int, error_probability: float) -> float:
    """By what factor normal scores must be further apart than promised before the second gate fails them."""
    for factor in np.geomspace(1.0, 100.0, 200):
        if _expected_mu_bound(float(factor) * promised, canaries, error_probability) > promised:
            return float(factor)
    return math.inf


def _remarks(gates: list[Gate], canaries: Canaries, promise: Promise) -> tuple[str, ...]:
    remarks = []
    guessing = gates[0]
    if guessing.verdict == "cannot tell":
        remarks.append(
            f"guessing could not have failed: {guessing.quantity} is promised as {guessing.promised:.4g}, "
            f"and {len(canaries)} canaries show at most {guessing.reach:.3g}, even of an engine without noise"
        )
    able = [gate for gate in gates if gate.name == "telling apart" and gate.reach > gate.promised]
    blunt = max((gate.resolution for gate in able), default=0.0)
    if blunt > USEFUL_RESOLUTION:
        remarks.append(
            f"the noise is strong for so few canaries and steps: telling apart misses an engine less than "
            f"{blunt:.2g} times worse than promised; more of either sharpens it"
        )
    if any(family.raw_norm < 1.0 for family in canaries.families):
        remarks.append(
            f"C is {promise.signal:.4g} noise scales: a correct engine gives a whole unit away, so nothing "
            "here says that one is protected. Faint canaries test that the promised noise is there, the "
            "contribution of long ones tests the clip"
        )
    if "poisson" in promise.guarantee.sampling:
        remarks.append(
            "amplification by sampling is not tested: telling apart is held against the figure without it"
        )
    return tuple(remarks)
