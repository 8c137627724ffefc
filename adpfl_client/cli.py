"""`adpfl-client`: the command that a hospital runs.

Imports stand inside the commands: `--help` answers at once, and TLS is settled before anything loads gRPC.
"""

# ruff: noqa: PLC0415 - imports stand inside the commands, as said above
# ruff: noqa: FBT002 - typer turns a boolean default into a flag

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adpfl.commandline import LogLevel, LogLevelOption, VersionOption, run_command
from adpfl.tasks.registry import known_tasks
from adpfl_client.ledger.ledger_cli import add_ledger
from adpfl_client.operating.operator_cli import operate_app
from adpfl_client.site_option import (
    ConfigOption,
    JsonOption,
    SiteOption,
    Where,
    load,
    load_from,
    settle_tls,
    where_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from adpfl.security.identity import CallerIdentity
    from adpfl_client.config import SiteConfig

GOOD_ENDS = frozenset({"finished", "left"})
"""Of a run, at which the agent's exit code is 0."""

app = typer.Typer(
    name="adpfl-client",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Train on this site's images in federated runs; only noised updates leave.

    Without a subcommand this is the agent: it calls the server, checks each run against the site's own
    policy, trains, and keeps calling until it is stopped (SIGTERM ends it cleanly at the next step). Exit
    code 0: stopped, or all runs finished; 1: a run failed or was refused; 2: bad usage or configuration.

    Example: adpfl-client --site hospital1
    """
    context.obj = Where(site, config)
    if context.invoked_subcommand is None:
        _run_agent(load(context), until_finished=until_finished, log_level=log_level)


def _run_agent(config: "SiteConfig", *, until_finished: bool, log_level: LogLevel) -> None:
    from adpfl.logs import configure_logs

    configure_logs(level=log_level, service="adpfl-client", site=config.site)
    settle_tls()
    from adpfl_client.running import run_agent

    outcomes = run_agent(config, until_finished=until_finished)
    for outcome in outcomes or ():
        typer.echo(f"{outcome.run}: {outcome.summary}", err=outcome.status not in GOOD_ENDS)
    if any(outcome.status not in GOOD_ENDS for outcome in outcomes or ()):
        sys.exit(1)


@app.command()
def init(
    context: typer.Context,
    site: SiteOption = None,
    config: ConfigOption = None,
    task: Annotated[
        str,
        typer.Option("--task", metavar="NAME", help=f"What its images are for: {', '.join(known_tasks())}."),
    ] = "skin_lesion",
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Where they lie. Default: data/TASK.")
    ] = None,
) -> None:
    """Write a commented site file to begin with.

    It goes to sites/NAME.yaml, where --site finds it, or to --config FILE, and is never overwritten. Read it
    before the agent starts: its policy is what this site allows.

    Example: adpfl-client init --site hospital1 --task skin_lesion --data /data/isic
    """
    from adpfl.errors import ConfigError
    from adpfl_client.operating.starter import write_starter

    where = where_of(context, site, config)
    if where.site is None:
        raise ConfigError("--site is missing; give --site NAME, this site's name")
    path = write_starter(where.site, where.config, task=task, data=data)
    typer.echo(f"wrote {path}; read it, above all its policy")
    by = f"--config {path}" if where.config else f"--site {where.site}"
    typer.echo(f"next: adpfl-client enroll BUNDLE {by}, then adpfl-client check {by}")


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
    settle_tls()
    from datetime import UTC, datetime

    from adpfl.security.bundle import read_bundle
    from adpfl.security.certificates import Holder
    from adpfl_client.link.enrollment import enroll as enroll_holder
    from adpfl_client.link.proxy import route_of

    where = where_of(context, site, config)
    if where == Where(None, None):
        where = Where(read_bundle(bundle).name, None)
    settings = load_from(where)
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

    from adpfl_client.link.signature_wait import enroll_and_wait

    return enroll_and_wait(attempt, tell=lambda words: typer.echo(words, err=True), pause=time.sleep)


@app.command()
def check(context: typer.Context, site: SiteOption = None, config: ConfigOption = None) -> None:
    """Try everything that a run will need; one line each.

    Configuration, data, policy, state folder, identity, ledger and its clock, and a call to the server, which
    takes it for a sign of life. Changes nothing. Exit code 1 when a line says failed.

    Example: adpfl-client check --site hospital1
    """
    settings = load(context, site, config)
    settle_tls()
    from adpfl_client.operating.checkup import check_site

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
    """Say what is wrong with a site's file, or that it is ok.

    Names of unknown tasks are found too.

    Example: adpfl-client check-config sites/hospital1.yaml
    """
    settings = load_from(Where(None, file))
    from adpfl_client.config import require_known_tasks

    require_known_tasks(settings, source=str(file))
    typer.echo(f"{file}: ok, site {settings.site}, data for {', '.join(sorted(settings.data))}")


add_ledger(app)


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
    """Exclude a patient who withdrew consent, for good.

    It holds from the next round on. There is no way back, and a repeat changes nothing. What was released
    before stays released and charged. The ledger records a keyed fingerprint, the reason and who decided;
    never the patient's name. The declared number of patients stays, and the patient's place in it is left
    empty, so keep the images until every run under way that declared the patient is over; then delete
    them.

    Example: adpfl-client exclude ISIC_0012345 --reason "consent withdrawn" --by "Dr. Example"
    """
    settings = load(context, site, config)
    from adpfl_client.ledger.exclusions import exclude_patient

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
    settings = load(context, site, config)
    from adpfl_client.operating.approvals import approve_run, read_offer

    for line in read_offer(settings.state_dir, run).cost:
        typer.echo(line)
    if by is not None:
        offer = approve_run(settings, run, by=by, digest=digest)
        typer.echo(f"approved by {by}: plan {offer.plan_digest}; the agent heeds it from its next start on")


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
    """End this site's part in a run.

    What it has sent counts, and what it has spent stays spent.

    The agent may be running: it stops training for the run at the next step, gives up what it had reserved,
    and tells the server, which no longer waits for the site. `adpfl-client join` takes it back.

    Example: adpfl-client leave derm --site hospital1 --reason "scanner replaced"
    """
    settings = load(context, site, config)
    settle_tls()
    from adpfl_client.operating.leaving import leave_run

    typer.echo(leave_run(settings, run, reason=reason))


@app.command()
def join(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run that this site has left.")],
    site: SiteOption = None,
    config: ConfigOption = None,
) -> None:
    """Take part again in a run that this site has left.

    Policy and budget are checked anew.

    Example: adpfl-client join derm --site hospital1
    """
    settings = load(context, site, config)
    settle_tls()
    from adpfl_client.operating.leaving import come_back

    typer.echo(come_back(settings, run))


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
    settings = load(context, site, config)
    from adpfl_client.operating.model_view import show_models

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
    from adpfl_client.operating.prediction import predict_folder

    written = predict_folder(model, images, output)
    typer.echo(f"{len(written)} masks written to {output}")


def main() -> None:
    """Entry point of `adpfl-client`."""
    run_command(app)


if __name__ == "__main__":
    main()
