"""`adpfl-server`: the command of the consortium's operator.

Imports stand inside the commands: `--help` answers at once, and TLS is settled before anything loads gRPC.
"""

# ruff: noqa: PLC0415 - imports stand inside the commands, as said above

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from adpfl.commandline import LogLevel, LogLevelOption, VersionOption, run_command
from adpfl_server.operating.authority_cli import (
    add_authority,
    add_certificates,
    add_requests,
    ask_for_server_certificate,
    found_with_offline_authority,
)
from adpfl_server.operating.config_option import DEFAULT_CONFIG, ConfigOption, load, path_of
from adpfl_server.operating.model_cli import add_models
from adpfl_server.operating.operator_cli import add_audit_log, add_controls


class RoleName(Enum):
    """What a certificate lets its holder do."""

    site = "site"
    operator = "operator"
    auditor = "auditor"


RoleOption = Annotated[RoleName, typer.Option("--role", help="site, operator or auditor.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(
    name="adpfl-server",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    *,
    version: VersionOption = False,  # noqa: ARG001 - the option's callback answers and ends
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Join hospitals into federated runs: hand out models, add up noised updates.

    Without a subcommand this is the daemon: it serves the runs of the configuration to the enrolled sites
    until it is stopped. SIGTERM ends it cleanly; after a crash the next start goes on where the last one was.
    Exit code 0: stopped; 1: it cannot start or go on; 2: bad usage or configuration.

    Example: adpfl-server --config server.yaml
    """
    context.obj = config
    if context.invoked_subcommand is not None:
        return
    from adpfl.logs import configure_logs

    settings = load(config, context)
    configure_logs(level=log_level, service="adpfl-server")
    _require_tls13()
    from adpfl_server.daemon import serve as run_daemon

    run_daemon(settings, path_of(config, context))


@app.command()
def init(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="A name or address that sites dial; repeatable. Default: the configuration's.",
        ),
    ] = None,
    consortium: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Stands in every certificate. Default: adpfl consortium."),
    ] = None,
    authority_certificate: Annotated[
        Path | None,
        typer.Option("--authority-certificate", metavar="FILE", help="Found it with an authority of yours."),
    ] = None,
    authority_key: Annotated[
        Path | None, typer.Option("--authority-key", metavar="FILE", help="That authority's P-256 key.")
    ] = None,
    offline_authority: Annotated[
        Path | None,
        typer.Option(
            "--offline-authority", metavar="FILE", help="The certificate of one whose key stays elsewhere."
        ),
    ] = None,
) -> None:
    """Found the consortium: its authority, the server's keys.

    Makes a certificate authority and the server's certificate.

    Where there is no configuration yet, a commented one is written first. Keys are never overwritten. With
    --authority-certificate and --authority-key the consortium is founded on an authority that you bring,
    self-signed or an intermediate made for this purpose; both files are copied. With --offline-authority the
    authority's key never comes to this machine: what it must sign waits in `adpfl-server requests`.

    Example: adpfl-server init --host fl.example.org
    """
    from datetime import UTC, datetime

    from adpfl.errors import AdpflError, ConfigError
    from adpfl_server.identity.pki import PKI_FOLDER, init_consortium, read_authority
    from adpfl_server.operating.starter import write_starter

    _require_one_founder(consortium, authority_certificate, authority_key, offline_authority)
    path = path_of(config, context)
    starting = not path.exists()
    if starting:
        if not host:
            raise ConfigError(f"{path}: there is no such file; give --host NAME to have a starter written")
        write_starter(path, host[0])
    try:
        settings = load(config, context)
        hosts = tuple(dict.fromkeys([*(host or ()), *settings.public_hosts()]))
        now = datetime.now(UTC)
        if offline_authority is not None:
            name = found_with_offline_authority(settings.state_dir, offline_authority, hosts)
        else:
            founder = (
                read_authority(authority_certificate, authority_key, now=now)
                if authority_certificate and authority_key
                else consortium or "adpfl consortium"
            )
            name = init_consortium(settings.state_dir, founder, hosts, now=now).consortium
    except AdpflError:
        if starting:
            path.unlink()  # a starter without keys would be half an initialisation
        raise
    if starting:
        typer.echo(f"wrote {path}; name your runs there")
    typer.echo(f"made the keys of {name!r} in {settings.state_dir / PKI_FOLDER}")
    if offline_authority is not None:
        ask_for_server_certificate(settings.state_dir, hosts)
        return
    typer.echo(f"sites may dial: {', '.join(hosts)}")
    typer.echo("next: adpfl-server enroll SITE for each site, then start adpfl-server")


def _require_one_founder(
    consortium: str | None,
    authority_certificate: Path | None,
    authority_key: Path | None,
    offline_authority: Path | None,
) -> None:
    """Refuse options of `init` that contradict each other."""
    from adpfl.errors import ConfigError

    if (authority_certificate is None) != (authority_key is None):
        raise ConfigError("--authority-certificate and --authority-key go together; one of them is missing")
    if (authority_certificate or offline_authority) is not None and consortium is not None:
        raise ConfigError(f"--consortium is {consortium}; an authority of yours has its own organisation")
    if authority_certificate is not None and offline_authority is not None:
        raise ConfigError("--authority-certificate and --offline-authority contradict each other; give one")


@app.command()
def enroll(
    context: typer.Context,
    *,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The site's name as in the runs' cohorts, or a person's.")
    ],
    config: ConfigOption = None,
    role: RoleOption = RoleName.site,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The bundle; default: NAME.bundle.json."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="How long the token works.")] = 7,
) -> None:
    """Write a bundle that enrols a site, operator or auditor.

    It holds addresses, certificates and a one-time token: send it like a password. An earlier bundle of the
    same holder stops working.

    Example: adpfl-server enroll hospital1
    """
    from datetime import UTC, datetime, timedelta

    _require_tls13()
    from adpfl.security.bundle import write_bundle
    from adpfl.security.certificates import Holder
    from adpfl_server.identity.pki import load_server_identity
    from adpfl_server.identity.tokens import bundle_for, issue_token
    from adpfl_server.storage.database import open_database
    from adpfl_server.store import DATABASE_FILE

    settings = load(config, context)
    now = datetime.now(UTC)
    identity = load_server_identity(settings.state_dir, now=now)
    database = open_database(settings.state_dir / DATABASE_FILE)
    token = issue_token(database, Holder(role.value, name), now=now, lifetime=timedelta(days=days))
    database.close()
    bundle = bundle_for(
        token, identity, address=settings.public_address, enroll_address=settings.public_enroll_address
    )
    path = output or Path(f"{name}.bundle.json")
    write_bundle(path, bundle)
    typer.echo(f"wrote {path}; it works once, until {token.expires_at:%Y-%m-%d %H:%M UTC}")
    if token.ended:
        typer.echo(f"note: the earlier bundle of {name}, which nobody has used, works no longer")
    if role is RoleName.site and not any(name in entry.cohort.sites for entry in settings.runs):
        typer.echo(f"note: no run of the configuration names {name} yet")


@app.command()
def revoke(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The holder's name.")],
    config: ConfigOption = None,
    role: RoleOption = RoleName.site,
) -> None:
    """Shut a site, operator or auditor out, now.

    Its certificates and open tokens stop working.

    Calls and streams under way are ended by the running server within a second. Exit code 1 where the server
    has never heard of the holder.

    Example: adpfl-server revoke hospital1
    """
    from datetime import UTC, datetime

    _require_tls13()
    from adpfl.security.certificates import Holder
    from adpfl_server.enrollment import revoke as revoke_holder
    from adpfl_server.storage.database import open_database
    from adpfl_server.store import DATABASE_FILE

    settings = load(config, context)
    database = open_database(settings.state_dir / DATABASE_FILE)
    serials = revoke_holder(database, Holder(role.value, name), now=datetime.now(UTC))
    database.close()
    if not serials:
        typer.echo(f"{name} has no certificate that works; its open tokens, if any, are ended")
        return
    typer.echo(f"revoked {len(serials)} certificate(s) of {name}")


@app.command("check-config")
def check_config(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The configuration to check.")
    ] = DEFAULT_CONFIG,
) -> None:
    """Say what is wrong with a configuration, or its runs.

    Changes nothing.

    Says of each run what kind of privacy guarantee it has; each site computes the figures for itself.

    Example: adpfl-server check-config server.yaml
    """
    from adpfl_server.config import load_server_config, require_known_tasks
    from adpfl_server.operating.privacy_notice import guarantee_kind
    from adpfl_server.storage.weights import plan_of

    settings = load_server_config(file)
    require_known_tasks(settings, source=str(file))
    plans = [plan_of(entry) for entry in settings.runs]
    typer.echo(f"{file}: is valid; state in {settings.state_dir}")
    for entry in plans:
        typer.echo(
            f"  {entry.run}: {entry.arm}, {entry.task}, {entry.rounds} rounds, "
            f"{entry.cohort.quorum} of {len(entry.cohort.sites)} sites ({', '.join(entry.cohort.sites)})"
        )
        typer.echo(f"    {entry.arm}: {guarantee_kind(entry.privacy)}")
        if entry.warm_start is not None:
            typer.echo(
                f"    starts from trained weights ({entry.warm_start.trained_on}): {entry.warm_start.words}"
            )


@app.command()
def runs(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002 - a flag
    """List the runs that the server's database knows.

    Example: adpfl-server runs
    """
    from adpfl_server.operating.overview import print_runs

    print_runs(load(config, context), as_json=as_json)


@app.command()
def status(
    context: typer.Context,
    *,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Default: every run.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again; JSON lines where there is no terminal.")
    ] = False,
    every: Annotated[
        float, typer.Option("--every", min=0.2, metavar="SECONDS", help="Between two looks of --watch.")
    ] = 2.0,
) -> None:
    """Tell where a run stands, and who is missing and why.

    Its rounds, its sites, and what happened last.

    Example: adpfl-server status lesions-1 --watch
    """
    if watch:
        from adpfl_server.operating.live_status import watch_status

        watch_status(load(config, context), run, every_seconds=every)
        return
    from adpfl_server.operating.overview import print_status

    print_status(load(config, context), run, as_json=as_json)


add_models(app)
add_controls(app, load)
add_audit_log(app, load)
add_certificates(app, lambda context, config: load(config, context))
add_requests(app, lambda context, config: load(config, context))
add_authority(app)


def _require_tls13() -> None:
    from adpfl.security.tls import require_tls13

    require_tls13()


def main() -> None:
    """Entry point of `adpfl-server`."""
    run_command(app)


if __name__ == "__main__":
    main()
