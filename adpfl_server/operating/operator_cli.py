"""Subcommands with which an operator steers runs and reads the audit log, on the server's own machine."""

# ruff: noqa: PLC0415 - imports stand inside the commands: `--help` answers at once

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adpfl_server.operating.config_option import ConfigOption

if TYPE_CHECKING:
    from adpfl.wire.operations import RunControl
    from adpfl_server.config import ServerConfig

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]
ReasonOption = Annotated[
    str, typer.Option("--reason", help="Stands in the timeline and the audit log.", show_default=False)
]


def add_controls(app: typer.Typer, load: Callable[[Path | None, typer.Context], "ServerConfig"]) -> None:
    """Add `pause`, `resume` and `cancel`.

    Args:
        app: the command.
        load: gives the configuration that the command line names.
    """

    @app.command()
    def pause(
        context: typer.Context, run: RunArgument, reason: ReasonOption = "", config: ConfigOption = None
    ) -> None:
        """Let no further round of a run open.

        The open one may still close.

        Example: adpfl-server pause lesions-1 --reason "scanner replaced at hospital2"
        """
        from adpfl.wire.operations import RunControl

        _control(load(config, context), run, RunControl.PAUSE, reason)

    @app.command()
    def resume(
        context: typer.Context, run: RunArgument, reason: ReasonOption = "", config: ConfigOption = None
    ) -> None:
        """Let rounds of a paused run open again.

        Example: adpfl-server resume lesions-1
        """
        from adpfl.wire.operations import RunControl

        _control(load(config, context), run, RunControl.RESUME, reason)

    @app.command()
    def cancel(
        context: typer.Context, run: RunArgument, reason: ReasonOption = "", config: ConfigOption = None
    ) -> None:
        """End a run for good.

        What was not aggregated never will be.

        Example: adpfl-server cancel lesions-1 --reason "wrong labels at hospital3"
        """
        from adpfl.wire.operations import RunControl

        _control(load(config, context), run, RunControl.CANCEL, reason)


def add_audit_log(app: typer.Typer, load: Callable[[Path | None, typer.Context], "ServerConfig"]) -> None:
    """Add `audit-log show | verify | export`; arguments as for `add_controls`."""
    log_app = typer.Typer(help="The hash-chained record of what was done, and by whom.")
    app.add_typer(log_app, name="audit-log")

    @log_app.command()
    def show(
        context: typer.Context,
        last: Annotated[int, typer.Option(min=0, help="How many entries; 0 shows all.")] = 50,
        config: ConfigOption = None,
    ) -> None:
        """Print entries as JSON lines, oldest first.

        Example: adpfl-server audit-log show --last 0
        """
        from adpfl_server.identity.audit_log import entries, head

        database = _database(load(config, context))
        after = max(head(database).entries - last, 0) if last else 0
        for entry in entries(database, after=after):
            typer.echo(entry.canonical_json().decode("ascii"))

    @log_app.command()
    def verify(
        context: typer.Context,
        earlier: Annotated[
            list[Path] | None,
            typer.Option("--earlier", metavar="FILE", help="An export that the log must still contain."),
        ] = None,
        config: ConfigOption = None,
    ) -> None:
        """Recompute the chain; exit 1 where an entry was tampered with.

        An entry that was changed, added or removed shows.

        A log that was cut at its end shows only against an earlier export: keep one where the server's
        administrator cannot change it.

        Example: adpfl-server audit-log verify --earlier march.jsonl
        """
        from datetime import UTC, datetime

        from adpfl.security.identity import public_key
        from adpfl_server.identity.audit_log import read_export, require_continues, verify_export
        from adpfl_server.identity.audit_log import verify as verify_log
        from adpfl_server.identity.pki import load_server_identity

        settings = load(config, context)
        database = _database(settings)
        found = verify_log(database)
        for path in earlier or ():
            key = public_key(load_server_identity(settings.state_dir, now=datetime.now(UTC)).certificate)
            exported = verify_export(read_export(path), key, source=str(path))
            require_continues(database, exported, source=str(path))
            typer.echo(f"{path}: {exported.entries} entries, all still there")
        typer.echo(f"ok: {found.entries} entries, head {found.chain}")

    @log_app.command()
    def export(
        context: typer.Context,
        out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
        config: ConfigOption = None,
    ) -> None:
        """Write the verified log as JSON lines, signed by the server.

        Its last line is the head of the chain with the server's signature of it.

        Example: adpfl-server audit-log export march.jsonl
        """
        from datetime import UTC, datetime

        from adpfl_server.identity.audit_log import export as export_log
        from adpfl_server.identity.pki import load_server_identity

        settings = load(config, context)
        identity = load_server_identity(settings.state_dir, now=datetime.now(UTC))
        found = export_log(_database(settings), out, identity.key)
        typer.echo(f"wrote {out}: {found.entries} entries, head {found.chain}")


def _control(settings: "ServerConfig", run: str, control: "RunControl", reason: str) -> None:
    from adpfl_server.rounds.steering import outcome, want

    database = _database(settings)
    if database.execute("SELECT 1 FROM runs WHERE run = ?", (run,)).fetchone() is None:
        settings.entry(run)  # neither begun nor planned: no daemon would ever settle the command
    sequence = want(database, run, control, reason, time.time())
    told = outcome(database, sequence)
    unanswered = (
        f"noted; no adpfl-server answers now, the next one to start will {control.name.lower()} {run}"
    )
    typer.echo(told or unanswered)


def _database(settings: "ServerConfig") -> sqlite3.Connection:
    from adpfl.errors import StateError
    from adpfl_server.storage.database import open_database
    from adpfl_server.store import DATABASE_FILE

    path = settings.state_dir / DATABASE_FILE
    if not path.exists():
        raise StateError(f"{path}: there is none yet; start adpfl-server first")
    return open_database(path)
