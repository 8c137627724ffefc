"""What the ledger is asked and what it answers, as frozen values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import PositiveFloat, StringConstraints

from adpfl.config import FrozenModel, Name
from adpfl.privacy.events import Charge, UnboundedEvent
from adpfl.privacy.plan import Delta, PrivacyPlan

Text = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]
Status = Literal["reserved", "abandoned", "sealed", "committed"]


class AcceptUnbounded(FrozenModel):
    """The site's signature under one run that has no finite guarantee."""

    run: Name
    reason: Text
    by: Text


class LedgerPolicy(FrozenModel):
    """The part of a site's policy that the ledger enforces."""

    epsilon_cap: PositiveFloat
    delta: Delta
    accept_unbounded: tuple[AcceptUnbounded, ...] = ()
    allow_rigorous_after_unbounded: bool = False


@dataclass(frozen=True)
class SpendRequest:
    """One attempt at one round of one run.

    `patients` are the site's own identifiers; the ledger keeps keyed fingerprints only. `first_step` is
    `EngineState.steps_taken` of the state that the attempt starts from (0 without one). `steps` is the
    local steps of the round, all charged at once.
    """

    run: str
    plan_digest: str
    privacy: PrivacyPlan
    round_number: int
    base_digest: str
    data_set_id: str
    patients: Sequence[str]
    unit_count: int
    dimension: int
    first_step: int
    steps: int


@dataclass(frozen=True)
class Reservation:
    """A charged round; `status` tells how far it came. All of it stays charged, whatever the status."""

    id: str
    run: str
    plan_digest: str
    round_number: int
    attempt: int
    base_digest: str
    data_set_id: str
    cohort: str
    first_step: int
    steps: int
    charges: tuple[Charge, ...]
    status: Status = "reserved"
    update_digest: str | None = None
    receipt_json: str | None = None
    reserved_at_millis: int = 0

    @property
    def is_unbounded(self) -> bool:
        """Whether no finite epsilon holds for it."""
        return any(isinstance(charge.event, UnboundedEvent) for charge in self.charges)


@dataclass(frozen=True)
class Spent:
    """What a data set, with every set that shares a patient with it, has spent over all runs."""

    data_set_id: str
    epsilon: float
    """Unconditional; infinite once a run without a finite guarantee has begun."""
    epsilon_of_finite_runs: float
    """What the runs with a finite guarantee add up to."""
    delta: float
    reservations: int
    no_finite_guarantee_since: float | None
    """Unix time in seconds."""
