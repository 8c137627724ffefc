"""What an operator asks of the server's state while it runs or rests: lists, status, the newest model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from adpfl.errors import StateError
from adpfl.federated.records import ServerRunRecord, TimelineEvent
from adpfl_server.config import ServerConfig
from adpfl_server.store import DATABASE_FILE, Store
from adpfl_server.weights import export_weights

LAST_EVENTS = 10


def print_runs(config: ServerConfig, *, as_json: bool) -> None:
    """Print one line a run."""
    with _open(config) as store:
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
    with _open(config) as store:
        names = [run] if run is not None else list(store.plan_digests())
        records = [store.record(name) for name in names]
    if as_json:
        _print_json([_brief(record) for record in records])
        return
    console = Console(highlight=False)
    if not records:
        console.print("no runs yet")
    for record in records:
        console.print(f"{record.plan.run}: {record.summary}", markup=False)
        for site in record.plan.cohort.sites:
            patients = record.training_patients.get(site)
            console.print(f"  {site}: " + (f"{patients} training patients" if patients else "not joined"))
        for event in record.timeline[-LAST_EVENTS:]:
            console.print(f"  {_told(event)}", markup=False)


def export_model(config: ServerConfig, run: str, path: Path) -> str:
    """Write a run's newest model; returns one line that says which it is.

    Raises:
        StateError: there is no such run, or the file cannot be written.
        IntegrityError: the model is damaged on disk.
    """
    with _open(config) as store:
        state = store.state(run)
        manifest = store.manifest(state.model_digest)
        if manifest is None:
            raise StateError(f"model {state.model_digest[:12]} of run {run} is not stored")
        try:
            export_weights(path, manifest, store.blobs, plan=state.plan, round_number=state.rounds_closed)
        except OSError as error:
            raise StateError(f"{path}: cannot be written: {error.strerror or error}") from error
    progress = f"round {state.rounds_closed} of {state.plan.rounds} of {run} ({state.status})"
    return f"wrote {path}: the model after {progress}"


@contextmanager
def _open(config: ServerConfig) -> Iterator[Store]:
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
    moment = datetime.fromtimestamp(event.at_unix_seconds, UTC)
    where = f", round {event.round}" if event.round is not None else ""
    who = f" {event.site}" if event.site else ""
    detail = f": {event.detail}" if event.detail else ""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC {event.kind}{who}{where}{detail}"


def _print_json(document: object) -> None:
    Console(soft_wrap=True).print_json(json.dumps(document))
