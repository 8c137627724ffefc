"""`adpfl-client`: the command that a hospital runs.

Imports stand inside the commands: `--help` answers at once, and TLS is settled before anything loads gRPC.
"""

# ruff: noqa: PLC0415 - imports stand inside the commands, as said above
# ruff: noqa: FBT002 - typer turns a boolean default into a flag

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adpfl.commandline import VersionOption, run_command
from adpfl_client.operator_cli import operate_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from adpfl.security.identity import CallerIdentity
    from adpfl_client.config import SiteConfig

SiteOption = Annotated[
    str | None,
    typer.Option(
        "--site", metavar="NAME", help="This site's name; finds NAME.yaml in ./sites or /etc/adpfl/sites."
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="The site's configuration file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

GOOD_ENDS = frozenset({"finished", "left"})
"""Of a run, at which the agent's exit code is 0."""

app = typer.Typer(
    name="adpfl-client",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(frozen=True)
class _Where:
    """`--site` and `--config` as they stand before the subcommand."""

    site: str | None
    config: Path | None


app.add_typer(operate_app, name="operate")


@app.callback(invoke_without_command=True)
def agent(
    context: typer.Context,
    *,
    version: VersionOption = False,  # noqa: ARG001 - the option's callback answers and ends
    site: SiteOption = None,
    config: ConfigOption = None,
    until_finished: Annotated[
        bool, typer.Option("--until-finished", help="End when every run that names this site is over.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Train on this site's images in federated runs; only noised updates leave.

    Without a subcommand this is the agent: it calls the server, checks each run against the site's own
    policy, trains, and keeps calling until it is stopped (SIGTERM ends it cleanly at the next step). Exit
    code 0: stopped, or all runs finished; 1: a run failed or was refused; 2: bad usage or configuration.

    Example: adpfl-client --site hospital1
    """
    context.obj = _Where(site, config)
    if context.invoked_subcommand is None:
        _run_agent(_load(context), until_finished=until_finished, log_level=log_level)


def _run_agent(config: "SiteConfig", *, until_finished: bool, log_level: str) -> None:
    from adpfl.logs import configure_logs

    configure_logs(level=log_level, service="adpfl-client", site=config.site)
    _require_tls13()
    from adpfl_client.running import run_agent

    outcomes = run_agent(config, until_finished=until_finished)
    for outcome in outcomes or ():
        typer.echo(f"{outcome.run}: {outcome.summary}", err=outcome.status not in GOOD_ENDS)
    if any(outcome.status not in GOOD_ENDS for outcome in outcomes or ()):
        sys.exit(1)


@app.command()
def enroll(
    context: typer.Context,
    *,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The file that the operator sent.")],
    site: SiteOption = None,
    config: ConfigOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Give up an identity that came from another bundle.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Where the consortium signs offline: ask again until it has.")
    ] = False,
) -> None:
    """Make this site's key and have the server certify it.

    The key never leaves the site. The command may be repeated after a crash or a lost answer: the same
    bundle gives the same certificate. A consortium that signs offline answers at first that the request
    waits (exit code 1): run the same command again later, or with --wait.

    Example: adpfl-client enroll hospital1.bundle.json
    """
    _require_tls13()
    from datetime import UTC, datetime

    from adpfl.security.bundle import read_bundle
    from adpfl.security.certificates import Holder
    from adpfl_client.enrollment import enroll as enroll_holder
    from adpfl_client.proxy import route_of

    where = _where(context, site, config)
    if where == _Where(None, None):
        where = _Where(read_bundle(bundle).name, None)
    settings = _load_from(where)
    holder = Holder("site", settings.site)
    route = route_of(settings)

    def attempt() -> "CallerIdentity":
        now = datetime.now(UTC)
        return enroll_holder(bundle, settings.state_dir, holder, now=now, replace=replace, route=route)

    identity = _waited_for(attempt) if wait else attempt()
    typer.echo(
        f"{identity.site} is enrolled with {identity.consortium} at {identity.address}, "
        f"certificate valid until {identity.certificate.not_valid_after_utc:%Y-%m-%d}"
    )


def _waited_for(attempt: "Callable[[], CallerIdentity]") -> "CallerIdentity":
    import time

    from adpfl_client.signature_wait import enroll_and_wait

    return enroll_and_wait(attempt, tell=lambda words: typer.echo(words, err=True), pause=time.sleep)


@app.command()
def check(context: typer.Context, site: SiteOption = None, config: ConfigOption = None) -> None:
    """Try everything that a run will need; one line each.

    Configuration, data, policy, identity, ledger, and a call to the server, which takes it for a sign of
    life. Changes nothing. Exit code 1 when a line says failed.

    Example: adpfl-client check --site hospital1
    """
    settings = _load(context, site, config)
    _require_tls13()
    from adpfl_client.checkup import check_site

    failed = False
    for result in check_site(settings):
        failed = failed or not result.passed
        typer.echo(f"{'ok' if result.passed else 'failed':<7} {result.subject}: {result.finding}")
    if failed:
        sys.exit(1)


@app.command("check-config")
def check_config(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A site's configuration file.")],
) -> None:
    """Say what is wrong with a configuration file, unknown tasks included.

    Example: adpfl-client check-config sites/hospital1.yaml
    """
    settings = _load_from(_Where(None, file))
    from adpfl_client.config import require_known_tasks

    require_known_tasks(settings, source=str(file))
    typer.echo(f"{file}: ok, site {settings.site}, data for {', '.join(sorted(settings.data))}")


@app.command()
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
    """Show what this site has spent of its privacy budget, or export a signed statement of one run.

    A statement holds unit, neighbouring relation, sampling, mechanism, threshold, steps and the honest
    epsilon, signed with the site's key; `adpfl-client verify --statement` checks it.

    Example: adpfl-client ledger --site hospital1 --statement derm --output derm.json
    """
    settings = _load(context, site, config)
    if (statement is None) != (output is None):
        from adpfl.errors import ConfigError

        raise ConfigError("--statement RUN and --output FILE go together; one of them is missing")
    if statement is None or output is None:
        from adpfl_client.ledger_view import show_ledger

        typer.echo(show_ledger(settings, as_json=as_json))
        return
    _require_tls13()
    from datetime import UTC, datetime

    from adpfl_client.statement_command import write_statement

    made = write_statement(settings, statement, output, now=datetime.now(UTC))
    typer.echo(f"{output}: run {made.run}, epsilon {made.epsilon:.4g} at delta {made.delta:g}, signed")


@app.command()
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
    settings = _load(context, site, config)
    _require_tls13()
    from adpfl_client.ledger_check import verify_ledger

    typer.echo(verify_ledger(settings))


def _verify_statement(statement: Path | None, certificate: Path | None) -> None:
    if statement is None or certificate is None:
        from adpfl.errors import ConfigError

        raise ConfigError("--statement FILE and --certificate FILE go together; one of them is missing")
    _require_tls13()
    from adpfl_client.statement_command import verify_statement

    found = verify_statement(statement, certificate)
    typer.echo(
        f"ok: {found.site} states that run {found.run} has epsilon {found.epsilon:.4g} at delta "
        f"{found.delta:g} (unit {found.unit}, {found.neighboring_relation}), dated {found.dated}"
    )


@app.command()
def exclude(
    context: typer.Context,
    *,
    patient: Annotated[str, typer.Argument(metavar="PATIENT", help="As the data folder names the patient.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; without the patient's name.")],
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who decided.")],
    site: SiteOption = None,
    config: ConfigOption = None,
    not_in_data: Annotated[
        bool, typer.Option("--not-in-data", help="Exclude a name that no data folder holds.")
    ] = False,
) -> None:
    """Exclude a patient who withdrew consent, from the next round on.

    There is no way back, and a repeat changes nothing. What was released before stays released and charged.
    The ledger records a keyed fingerprint, the reason and who decided; never the patient's name. The declared
    number of patients stays, and the patient's place in it is left empty, so keep the images until every run
    under way that declared the patient is over; then delete them.

    Example: adpfl-client exclude ISIC_0012345 --reason "consent withdrawn" --by "Dr. Example"
    """
    settings = _load(context, site, config)
    from adpfl_client.exclusions import exclude_patient

    found = exclude_patient(settings, patient, reason=reason, by=by, not_in_data=not_in_data)
    where = f"in the data of {', '.join(found.tasks)}" if found.tasks else "in no data folder"
    typer.echo(f"excluded from the next round on ({where}); {found.excluded_so_far} excluded in all")


@app.command()
def approve(
    context: typer.Context,
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="As the server names it.")],
    by: Annotated[
        str | None,
        typer.Option(
            "--by", metavar="NAME", help="Who consents; without it the cost is shown and nothing done."
        ),
    ] = None,
    digest: Annotated[
        str | None, typer.Option("--digest", metavar="HEX", help="Consent to this very plan only.")
    ] = None,
    site: SiteOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the whole cost of a run; with --by, consent to it.

    Needed where the policy says `require_approval: true`: the agent then shows the cost, refuses the run, and
    joins it at its next start after the approval. The consent is to one plan, by its digest, and stands in
    the ledger; a changed plan needs another. It lifts no other rule of the policy.

    Example: adpfl-client approve derm --site hospital1

    Example: adpfl-client approve derm --site hospital1 --by "Dr. Example"
    """
    settings = _load(context, site, config)
    from adpfl_client.approvals import approve_run, read_offer

    for line in read_offer(settings.state_dir, run).cost:
        typer.echo(line)
    if by is not None:
        offer = approve_run(settings, run, by=by, digest=digest)
        typer.echo(f"approved by {by}: plan {offer.plan_digest}")


@app.command()
def leave(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="As the server names it.")],
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; the server is told, so name no patient.")
    ] = "",
    site: SiteOption = None,
    config: ConfigOption = None,
) -> None:
    """End this site's part in a run; what it has sent counts, and what it has spent stays spent.

    The agent may be running: it stops training for the run at the next step, gives up what it had reserved,
    and tells the server, which no longer waits for the site. `adpfl-client join` takes it back.

    Example: adpfl-client leave derm --site hospital1 --reason "scanner replaced"
    """
    settings = _load(context, site, config)
    _require_tls13()
    from adpfl_client.leaving import leave_run

    typer.echo(leave_run(settings, run, reason=reason))


@app.command()
def join(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run that this site has left.")],
    site: SiteOption = None,
    config: ConfigOption = None,
) -> None:
    """Take part again in a run that this site has left; policy and budget are checked anew.

    Example: adpfl-client join derm --site hospital1
    """
    settings = _load(context, site, config)
    _require_tls13()
    from adpfl_client.leaving import come_back

    typer.echo(come_back(settings, run))


@app.command("acknowledge-clock")
def acknowledge_clock(
    context: typer.Context,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why the clock ran backwards.")],
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who looked into it.")],
    site: SiteOption = None,
    config: ConfigOption = None,
) -> None:
    """Accept, on the record, that this machine's clock ran backwards.

    While the clock is more than five minutes behind the ledger's latest entry, nothing is spent and every run
    is refused. Set the clock right first. Where it was the earlier times that were wrong, this
    command lets the ledger count times from now on; the reason and who looked into it stand in the ledger.

    Example: adpfl-client acknowledge-clock --reason "time server was wrong" --by "Dr. Example"
    """
    settings = _load(context, site, config)
    import time

    from adpfl_client.ledger_check import open_ledger

    with open_ledger(settings) as store:
        store.acknowledge_clock(by=by, reason=reason, now=time.time())
    typer.echo("acknowledged; times count from now on")


@app.command()
def models(
    context: typer.Context,
    site: SiteOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the global models that this site received.

    Example: adpfl-client models --site hospital1
    """
    settings = _load(context, site, config)
    from adpfl_client.model_view import show_models

    typer.echo(show_models(settings.state_dir, as_json=as_json))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file; see `adpfl-client models`.")],
    images: Annotated[Path, typer.Argument(metavar="DIR", help="Images in a layout of the model's task.")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where the masks are written.")],
) -> None:
    """Segment images with a model that this site received.

    Writes one mask file an image. The model file says which network and task it is for: no configuration and
    no server are needed.

    Example: adpfl-client predict state/models/derm/round-0020.safetensors images --output masks
    """
    from adpfl_client.prediction import predict_folder

    written = predict_folder(model, images, output)
    typer.echo(f"{len(written)} masks written to {output}")


def _where(context: typer.Context, site: str | None, config: Path | None) -> _Where:
    before: _Where = context.obj
    return _Where(site or before.site, config or before.config)


def _load(context: typer.Context, site: str | None = None, config: Path | None = None) -> "SiteConfig":
    return _load_from(_where(context, site, config))


def _load_from(where: _Where) -> "SiteConfig":
    from adpfl_client.config import load_site_config

    return load_site_config(where.site, where.config)


def _require_tls13() -> None:
    from adpfl.security.tls import require_tls13

    require_tls13()


def main() -> None:
    """Entry point of `adpfl-client`."""
    run_command(app)


if __name__ == "__main__":
    main()
