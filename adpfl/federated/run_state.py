"""The whole state of one run, as the server stores it, and what it says of itself in words."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from adpfl.config import FrozenModel, Name
from adpfl.errors import StateError
from adpfl.federated.run_plan import RunPlan

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SiteState(FrozenModel):
    """What the coordinator knows of one site of the cohort."""

    site: Name
    instance_id: str | None = None
    """None until the site joins."""
    training_patients: int | None = None
    ready: bool = False
    """Whether this agent has asked for a task of the run: its own policy has then let the run pass."""
    refusal: str | None = None
    """Why this agent refuses the run; None where it does not. Another instance_id starts afresh."""
    silent: bool = False
    """Nothing has been heard of it for longer than the server waits."""
    left_at: float | None = None
    """When the site ended its part in the run, in Unix seconds; None where it did not, or came back since."""
    left_reason: str = ""
    rounds_missed: int = 0

    @property
    def joined(self) -> bool:
        """Whether an agent of the site has ever joined."""
        return self.instance_id is not None

    @property
    def undecided(self) -> bool:
        """Whether the agent has neither asked for a task yet, or since it left, nor refused."""
        return self.joined and not self.ready and self.refusal is None

    @property
    def has_left(self) -> bool:
        """Whether the site has ended its part in the run."""
        return self.left_at is not None

    @property
    def takes_part(self) -> bool:
        """Whether the site has neither left the run nor refuses it."""
        return self.refusal is None and not self.has_left

    @property
    def can_answer(self) -> bool:
        """Whether a round waits for this site before its deadline."""
        return self.takes_part and not self.silent


class AcceptedUpdate(FrozenModel):
    """An update that counts in the open round."""

    site: Name
    update_digest: Digest


class RefusedUpdate(FrozenModel):
    """An update that breaks a rule of the plan; its site sits the open round out."""

    site: Name
    update_digest: Digest
    reason: str


class Moments(FrozenModel):
    """The state of the server's optimizer, as objects."""

    first_digest: Digest
    second_digest: Digest


class OpenRound(FrozenModel):
    """The round that collects updates, or whose updates are being added up."""

    round: int
    base_digest: Digest
    opened_at: float
    updates: tuple[AcceptedUpdate, ...] = ()
    """In the order of the cohort, whatever the order of arrival: floating-point sums depend on it."""
    refused: tuple[RefusedUpdate, ...] = ()
    """In the order of arrival; at most one a site."""
    late: tuple[Name, ...] = ()
    """Sites that were told that their update came too late; that stays so where the round opens again."""
    deadline_passed: bool = False
    aggregating: bool = False
    asked_again_at: float | None = None
    """When damaged updates were last asked for again, in Unix seconds: the deadline counts from there."""

    @property
    def answered(self) -> frozenset[str]:
        """Sites whose update counts."""
        return frozenset(update.site for update in self.updates)

    @property
    def turned_away(self) -> dict[str, str]:
        """Sites whose update was refused, with the reason."""
        return {update.site: update.reason for update in self.refused}

    @property
    def done(self) -> frozenset[str]:
        """Sites from which the round takes no update any more."""
        return self.answered | self.turned_away.keys() | set(self.late)


class RunState(FrozenModel):
    """The whole state of a run. `model_dump_json` and `model_validate_json` are exact inverses."""

    schema_version: Literal[1] = 1
    plan: RunPlan
    status: Literal["waiting", "running", "finished", "failed", "cancelled"] = "waiting"
    paused: bool = False
    """An operator lets no further round open; the open one may still close."""
    sites: tuple[SiteState, ...]
    """In the order of the cohort."""
    model_digest: Digest
    """The newest global model: what the next round trains from."""
    averaged_digest: Digest | None = None
    """The average of the global models so far; None where the plan has none, or it would be the newest."""
    moments: Moments | None = None
    """Of the server's optimizer after the last closed round; None where there is none, or they are zero."""
    rounds_closed: int = 0
    open_round: OpenRound | None = None
    failure: str = ""
    """Why the run failed or was cancelled."""
    damage: str = ""
    """What is damaged on the server's disk that the run cannot go on without; no round opens meanwhile."""

    def site(self, name: str) -> SiteState:
        """The state of a site of the cohort.

        Raises:
            StateError: the run does not name the site.
        """
        for state in self.sites:
            if state.site == name:
                return state
        raise StateError(f"run {self.plan.run} does not name site {name}")

    @property
    def published_digest(self) -> str:
        """The model that the run gives out for use: the average where there is one, else the newest."""
        return self.averaged_digest or self.model_digest

    @property
    def over(self) -> bool:
        """Whether nothing can happen any more."""
        return self.status in {"finished", "failed", "cancelled"}

    @property
    def shown_status(self) -> Literal["waiting", "running", "paused", "finished", "failed", "cancelled"]:
        """The status as records and offers have it."""
        return "paused" if self.paused and not self.over else self.status

    @property
    def deadline_at(self) -> float | None:
        """When the open round's deadline passes, in Unix seconds; None where none is running."""
        current = self.open_round
        if current is None or current.deadline_passed or current.aggregating:
            return None
        since = current.opened_at if current.asked_again_at is None else current.asked_again_at
        return since + self.plan.cohort.round_deadline_seconds

    @property
    def ready(self) -> tuple[str, ...]:
        """Sites that would train now, in the order of the cohort; a round opens with a quorum of them."""
        return tuple(site.site for site in self.sites if site.ready and site.can_answer)

    @property
    def absent(self) -> tuple[str, ...]:
        """Sites whose update the open round lacks, in the order of the cohort."""
        current = self.open_round
        answered = current.answered if current else frozenset()
        return tuple(site.site for site in self.sites if site.site not in answered)

    @property
    def able(self) -> tuple[str, ...]:
        """Sites whose update the open round has or may still get, or the next one would, in cohort order."""
        answered = self.open_round.answered if self.open_round else frozenset()
        late = self.open_round.late if self.open_round else ()
        return tuple(
            site.site
            for site in self.sites
            if site.site in answered or (site.takes_part and site.site not in late)
        )


def summary(state: RunState) -> str:
    """Where a run stands, in words, naming who is missing: never plain success for a subset."""
    match state.status:
        case "waiting":
            parts = [_waiting(state)]
        case "running":
            parts = [_running(state), *([_participation(state)] if state.rounds_closed else [])]
        case "finished":
            parts = [
                f"finished: {state.rounds_closed} of {state.plan.rounds} rounds",
                _participation(state),
            ]
        case "failed" | "cancelled":
            told = f"{state.status}: {state.failure}" if state.failure else state.status
            parts = [told, f"{state.rounds_closed} of {state.plan.rounds} rounds"]
    if state.paused and not state.over:
        parts.insert(0, "paused by an operator")
    if state.damage and not state.over:
        parts.insert(0, f"held up by damage on the server's disk ({state.damage})")
    return "; ".join([*parts, *_standing_aside(state)])


def words(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _waiting(state: RunState) -> str:
    absent = [site.site for site in state.sites if site.site not in state.ready]
    text = f"waiting: {len(state.ready)} of {len(state.sites)} sites ready, {state.plan.cohort.quorum} needed"
    return f"{text}, missing {words(absent)}" if absent else text


def _running(state: RunState) -> str:
    current = state.open_round
    if current is None:
        return (
            f"running: {state.rounds_closed} of {state.plan.rounds} rounds, "
            f"{len(state.ready)} of {len(state.sites)} sites ready, {state.plan.cohort.quorum} needed"
        )
    text = (
        f"running: round {current.round} of {state.plan.rounds}, "
        f"{len(current.updates)} of {len(state.sites)} updates"
    )
    if current.aggregating:
        return f"{text}, adding them up"
    if current.deadline_passed:
        text += f", past its deadline without the quorum of {state.plan.cohort.quorum}"
    return f"{text}, missing {words(state.absent)}"


def _participation(state: RunState) -> str:
    missed = [site for site in state.sites if site.rounds_missed]
    present = f"{len(state.sites) - len(missed)} of {len(state.sites)} sites in every round"
    if not missed:
        return present
    absences = [f"{site.site} in {_rounds(site.rounds_missed)}" for site in missed]
    return f"{present}, missing {words(absences)}"


def _standing_aside(state: RunState) -> list[str]:
    aside = [f"{site.site} refuses the run ({site.refusal})" for site in state.sites if site.refusal]
    aside += [
        f"{site.site} has left the run{_because(site.left_reason)}" for site in state.sites if site.has_left
    ]
    if state.over:
        return aside
    turned_away = state.open_round.turned_away if state.open_round else {}
    aside += [f"the update of {name} was refused ({reason})" for name, reason in turned_away.items()]
    late = state.open_round.late if state.open_round else ()
    aside += [f"the update of {name} came too late for the round" for name in late]
    aside += [f"{site.site} is silent" for site in state.sites if site.silent]
    quorum = state.plan.cohort.quorum
    adding_up = state.open_round is not None and state.open_round.aggregating
    if len(state.able) < quorum and not adding_up:
        aside.append(
            f"the quorum of {quorum} cannot be reached with {len(state.able)} of {len(state.sites)} sites; "
            "somebody must come back, or an operator cancel the run"
        )
    return aside


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"
