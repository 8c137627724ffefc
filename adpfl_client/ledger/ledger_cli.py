"""Subcommands about what the site has spent: show it, state it, check it, and set its clock right."""

# ruff: noqa: PLC0415 - imports stand inside the commands: `--help` answers at once

from pathlib import Path
from typing import Annotated

import typer

from adpfl_client.site_option import ConfigOption, JsonOption, SiteOption, load, settle_tls


def add_ledger(app: typer.Typer) -> None:
    """Add `ledger`, `verify` and `acknowledge-clock`.

    Args:
        app: the command.
    """
    app.command()(ledger)
    app.command()(verify)
    app.command("acknowledge-clock")(acknowledge_clock)


def ledger(
    context: typer.Context,
    *,
    site: SiteOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    statement: Annotated[
        str | None, typer.Option("--statement", metavar="RUN", help="Export a signed statement of one run.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Where the statement is written.")
    ] = None,
) -> None:
    """Show what this site has spent of its privacy budget.

    Or, with --statement, export a signed statement of one run.

    A statement holds unit, neighbouring relation, sampling, mechanism, threshold, steps and the honest
    epsilon, signed with the site's key; `adpfl-client verify --statement` checks it.

    Example: adpfl-client ledger --site hospital1 --statement derm --output derm.json
    """
    settings = load(context, site, config)
    if (statement is None) != (output is None):
        from adpfl.errors import ConfigError

        raise ConfigError("--statement RUN and --output FILE go together; one of them is missing")
    if statement is None or output is None:
        from adpfl_client.ledger.ledger_view import show_ledger

        typer.echo(show_ledger(settings, as_json=as_json))
        return
    settle_tls()
    from datetime import UTC, datetime

    from adpfl.privacy.guarantee import shown_epsilon
    from adpfl_client.ledger.statement_command import write_statement

    made = write_statement(settings, statement, output, now=datetime.now(UTC))
    typer.echo(
        f"{output}: run {made.run}, epsilon {shown_epsilon(made.epsilon)} at delta {made.delta:g}, signed"
    )


def verify(
    context: typer.Context,
    site: SiteOption = None,
    config: ConfigOption = None,
    statement: Annotated[
        Path | None, typer.Option("--statement", metavar="FILE", help="Check a signed statement instead.")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="FILE", help="The site's certificate, or the authority's."),
    ] = None,
) -> None:
    """Check the ledger: edits, cuts and rollbacks show. Or check a signed statement.

    Recomputes the ledger's chain, checks the server's signature on every receipt, and that the ledger
    contains every state that was signed for, the newest one kept beside it (ledger.receipt) included. A copy
    of all these files that is older than the newest receipt shows at the agent's next start, from the
    server's memory. A statement needs its file and a certificate, and nothing else of this site.

    Example: adpfl-client verify --site hospital1
    """
    if statement is not None or certificate is not None:
        _verify_statement(statement, certificate)
        return
    settings = load(context, site, config)
    settle_tls()
    from adpfl_client.ledger.ledger_check import verify_ledger

    typer.echo(verify_ledger(settings))


def _verify_statement(statement: Path | None, certificate: Path | None) -> None:
    if statement is None or certificate is None:
        from adpfl.errors import ConfigError

        raise ConfigError("--statement FILE and --certificate FILE go together; one of them is missing")
    settle_tls()
    from adpfl.privacy.guarantee import shown_epsilon
    from adpfl_client.ledger.statement_command import verify_statement

    found = verify_statement(statement, certificate)
    typer.echo(
        f"ok: {found.site} states that run {found.run} has epsilon {shown_epsilon(found.epsilon)} at delta "
        f"{found.delta:g} (unit {found.unit}, {found.neighboring_relation}), dated {found.dated}"
    )


def acknowledge_clock(
    context: typer.Context,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why the clock ran backwards.")],
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who looked into it.")],
    site: SiteOption = None,
    config: ConfigOption = None,
) -> None:
    """Accept, on the record, that the clock ran backwards.

    While the clock is more than five minutes behind the ledger's latest entry, nothing is spent and every run
    is refused. Set the clock right first. Where it was the earlier times that were wrong, this
    command lets the ledger count times from now on; the reason and who looked into it stand in the ledger.

    Example: adpfl-client acknowledge-clock --reason "time server was wrong" --by "Dr. Example"
    """
    settings = load(context, site, config)
    import time

    from adpfl_client.ledger.ledger_check import open_ledger

    with open_ledger(settings) as store:
        changed = store.acknowledge_clock(by=by, reason=reason, now=time.time())
    if changed:
        typer.echo("acknowledged; times count from now on")
    else:
        typer.echo("the clock is not behind the ledger by more than 300 s; nothing was changed")
