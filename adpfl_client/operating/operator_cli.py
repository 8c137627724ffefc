"""`adpfl-client operate ...`: what operators and auditors do from afar, with a certificate of their role."""

# ruff: noqa: PLC0415 - imports stand inside the commands: `--help` answers at once

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adpfl_client.operating.operator_desk import Desk

operate_app = typer.Typer(help="Steer and watch a server as its operator or auditor.")

IdentityOption = Annotated[
    Path, typer.Option("--identity", metavar="DIR", help="Where the enrolled identity lies.")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Stands in the timeline and the audit log.")]
DEFAULT_IDENTITY = Path("operator")


class RoleName(Enum):
    """Whom a certificate may name."""

    site = "site"
    operator = "operator"
    auditor = "auditor"


@operate_app.command()
def enroll(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="As `adpfl-server enroll` wrote it.")],
    identity: IdentityOption = DEFAULT_IDENTITY,
) -> None:
    """Make an operator's or auditor's key and have it certified.

    May be repeated.

    Example: adpfl-client operate enroll alice.bundle.json --identity alice
    """
    _require_tls13()
    from datetime import UTC, datetime

    from adpfl.security.bundle import read_bundle
    from adpfl_client.link.enrollment import enroll as enroll_holder
    from adpfl_client.link.enrollment import named
    from adpfl_client.link.proxy import environment_route

    holder = read_bundle(bundle).holder
    made = enroll_holder(bundle, identity, holder, now=datetime.now(UTC), route=environment_route())
    until = f"{made.certificate.not_valid_after_utc:%Y-%m-%d}"
    typer.echo(f"{named(holder)} is enrolled with {made.consortium} at {made.address}, valid until {until}")


@operate_app.command()
def status(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Default: every run.")] = None,
    identity: IdentityOption = DEFAULT_IDENTITY,
) -> None:
    """Print where runs stand, one JSON document a line.

    Example: adpfl-client operate status lesions-1 --identity alice
    """
    with _desk(identity) as desk:
        for document in desk.status(run):
            typer.echo(document)


@operate_app.command()
def pause(run: RunArgument, reason: ReasonOption = "", identity: IdentityOption = DEFAULT_IDENTITY) -> None:
    """Let no further round of a run open.

    Example: adpfl-client operate pause lesions-1 --reason "scanner replaced"
    """
    _control(identity, run, "PAUSE", reason)


@operate_app.command()
def resume(run: RunArgument, reason: ReasonOption = "", identity: IdentityOption = DEFAULT_IDENTITY) -> None:
    """Let rounds of a paused run open again.

    Example: adpfl-client operate resume lesions-1
    """
    _control(identity, run, "RESUME", reason)


@operate_app.command()
def cancel(run: RunArgument, reason: ReasonOption = "", identity: IdentityOption = DEFAULT_IDENTITY) -> None:
    """End a run for good.

    Example: adpfl-client operate cancel lesions-1 --reason "wrong labels"
    """
    _control(identity, run, "CANCEL", reason)


@operate_app.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whom to shut out.")],
    role: Annotated[RoleName, typer.Option(help="The role of the name.")] = RoleName.site,
    identity: IdentityOption = DEFAULT_IDENTITY,
) -> None:
    """Shut a site, operator or auditor out.

    Its calls under way end at once.

    Example: adpfl-client operate revoke hospital1 --identity alice
    """
    with _desk(identity) as desk:
        serials = desk.revoke(role.value, name)
    typer.echo(f"revoked {len(serials)} certificate(s) of {name}")


@operate_app.command("audit-log")
def audit_log(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the log is kept, as JSON lines.")],
    identity: IdentityOption = DEFAULT_IDENTITY,
) -> None:
    """Fetch the audit log into a file, and check it against that.

    The log must continue what the file holds already.

    Exit code 1 where the server's log was cut, changed or written anew since the last time.

    Example: adpfl-client operate audit-log consortium.jsonl --identity bob
    """
    with _desk(identity) as desk:
        from adpfl_client.operating.operator_desk import keep_audit_log  # loads grpc: after the TLS policy

        head, new = keep_audit_log(desk, file)
    typer.echo(f"{file}: {head.entries} entries, {new} of them new, head {head.chain}")


def _control(identity: Path, run: str, control: str, reason: str) -> None:
    from adpfl.wire.operations import RunControl

    with _desk(identity) as desk:
        now = desk.control(run, RunControl[control], reason)
    typer.echo(f"{run} is {now}")


def _desk(identity: Path) -> "Desk":
    _require_tls13()
    from adpfl_client.operating.operator_desk import open_desk

    return open_desk(identity)


def _require_tls13() -> None:
    from adpfl.security.tls import require_tls13

    require_tls13()
