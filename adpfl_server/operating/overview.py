"""What an operator asks of the server's state while it runs or rests: lists and status."""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from adpfl.federated.records import ServerRunRecord, TimelineEvent
from adpfl.federated.run_state import RunState, SiteState
from adpfl_server.config import ServerConfig
from adpfl_server.identity.certificate_table import revoked_holders
from adpfl_server.storage.trouble import probe
from adpfl_server.store import Store

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
            trouble = storage_trouble(config.state_dir)
            _print_json([status_document(store, name, trouble) for name in names])
            return
        lines = status_lines(store, names, {entry.run for entry in config.runs})
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line, markup=False)


def status_lines(store: Store, names: Sequence[str], configured: Collection[str] | None = None) -> list[str]:
    """Where runs stand, in words.

    Args:
        store: the server's state.
        names: the runs to tell of.
        configured: the runs that the configuration names; None where it is not looked at.

    Raises:
        StateError: there is no such run.
    """
    revoked = _revoked_sites(store)
    lines = _storage_lines(store.state_dir)
    lines += [] if names else ["no runs yet"]
    for name in names:
        record, state = store.record(name), store.state(name)
        lines.append(f"{name}: {record.summary}")
        if configured is not None and name not in configured and not state.over:
            lines.append("  the configuration no longer names it under runs: a start does not serve it")
        if state.open_round is not None and not state.open_round.aggregating:
            lines.append(f"  {_closing(state)}")
        lines += [f"  {site.site}: {_standing(state, site, revoked)}" for site in state.sites]
        lines += [f"  {_told(event)}" for event in record.timeline[-LAST_EVENTS:]]
    return lines


def status_document(store: Store, run: str, trouble: str | None = None) -> dict[str, object]:
    """Where a run stands, for a program: its record without its rounds, who is waited for, and why.

    Args:
        store: the server's state.
        run: the run's name.
        trouble: what is wrong with the server's disk, if anything is.

    Raises:
        StateError: there is no such run.
    """
    state = store.state(run)
    storage = {"damage": state.damage, "storage_trouble": trouble}
    return _brief(store.record(run)) | _waiting(state, _revoked_sites(store)) | storage


def storage_trouble(state_dir: Path) -> str | None:
    """Why nothing can be stored now, as a small file shows; None where it works, or this user may not."""
    try:
        probe(state_dir)
    except PermissionError:
        return None
    except OSError as error:
        return error.strerror or str(error)
    return None


def _storage_lines(state_dir: Path) -> list[str]:
    trouble = storage_trouble(state_dir)
    if trouble is None:
        return []
    return [
        f"storage: {trouble} ({state_dir}); nothing is taken in until that is mended, and nothing is lost"
    ]


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
    reason = _absence(state, site, revoked)
    waited_for = state.open_round is not None and site.site in state.absent
    if waited_for:
        return f"{known}; its update is missing" + (f": {reason}" if reason else "")
    return f"{known}; {reason}" if reason and not state.over else known


def _absence(state: RunState, site: SiteState, revoked: Collection[str]) -> str:
    """Why a site will not answer; empty where it may."""
    if site.site in revoked:
        return "its certificate is revoked"
    if site.left_at is not None:
        reason = f" ({site.left_reason})" if site.left_reason else ""
        return f"it left the run at {_moment(site.left_at)}{reason}"
    if site.refusal is not None:
        return f"it refuses the run ({site.refusal})"
    turned_away = state.open_round.turned_away if state.open_round else {}
    if site.site in turned_away:
        return f"it was refused ({turned_away[site.site]})"
    if state.open_round is not None and site.site in state.open_round.late:
        return "its update came too late for the round"
    return "it is silent" if site.silent else ""


def _waiting(state: RunState, revoked: Collection[str]) -> dict[str, object]:
    """The same for a program: the deadline, and the sites that will not answer, with the reason."""
    absences = {site.site: _absence(state, site, revoked) for site in state.sites}
    return {
        "round_deadline_unix_seconds": state.deadline_at,
        "update_missing": list(state.absent) if state.open_round is not None else [],
        "not_answering": {site: reason for site, reason in absences.items() if reason and not state.over},
    }


@contextmanager
def open_store(config: ServerConfig) -> Iterator[Store]:
    """The server's state, to read, beside a daemon that may be running; on a full or read-only disk too.

    Raises:
        StateError: there is none yet, or it is damaged.
    """
    store = Store(config.state_dir, read_only=True)
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
