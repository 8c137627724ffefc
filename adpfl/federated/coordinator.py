"""The rounds of one run as a pure state machine: state + event + time -> new state + actions.

No IO and no clock. The server stores the new state and what the actions record in one transaction, and only
then acts and answers; after a crash the stored state alone says how to go on (`actions_on_resume`).

A round opens only while a quorum of sites is ready: training costs a site budget, which a round that cannot
close would waste. A site is ready once its agent has asked for a task, which it does after its own policy has
let the run pass. It stands aside while it refuses the run, has left it or has fallen silent; a refusal is
final for the agent that made it, and only another instance of the agent takes it back. A site that left comes
back by asking for a task.

An operator may pause a run (no further round opens, the open one may close), resume it, or cancel it.

A round closes when every site that can still answer has answered, or at its deadline, whichever comes first,
and never with fewer updates than the quorum. Past the deadline without a quorum the round waits on, and says
so. An update counts once: later, repeated and contradicting ones get an answer and an entry in the timeline.
A site whose update broke a rule of the plan sits the round out; where that leaves fewer sites than the
quorum, the round can never close and the run fails.
An update whose stored bytes turn out damaged before they were added up no longer counts: its site is given
its task again, which it answers with the same bytes. An update that came while the others were added up is
late for good, even where the round opens again for that: its site was told so, and waits for the next round.
While a model is damaged no round opens.
"""

from functools import singledispatch

from adpfl.errors import StateError
from adpfl.federated.records import ServerRound, TimelineEvent
from adpfl.federated.round_work import average_of, optimize_of, work_of
from adpfl.federated.run_events import (
    Action,
    AggregationDone,
    AggregationFailed,
    Event,
    RoundClosed,
    RunCancelled,
    RunPaused,
    RunResumed,
    ServerRestarted,
    SiteFellSilent,
    SiteHeard,
    SiteJoined,
    SiteLeft,
    SiteReady,
    SiteRefused,
    StorageDamaged,
    StorageMended,
    TasksChanged,
    TimePassed,
    Transition,
    UpdateArrived,
    UpdateDamaged,
    UpdateNoted,
    UpdateRefused,
    Verdict,
)
from adpfl.federated.run_plan import RunPlan
from adpfl.federated.run_state import AcceptedUpdate, OpenRound, RefusedUpdate, RunState, SiteState, words


def new_run(plan: RunPlan, model_digest: str, now: float) -> Transition:
    """The state of a run that nobody has joined.

    Args:
        plan: the run's plan.
        model_digest: the initial model's object.
        now: Unix seconds.
    """
    state = RunState(
        plan=plan, sites=tuple(SiteState(site=name) for name in plan.cohort.sites), model_digest=model_digest
    )
    return Transition(state, timeline=(_entry(now, "run_created"),))


def step(state: RunState, event: Event, now: float) -> Transition:
    """Let one event happen at one time.

    Raises:
        StateError: the event names a site outside the cohort.
    """
    happened = _apply(event, state, now)
    moved = _advance(happened.state, now)
    return Transition(
        moved.state, happened.actions + moved.actions, happened.timeline + moved.timeline, happened.verdict
    )


def actions_on_resume(state: RunState) -> tuple[Action, ...]:
    """What was under way when this state was stored and must be started again after a restart."""
    current = state.open_round
    return (work_of(state, current),) if current is not None and current.aggregating else ()


def judge(state: RunState, event: UpdateArrived | UpdateRefused) -> Verdict:
    """What an update would be if it arrived now; changes nothing."""
    current = state.open_round
    if event.round <= state.rounds_closed:
        return Verdict.LATE
    if current is None:
        # A finished run has no further round to be late for.
        known = state.over and event.round <= state.plan.rounds
        return Verdict.LATE if known else Verdict.FOREIGN
    of_this_round = (event.round, event.base_digest) == (current.round, current.base_digest)
    if not of_this_round or not state.site(event.site).joined:
        return Verdict.FOREIGN
    for update in current.updates:
        if update.site == event.site:
            return Verdict.REPEATED if update.update_digest == event.update_digest else Verdict.CONFLICTING
    if event.site in current.turned_away:
        return Verdict.REFUSED
    return Verdict.LATE if current.aggregating or event.site in current.late else Verdict.ACCEPTED


@singledispatch
def _apply(event: Event, state: RunState, now: float) -> Transition:
    raise StateError(f"unknown event {type(event).__name__} at {now} in run {state.plan.run}")


@_apply.register
def _site_joined(event: SiteJoined, state: RunState, now: float) -> Transition:
    site = state.site(event.site)
    declared = {
        "instance_id": event.instance_id,
        "training_patients": event.training_patients,
        "silent": False,
    }
    if site.instance_id != event.instance_id:  # what an earlier agent decided binds this one to nothing
        declared |= {"ready": False, "refusal": None}
    known = site.model_copy(update=declared)
    if known == site or state.over:
        return Transition(state)
    if not site.joined:
        kind, detail = "site_joined", ""
    elif site.instance_id != event.instance_id:
        kind, detail = "site_rejoined", "its agent restarted"
    else:
        kind, detail = "site_returned", ""
    entry = _entry(now, kind, site=site.site, round_number=_round(state), detail=detail)
    return Transition(_with_site(state, known), (TasksChanged(),), (entry,))


@_apply.register
def _site_ready(event: SiteReady, state: RunState, now: float) -> Transition:
    site = state.site(event.site)
    if not site.undecided or state.over:
        return Transition(state)
    ready = site.model_copy(update={"ready": True, "left_at": None, "left_reason": ""})
    if not site.has_left:
        return Transition(_with_site(state, ready))
    entry = _entry(now, "site_came_back", site=site.site, round_number=_round(state))
    return Transition(_with_site(state, ready), (TasksChanged(),), (entry,))


@_apply.register
def _site_left(event: SiteLeft, state: RunState, now: float) -> Transition:
    site = state.site(event.site)
    if site.has_left or state.over:
        return Transition(state)
    gone = {"ready": False, "silent": False, "left_at": now, "left_reason": event.reason}
    entry = _entry(now, "site_left", site=site.site, round_number=_round(state), detail=event.reason)
    return Transition(_with_site(state, site.model_copy(update=gone)), (TasksChanged(),), (entry,))


@_apply.register
def _site_refused(event: SiteRefused, state: RunState, now: float) -> Transition:
    site = state.site(event.site)
    if site.refusal is not None or state.over:  # said already: what it adds later changes nothing
        return Transition(state)
    return Transition(
        _with_site(state, site.model_copy(update={"ready": False, "refusal": event.reason})),
        timeline=(
            _entry(now, "site_refused", site=site.site, round_number=_round(state), detail=event.reason),
        ),
    )


@_apply.register
def _site_fell_silent(event: SiteFellSilent, state: RunState, now: float) -> Transition:
    site = state.site(event.site)
    if site.silent or site.has_left or state.over or (state.status == "waiting" and not site.joined):
        return Transition(state)
    detail = "" if site.joined else "it never joined"
    return Transition(
        _with_site(state, site.model_copy(update={"silent": True})),
        timeline=(_entry(now, "site_lost", site=site.site, round_number=_round(state), detail=detail),),
    )


@_apply.register
def _site_heard(event: SiteHeard, state: RunState, now: float) -> Transition:
    site = state.site(event.site)
    if not site.silent or state.over:
        return Transition(state)
    return Transition(
        _with_site(state, site.model_copy(update={"silent": False})),
        timeline=(_entry(now, "site_returned", site=site.site, round_number=_round(state)),),
    )


@_apply.register
def _update_arrived(event: UpdateArrived, state: RunState, now: float) -> Transition:
    state.site(event.site)
    verdict = judge(state, event)
    if verdict is Verdict.ACCEPTED:
        return Transition(_with_update(state, event), verdict=verdict)
    if verdict is Verdict.LATE:
        state = _with_late(state, event)
    return Transition(state, timeline=(_note(state, event, verdict, now),), verdict=verdict)


@_apply.register
def _update_refused(event: UpdateRefused, state: RunState, now: float) -> Transition:
    site = state.site(event.site)
    current = state.open_round
    if current is None or judge(state, event) is not Verdict.ACCEPTED:
        return Transition(state)
    refused = RefusedUpdate(site=event.site, update_digest=event.update_digest, reason=event.reason)
    changed = current.model_copy(update={"refused": (*current.refused, refused)})
    state = _with_site(state, site.model_copy(update={"silent": False}))
    detail = f"update {event.update_digest[:12]}: {event.reason}"
    entry = _entry(now, "update_refused", site=event.site, round_number=event.round, detail=detail)
    return Transition(state.model_copy(update={"open_round": changed}), (TasksChanged(),), (entry,))


@_apply.register
def _update_noted(event: UpdateNoted, state: RunState, now: float) -> Transition:
    state.site(event.site)
    return Transition(state, timeline=(_note(state, event, event.verdict, now),))


@_apply.register
def _run_paused(event: RunPaused, state: RunState, now: float) -> Transition:
    _require_not_over(state, "paused")
    if state.paused:
        return Transition(state)
    changed = state.model_copy(update={"paused": True})
    return Transition(changed, timeline=(_steered(now, "run_paused", state, event),))


@_apply.register
def _run_resumed(event: RunResumed, state: RunState, now: float) -> Transition:
    _require_not_over(state, "resumed")
    if not state.paused:
        return Transition(state)
    changed = state.model_copy(update={"paused": False})
    return Transition(changed, (TasksChanged(),), (_steered(now, "run_resumed", state, event),))


@_apply.register
def _run_cancelled(event: RunCancelled, state: RunState, now: float) -> Transition:
    if state.status == "cancelled":
        return Transition(state)
    _require_not_over(state, "cancelled")
    changed = state.model_copy(update={"status": "cancelled", "failure": event.reason, "open_round": None})
    return Transition(changed, (TasksChanged(),), (_steered(now, "run_cancelled", state, event),))


@_apply.register
def _time_passed(event: TimePassed, state: RunState, now: float) -> Transition:  # noqa: ARG001 - dispatch
    deadline = state.deadline_at
    current = state.open_round
    if deadline is None or current is None or now < deadline:
        return Transition(state)
    found = f"{len(current.updates)} of {len(state.sites)} updates, missing {words(state.absent)}"
    quorum = state.plan.cohort.quorum
    entry = (
        _entry(now, "deadline_passed", round_number=current.round, detail=found)
        if len(current.updates) >= quorum
        else _entry(
            now,
            "quorum_missing",
            round_number=current.round,
            detail=f"{found}; the round waits on for a quorum of {quorum}",
        )
    )
    passed = current.model_copy(update={"deadline_passed": True})
    return Transition(state.model_copy(update={"open_round": passed}), timeline=(entry,))


@_apply.register
def _aggregation_done(event: AggregationDone, state: RunState, now: float) -> Transition:
    current = state.open_round
    if current is None or not current.aggregating or event.round != current.round:
        return Transition(state)  # an answer from before a restart; the round was added up again
    if (average_of(state, current) is None) != (event.averaged_digest is None):
        raise StateError(
            f"round {event.round} of run {state.plan.run}: averaged_digest is {event.averaged_digest}; "
            "must be given exactly where an average was asked for"
        )
    optimize = optimize_of(state, current)
    if (optimize is None) != (event.moments is None):
        raise StateError(
            f"round {event.round} of run {state.plan.run}: moments are {event.moments}; must be given "
            "exactly where the server's optimizer was asked for"
        )
    contributed = {update.site for update in current.updates}
    missing = tuple(site.site for site in state.sites if site.site not in contributed)
    record = ServerRound(
        round=current.round,
        opened_unix_seconds=current.opened_at,
        closed_unix_seconds=now,
        sites=tuple(update.site for update in current.updates),
        missing=missing,
        refused=tuple(current.turned_away),
        base_digest=current.base_digest,
        result_digest=event.result_digest,
        averaged_digest=event.averaged_digest,
        tau=None if optimize is None else optimize.rule.tau,
    )
    changed = state.model_copy(
        update={
            "model_digest": event.result_digest,
            "averaged_digest": event.averaged_digest,
            "moments": event.moments,
            "rounds_closed": current.round,
            "open_round": None,
            "sites": tuple(
                site.model_copy(update={"rounds_missed": site.rounds_missed + 1})
                if site.site in missing
                else site
                for site in state.sites
            ),
        }
    )
    timeline = []
    if missing:
        detail = f"{len(contributed)} of {len(state.sites)} sites, missing {words(missing)}"
        timeline.append(_entry(now, "round_partial", round_number=current.round, detail=detail))
    if current.round == state.plan.rounds:
        changed = changed.model_copy(update={"status": "finished"})
        timeline.append(_entry(now, "run_finished"))
    return Transition(changed, (RoundClosed(record), TasksChanged()), tuple(timeline))


@_apply.register
def _aggregation_failed(event: AggregationFailed, state: RunState, now: float) -> Transition:
    current = state.open_round
    if current is None or not current.aggregating or event.round != current.round:
        return Transition(state)
    return _fail(state, f"round {event.round}: {event.reason}", now)


@_apply.register
def _update_damaged(event: UpdateDamaged, state: RunState, now: float) -> Transition:
    current = state.open_round
    if current is None or event.round != current.round:
        return Transition(state)
    lost = [update.site for update in current.updates if update.site in event.sites]
    if not lost:
        return Transition(state)
    updates = tuple(update for update in current.updates if update.site not in lost)
    asked = {"updates": updates, "aggregating": False, "deadline_passed": False, "asked_again_at": now}
    changed = state.model_copy(update={"open_round": current.model_copy(update=asked)})
    detail = f"{event.detail}; it is asked for again"
    timeline = tuple(
        _entry(now, "update_damaged", site=site, round_number=current.round, detail=detail) for site in lost
    )
    return Transition(changed, (TasksChanged(),), timeline)


@_apply.register
def _storage_damaged(event: StorageDamaged, state: RunState, now: float) -> Transition:
    if state.over or state.damage == event.detail:
        return Transition(state)
    entry = _entry(now, "storage_damaged", round_number=_round(state), detail=event.detail)
    return Transition(state.model_copy(update={"damage": event.detail}), timeline=(entry,))


@_apply.register
def _storage_mended(event: StorageMended, state: RunState, now: float) -> Transition:  # noqa: ARG001
    if state.over or not state.damage:
        return Transition(state)
    entry = _entry(now, "storage_mended", round_number=_round(state))
    return Transition(state.model_copy(update={"damage": ""}), (TasksChanged(),), (entry,))


@_apply.register
def _server_restarted(event: ServerRestarted, state: RunState, now: float) -> Transition:  # noqa: ARG001
    if state.over:
        return Transition(state)
    return Transition(state, timeline=(_entry(now, "server_restarted", round_number=_round(state)),))


def _advance(state: RunState, now: float) -> Transition:
    """Do what follows from the state alone: start the run, open a round, or close one."""
    if state.over:
        return Transition(state)
    current = state.open_round
    if current is None:
        if state.paused or state.damage or len(state.ready) < state.plan.cohort.quorum:
            return Transition(state)
        return _start(state, now) if state.status == "waiting" else _open(state, now)
    if len(state.sites) - len(current.refused) < state.plan.cohort.quorum:
        names = words(tuple(current.turned_away))
        return _fail(
            state,
            f"round {current.round} cannot reach its quorum of {state.plan.cohort.quorum}: "
            f"the updates of {names} were refused ({current.refused[-1].reason})",
            now,
        )
    awaited = [site for site in state.sites if site.can_answer and site.site not in current.done]
    complete = current.deadline_passed or not awaited
    if current.aggregating or not complete or len(current.updates) < state.plan.cohort.quorum:
        return Transition(state)
    closing = current.model_copy(update={"aggregating": True})
    changed = state.model_copy(update={"open_round": closing})
    return Transition(changed, (work_of(changed, closing), TasksChanged()))


def _start(state: RunState, now: float) -> Transition:
    detail = f"{len(state.ready)} of {len(state.sites)} sites ready"
    opened = _open(state.model_copy(update={"status": "running"}), now)
    return Transition(opened.state, opened.actions, (_entry(now, "run_started", detail=detail),))


def _open(state: RunState, now: float) -> Transition:
    opened = OpenRound(round=state.rounds_closed + 1, base_digest=state.model_digest, opened_at=now)
    return Transition(state.model_copy(update={"open_round": opened}), (TasksChanged(),))


def _fail(state: RunState, reason: str, now: float) -> Transition:
    changed = state.model_copy(update={"status": "failed", "failure": reason, "open_round": None})
    return Transition(changed, (TasksChanged(),), (_entry(now, "run_failed", detail=reason),))


def _require_not_over(state: RunState, wanted: str) -> None:
    if state.over:
        raise StateError(f"run {state.plan.run} is {state.status}; it cannot be {wanted} any more")


def _steered(
    now: float, kind: str, state: RunState, event: RunPaused | RunResumed | RunCancelled
) -> TimelineEvent:
    detail = f"by {event.by}" + (f": {event.reason}" if event.reason else "")
    return _entry(now, kind, round_number=_round(state), detail=detail)


def _with_update(state: RunState, event: UpdateArrived) -> RunState:
    """Add an update to the open round, in the cohort's order; it is also a sign of life."""
    current = state.open_round
    assert current is not None, "only an update of the open round is accepted"
    digests = {update.site: update.update_digest for update in current.updates}
    digests[event.site] = event.update_digest
    updates = tuple(
        AcceptedUpdate(site=name, update_digest=digests[name])
        for name in state.plan.cohort.sites
        if name in digests
    )
    changed = state.model_copy(update={"open_round": current.model_copy(update={"updates": updates})})
    site = state.site(event.site).model_copy(update={"silent": False})
    return _with_site(changed, site)


def _with_late(state: RunState, event: UpdateArrived) -> RunState:
    """Remember in the open round who was told to be late for it: a signed receipt says so."""
    current = state.open_round
    if current is None or event.round != current.round or event.site in current.late:
        return state
    changed = current.model_copy(update={"late": (*current.late, event.site)})
    return state.model_copy(update={"open_round": changed})


def _with_site(state: RunState, changed: SiteState) -> RunState:
    sites = tuple(changed if site.site == changed.site else site for site in state.sites)
    return state.model_copy(update={"sites": sites})


def _round(state: RunState) -> int | None:
    return state.open_round.round if state.open_round else None


def _note(state: RunState, event: UpdateArrived | UpdateNoted, verdict: Verdict, now: float) -> TimelineEvent:
    detail = f"update {event.update_digest[:12]} on base {event.base_digest[:12]}"
    # A round that has not opened is whatever its sender likes; entries are bounded by the rounds that have.
    newest = max(state.rounds_closed, _round(state) or 0)
    if event.round > newest:
        detail += f" of round {event.round}"
    number = min(event.round, newest)
    return _entry(now, f"update_{verdict.value}", site=event.site, round_number=number, detail=detail)


def _entry(
    now: float, kind: str, *, site: str | None = None, round_number: int | None = None, detail: str = ""
) -> TimelineEvent:
    return TimelineEvent(at_unix_seconds=now, kind=kind, site=site, round=round_number, detail=detail)
