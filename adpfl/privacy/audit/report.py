"""What an audit says, as records: JSON-able, complete, with every figure next to what it refers to."""

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from adpfl.config import FrozenModel
from adpfl.privacy.guarantee import Epsilon, Guarantee

Verdict = Literal["passed", "failed", "cannot tell"]
GateName = Literal["guessing", "telling apart", "contribution", "update"]


class Gate(FrozenModel):
    """One comparison: what was shown, what was promised, and what could have been shown at most."""

    name: GateName
    quantity: str
    canaries: str
    shown: NonNegativeFloat
    """Lower bound that the releases prove."""
    promised: NonNegativeFloat
    reach: NonNegativeFloat
    """What these canaries would show of an engine without any noise, or without any clip."""
    resolution: Epsilon
    """An engine worse than promised by this factor would have been found out; infinite if none would."""
    verdict: Verdict
    """`failed` where more was shown than promised; `cannot tell` where the gate is too blunt to fail."""


class Measure(FrozenModel):
    """Estimates from the scores of one kind of canary, for the reader; no verdict rests on them."""

    canaries: str
    count: NonNegativeInt
    present: NonNegativeInt
    contribution: float
    """Of a canary to one step's sum, in clip norms."""
    contribution_promised: float
    """The most that it may be."""
    noise: float
    """Standard deviation of one step's noise, in clip norms."""
    noise_promised: float


class AuditReport(FrozenModel):
    """The audit's answer, whole."""

    verdict: Verdict
    gates: tuple[Gate, ...]
    measures: tuple[Measure, ...]
    guarantee: Guarantee
    """What the ledger would be charged for the steps that were audited."""
    noise_multiplier: float
    canaries: int
    steps: int
    false_alarm_probability: float
    """That an engine which keeps its promise fails all the same; see `verdict`."""
    remarks: tuple[str, ...]
    """What this audit could not have found."""

    def with_gate(self, gate: Gate) -> "AuditReport":
        """The report with one more gate, which may fail it."""
        verdict = "failed" if gate.verdict == "failed" else self.verdict
        return self.model_copy(update={"gates": (*self.gates, gate), "verdict": verdict})
