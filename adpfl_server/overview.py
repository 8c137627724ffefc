"""What an operator asks of the server's state while it runs or rests: lists and status."""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from adpfl.errors import StateError
from adpfl.federated.records import ServerRunRecord, TimelineEvent
from adpfl.federated.run_state import RunState, SiteState
from adpfl_server.certificate_table import revoked_holders
from adpfl_server.config import ServerConfig
from adpfl_server.store import DATABASE_FILE, Store

LAST_EVENTS = 10


def print_runs(config: ServerConfig, *, as_json: bool) -> None:
    """Print one line a run."""
    with open_store(config) as store:
        records = [store.record(run) for run in store.plan_digests()]
    if as_json:
        _print_json([_brief(record) for record in records])
        return
    table = Table("run", "arm", "task", "status", "rounds", "sites")
    for record in records:
        closed = sum(entry.closed_unix_seconds is not None for entry in record.rounds)
        table.add_row(
            record.plan.run,
            record.plan.arm,
            record.plan.task,
            record.status,
            f"{closed} of {record.plan.rounds}",
            ", ".join(record.plan.cohort.sites),
        )
    Console().print(table if records else "no runs yet")


def print_status(config: ServerConfig, run: str | None, *, as_json: bool) -> None:
    """Print where one run stands, or each.

    Raises:
        StateError: there is no such run.
    """
    with open_store(config) as store:
        names = [run] if run is not None else list(store.plan_digests())
        if as_json:
            _print_json([status_document(store, name) for name in names])
            return
        lines = status_lines(store, names)
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line, markup=False)


def status_lines(store: Store, names: Sequence[str]) -> list[str]:
    """Where runs stand, in words.

    Raises:
        StateError: there is no such run.
    """
    revoked = _revoked_sites(store)
    lines = [] if names else ["no runs yet"]
    for name in names:
        record, state = store.record(name), store.state(name)
        lines.append(f"{name}: {record.summary}")
        if state.open_round is not None and not state.open_round.aggregating:
            lines.append(f"  {_closing(state)}")
        lines += [f"  {site.site}: {_standing(state, site, revoked)}" for site in state.sites]
        lines += [f"  {_told(event)}" for event in record.timeline[-LAST_EVENTS:]]
    return lines


def status_document(store: Store, run: str) -> dict[str, object]:
    """Where a run stands, for a program: its record without its rounds, and who is waited for and why.

    Raises:
        StateError: there is no such run.
    """
    return _brief(store.record(run)) | _waiting(store.state(run), _revoked_sites(store))


def _revoked_sites(store: Store) -> frozenset[str]:
    return frozenset(holder.name for holder in revoked_holders(store.connection) if holder.role == "site")


def _closing(state: RunState) -> str:
    """When the open round closes at the latest, and what for."""
    current, quorum = state.open_round, state.plan.cohort.quorum
    assert current is not None, "only asked of a run with an open round"
    if state.deadline_at is None:
        return (
            f"round {current.round} is past its deadline and closes with the update that makes the quorum of "
            f"{quorum}; it has {len(current.updates)}"
        )
    text = f"round {current.round} closes at {_moment(state.deadline_at)} at the latest"
    if len(current.updates) >= quorum:
        return text
    return f"{text}, given the quorum of {quorum} updates; it has {len(current.updates)}"


def _standing(state: RunState, site: SiteState, revoked: Collection[str]) -> str:
    """What one site brings, and why nothing is heard of it."""
    known = f"{site.training_patients} training patients" if site.joined else "not joined"
    reason = _absence(site, revoked)
    waited_for = state.open_round is not None and site.site in state.absent
    if waited_for:
        return f"{known}; its update is missing" + (f": {reason}" if reason else "")
    return f"{known}; {reason}" if reason and not state.over else known


def _absence(site: SiteState, revoked: Collection[str]) -> str:
    """Why a site will not answer; empty where it may."""
    if site.site in revoked:
        return "its certificate is revoked"
    if site.refusal is not None:
        return f"it refuses the run ({site.refusal})"
    return "it is silent" if site.silent else ""


def _waiting(state: RunState, revoked: Collection[str]) -> dict[str, object]:
    """The same for a program: the deadline, and the sites that will not answer, with the reason."""
    absences = {site.site: _absence(site, revoked) for site in state.sites}
    return {
        "round_deadline_unix_seconds": state.deadline_at,
        "update_missing": list(state.absent) if state.open_round is not None else [],
        "not_answering": {site: reason for site, reason in absences.items() if reason and not state.over},
    }


@contextmanager
def open_store(config: ServerConfig) -> Iterator[Store]:
    """The server's state, beside a daemon that may be running.

    Raises:
        StateError: there is none yet.
    """
    database = config.state_dir / DATABASE_FILE
    if not database.exists():
        raise StateError(f"{database}: there is none yet; start adpfl-server first")
    store = Store(config.state_dir)
    try:
        yield store
    finally:
        store.close()


def _brief(record: ServerRunRecord) -> dict[str, object]:
    document = record.model_dump(mode="json", exclude={"timeline", "rounds"})
    document["rounds_closed"] = sum(entry.closed_unix_seconds is not None for entry in record.rounds)
    document["last_events"] = [event.model_dump(mode="json") for event in record.timeline[-LAST_EVENTS:]]
    return document


def _told(event: TimelineEvent) -> str:
    where = f", round {event.round}" if event.round is not None else ""
    who = f" {event.site}" if event.site else ""
    detail = f": {event.detail}" if event.detail else ""
    return f"{_moment(event.at_unix_seconds)} {event.kind}{who}{where}{detail}"


def _moment(unix_seconds: float) -> str:
    return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _print_json(document: object) -> None:
    Console(soft_wrap=True).print_json(json.dumps(document))
