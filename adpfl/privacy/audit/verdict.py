"""The audit's answer: which canaries to use, and what their scores say through all gates together."""

import math
from typing import Final

from adpfl.errors import PrivacyError
from adpfl.privacy.audit.canaries import Canaries, Family, Scores
from adpfl.privacy.audit.gates import (
    FALSE_ALARM_PROBABILITY,
    GATE_ERROR_PROBABILITY,
    USEFUL_RESOLUTION,
    Group,
    Promise,
    contribution,
    error_of_one_test,
    guessing,
    mu_resolution,
    telling_apart,
)
from adpfl.privacy.audit.report import AuditReport, Gate, Verdict

MIN_STEPS: Final = 2

LOUD_NORM: Final = 3.0
"""Raw norm of an ordinary canary in clip norms: a clip that does nothing shows."""

FAINT_MU: Final = 2.0
"""What faint canaries are promised to be worth under the second gate, where it measures best."""


def families_for(promise: Promise, *, canaries: int) -> tuple[Family, ...]:
    """The kinds of canaries that can tell something about such a promise.

    Loud ones, three clip norms long, always. Where even a correct engine would give these away beyond what
    so many canaries can measure, faint ones too: they lie below the clip and see the noise alone.
    """
    loud = tuple(Family(alternating=alternating, raw_norm=LOUD_NORM) for alternating in (False, True))
    error_probability = error_of_one_test(families=2)
    if mu_resolution(promise.mu, promise.visible_mu, canaries // 4, error_probability) <= USEFUL_RESOLUTION:
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
    groups = [Group(canaries, scores, index) for index in range(len(canaries.families))]
    gates = [guessing(canaries, scores, promise)]
    for group in groups:
        gates.append(telling_apart(group, promise, steps, error_of_one_test(families=len(groups))))
        gates.append(contribution(group, promise, steps, GATE_ERROR_PROBABILITY / len(groups)))
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


def _overall(gates: list[Gate]) -> Verdict:
    """Passed needs a sharp second gate and a sharp third one; the first adds to them where it can."""
    if any(gate.verdict == "failed" for gate in gates):
        return "failed"
    able = {gate.name for gate in gates if gate.verdict == "passed"}
    return "passed" if {"telling apart", "contribution"} <= able else "cannot tell"


def _remarks(gates: list[Gate], canaries: Canaries, promise: Promise) -> tuple[str, ...]:
    remarks = []
    guesses = gates[0]
    if guesses.verdict == "cannot tell":
        remarks.append(
            f"guessing could not have failed: {guesses.quantity} is promised as {guesses.promised:.4g}, "
            f"and {len(canaries)} canaries show at most {guesses.reach:.3g}, even of an engine without noise"
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
    if promise.participation < 1.0:
        remarks.append(
            "amplification by sampling is not tested: telling apart is held against the figure without it"
        )
    return tuple(remarks)
