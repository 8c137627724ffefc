"""What a site is to do now, read from a run's state."""

from adpfl.federated.run_events import Task
from adpfl.federated.run_state import RunState


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
    if not site.joined:
        reason = "join first"
    elif site.refusal is not None:
        reason = "this site refuses the run until its agent is started again"
    elif site.has_left:
        reason = "this site has left the run"
    elif current is None:
        reason = "paused by the operator" if state.paused else "waiting for enough sites"
    elif name in current.turned_away:
        reason = f"this site's update was refused: {current.turned_away[name]}; the next round takes another"
    elif current.aggregating or name in current.answered:
        reason = "waiting for the round to close"
    else:
        return Task("train", current.round, current.base_digest)
    return Task("wait", current.round if current else 0, detail=reason)


def obsolete(state: RunState, name: str, round_number: int) -> bool:
    """Whether work of a site on a round can no longer count."""
    task = task_for(state, name)
    return state.over or (round_number > 0 and (task.kind, task.round) != ("train", round_number))
