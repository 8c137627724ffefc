"""What the ledger is asked and what it answers, as frozen values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import PositiveFloat, StringConstraints, TypeAdapter, ValidationError

from adpfl.config import FrozenModel, Name
from adpfl.errors import StateError
from adpfl.privacy.events import Charge, UnboundedEvent
from adpfl.privacy.metrics import MetricPlan
from adpfl.privacy.plan import Delta, PrivacyPlan

Text = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]
HexDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Status = Literal["reserved", "abandoned", "sealed", "committed"]

_PRIVACY: TypeAdapter[PrivacyPlan] = TypeAdapter(PrivacyPlan)


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
    """One attempt at one round of one run, or at one metric of one round.

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
    """n as declared for the run. A patient who is excluded later keeps a place in it."""
    dimension: int
    first_step: int
    steps: int
    planned_steps: int | None = None
    """Local steps of the whole run. With it, a run that could not finish is refused before its first round,
    and one that fits the cap only as a whole can have it dedicated."""
    planned_rounds: int | None = None
    """Rounds of the whole run. With it, no other round is ever charged; see `adpfl.privacy.ledger_rounds`."""
    planned_metrics: tuple[Charge, ...] = ()
    """What the metrics that the plan names cost over the whole run."""
    metric: MetricPlan | None = None
    """Set where a metric is released and no update: `steps` is 0 then, and `unit_count` is the number of
    units that the metric is a mean over."""


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
    patients: int
    """How many took part: fewer than were declared once somebody is excluded."""
    first_step: int
    steps: int
    charges: tuple[Charge, ...]
    orders: tuple[float, ...] = ()
    """Renyi orders that the filter holds these patients to; see `adpfl.privacy.ledger_cap`."""
    metric: str | None = None
    """The metric's name where this is not an update."""
    status: Status = "reserved"
    update_digest: str | None = None
    receipt_json: str | None = None
    reserved_at_millis: int = 0

    @property
    def is_unbounded(self) -> bool:
        """Whether no finite epsilon holds for it."""
        return any(isinstance(charge.event, UnboundedEvent) for charge in self.charges)


@dataclass(frozen=True)
class Dedication:
    """The whole cap of some patients, given to one plan before its first release."""

    run: str
    plan_digest: str
    data_set_id: str
    whole: tuple[Charge, ...]
    """What the plan costs from its first to its last step."""


class RunTerms(FrozenModel):
    """What a run was declared to be when it first spent: fixed from then on."""

    run: Name
    plan_digest: str
    data_set_id: str
    privacy: dict[str, Any]
    """The plan's privacy section."""
    unit_count: int
    dimension: int
    planned_steps: int | None
    planned_rounds: int | None = None

    def privacy_plan(self) -> PrivacyPlan:
        """The plan's privacy section, as this version reads it.

        Raises:
            StateError: it was written by another version and breaks a rule of this one.
        """
        try:
            return _PRIVACY.validate_python(self.privacy)
        except ValidationError as error:
            raise StateError(f"run {self.run}: the ledger holds a plan of another version") from error


class Exclusion(FrozenModel):
    """A patient who takes part in nothing any more."""

    fingerprint: str
    """Keyed; the name is not kept."""
    reason: Text
    by: Text
    at_millis: int


class Approval(FrozenModel):
    """A person's consent to the whole cost of one plan."""

    run: Name
    plan_digest: HexDigest
    by: Text
    at_millis: int


@dataclass(frozen=True)
class Forecast:
    """What a run would bring its patients to, were it to begin now."""

    epsilon_after: float
    """At the policy's delta, all finite runs together; infinite for a run without a finite guarantee."""
    dedicated: bool
    """Whether it takes the whole cap: no other plan may follow on these patients."""


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
    dedicated_to: str | None = None
    """The run that has the whole cap."""
