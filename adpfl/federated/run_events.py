"""What can happen to a run, and what the coordinator asks for in return."""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from adpfl.federated.records import ServerRound, TimelineEvent
from adpfl.federated.run_state import Moments, RunState
from adpfl.federated.server_optimizer import StepRule

# --- events
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SiteJoined:
    """An agent declared itself. Another instance_id than before is an agent that restarted."""

    site: str
    instance_id: str
    training_patients: int


@dataclass(frozen=True, slots=True)
class SiteReady:
    """An agent asked for a task of the run: its own policy has let the run pass."""

    site: str


@dataclass(frozen=True, slots=True)
class SiteRefused:
    """A site's own policy or budget refuses the run, until another agent of it joins."""

    site: str
    reason: str


@dataclass(frozen=True, slots=True)
class SiteLeft:
    """A site ends its part in the run, until it asks for a task again."""

    site: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SiteFellSilent:
    """Nothing has been heard of a site for longer than the server waits."""

    site: str


@dataclass(frozen=True, slots=True)
class SiteHeard:
    """A silent site called again."""

    site: str


@dataclass(frozen=True, slots=True)
class UpdateArrived:
    """All bytes of a site's update are stored and the site wants it to count."""

    site: str
    round: int
    base_digest: str
    update_digest: str


@dataclass(frozen=True, slots=True)
class UpdateRefused:
    """All bytes of a site's update are stored, and they break a rule of the plan: it will never count."""

    site: str
    round: int
    base_digest: str
    update_digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class UpdateNoted:
    """An update was answered without counting: repeated, late, conflicting or foreign."""

    site: str
    round: int
    base_digest: str
    update_digest: str
    verdict: "Verdict"


@dataclass(frozen=True, slots=True)
class RunPaused:
    """An operator lets no further round open."""

    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RunResumed:
    """An operator lets rounds open again."""

    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """An operator ends the run; what was not aggregated never will be."""

    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """The clock moved."""


@dataclass(frozen=True, slots=True)
class AggregationDone:
    """The round's new model is stored, and with it the average and the moments that were asked for."""

    round: int
    result_digest: str
    averaged_digest: str | None = None
    moments: Moments | None = None


@dataclass(frozen=True, slots=True)
class AggregationFailed:
    """The sum could not be made, for a reason that trying again cannot mend."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class UpdateDamaged:
    """Stored bytes of updates that count in the open round are damaged: their sites must send them again."""

    round: int
    sites: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class StorageDamaged:
    """What the run needs is damaged on disk: a model, an average, the optimizer's state.

    Of a finished run: the model that it publishes.
    """

    detail: str


@dataclass(frozen=True, slots=True)
class StorageMended:
    """What was damaged is whole again."""


@dataclass(frozen=True, slots=True)
class ServerRestarted:
    """The daemon came back and read this state from its database."""


Event = (
    SiteJoined
    | SiteReady
    | SiteRefused
    | SiteLeft
    | SiteFellSilent
    | SiteHeard
    | UpdateArrived
    | UpdateRefused
    | UpdateNoted
    | RunPaused
    | RunResumed
    | RunCancelled
    | TimePassed
    | AggregationDone
    | AggregationFailed
    | UpdateDamaged
    | StorageDamaged
    | StorageMended
    | ServerRestarted
)


# --- what a transition gives
# ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contribution:
    """One site's share of a round's sum; the weights of a round add up to one."""

    site: str
    update_digest: str
    weight: float


@dataclass(frozen=True, slots=True)
class Average:
    """Move the average of the models so far towards the newest one, which has `newest_share` of it."""

    previous_digest: str
    newest_share: float


@dataclass(frozen=True, slots=True)
class Optimize:
    """Step along the mean update by this rule, from these moments; None are zero."""

    rule: StepRule
    previous: Moments | None


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Add these updates to the base model, in this order, average, and report `AggregationDone`.

    `adpfl.federated.round_models.make_models` does all of it.
    """

    round: int
    base_digest: str
    contributions: tuple[Contribution, ...]
    average: Average | None = None
    trimmed: int | None = None
    """Values of each coordinate that are left out at each end; None takes the weighted mean."""
    optimize: Optimize | None = None
    """None adds the combined update as it is."""


@dataclass(frozen=True, slots=True)
class RoundClosed:
    """A round is over; keep its record."""

    record: ServerRound


@dataclass(frozen=True, slots=True)
class TasksChanged:
    """Sites that wait for something to do may have something to do."""


Action = Aggregate | RoundClosed | TasksChanged


class Verdict(Enum):
    """What an arrived update is."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    """The same update as the one that counts already."""
    LATE = "late"
    CONFLICTING = "conflicting"
    """Other bytes under a key that counts already."""
    FOREIGN = "foreign"
    """Of another history: made from another base model, for a round that has not opened, or by a site that
    never
    joined."""
    REFUSED = "refused"
    """It breaks a rule of the plan, or another update of the site did so in this round."""


@dataclass(frozen=True, slots=True)
class Transition:
    """The new state, what to do once it is stored, and what to keep in the timeline."""

    state: RunState
    actions: tuple[Action, ...] = ()
    timeline: tuple[TimelineEvent, ...] = ()
    verdict: Verdict | None = None
    """Set for `UpdateArrived` alone."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a site is told to do next."""

    kind: Literal["wait", "train", "finished", "failed"]
    round: int = 0
    base_digest: str | None = None
    detail: str = ""
