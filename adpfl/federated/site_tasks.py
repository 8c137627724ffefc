"""What a site is to do now, read from a run's state."""

from adpfl.federated.run_events import Task
from adpfl.federated.run_state import RunState, SiteState


def task_for(state: RunState, name: str) -> Task:
    """What a site should do now.

    Raises:
        StateError: the run does not name the site.
    """
    site = state.site(name)
    if state.status == "finished":
        return Task("finished", state.rounds_closed, state.published_digest)
    if state.status == "failed":
        return Task("failed", state.rounds_closed, detail=state.failure)
    if state.status == "cancelled":
        detail = (
            f"cancelled by the operator: {state.failure}" if state.failure else "cancelled by the operator"
        )
        return Task("failed", state.rounds_closed, detail=detail)
    current = state.open_round
    reason = _why_waiting(state, site)
    if reason is not None or current is None:
        return Task("wait", current.round if current else 0, detail=reason or "")
    return Task("train", current.round, current.base_digest)


def _why_waiting(state: RunState, site: SiteState) -> str | None:
    """Why a site of a run that goes on has nothing to do; None where it is to train."""
    if not site.joined:
        return "join first"
    if site.refusal is not None:
        return "this site refuses the run until its agent is started again"
    if site.has_left:
        return "this site has left the run"
    return _why_no_update(state, site.site)


def _why_no_update(state: RunState, name: str) -> str | None:
    """Why a site that takes part owes no update now; None where it does."""
    current = state.open_round
    if current is None:
        return "paused by the operator" if state.paused else "waiting for enough sites"
    if name in current.turned_away:
        return f"this site's update was refused: {current.turned_away[name]}; the next round takes another"
    if name in current.late:
        return "this site's update came too late for the round; the next one takes another"
    return "waiting for the round to close" if current.aggregating or name in current.answered else None


def obsolete(state: RunState, name: str, round_number: int) -> bool:
    """Whether work of a site on a round can no longer count."""
    task = task_for(state, name)
    return state.over or (round_number > 0 and (task.kind, task.round) != ("train", round_number))
