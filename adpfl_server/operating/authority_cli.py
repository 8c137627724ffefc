"""Subcommands about certificates: the server's own, whose they are, and an authority that is kept offline."""

# ruff: noqa: PLC0415 - imports stand inside the commands: `--help` answers at once

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adpfl_server.operating.config_option import ConfigOption

if TYPE_CHECKING:
    from adpfl.security.signing_files import SigningRequest
    from adpfl_server.config import ServerConfig

Load = Callable[[typer.Context, Path | None], "ServerConfig"]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NEXT_STEPS = (
    "next: adpfl-server requests export FILE here, adpfl-server sign FILE where the authority's key is, "
    "adpfl-server requests import FILE here"
)


def add_certificates(app: typer.Typer, load: Load) -> None:
    """Add `renew-certificate` and `certificates`.

    Args:
        app: the command.
        load: gives the configuration that the command line names.
    """

    @app.command("renew-certificate")
    def renew_certificate(
        context: typer.Context,
        config: ConfigOption = None,
        host: Annotated[
            list[str] | None,
            typer.Option(metavar="HOST", help="A further name or address that sites dial; repeatable."),
        ] = None,
    ) -> None:
        """Renew the server's certificate, for the key it has.

        A running server shows it at once.

        Its names are those of the configuration's public addresses and of --host. Sites notice nothing. Where
        the authority's key is kept offline, this asks for its signature; the old certificate stays till then.

        Example: adpfl-server renew-certificate
        """
        from datetime import UTC, datetime

        from adpfl_server.identity.pki import find_authority, renew_server_certificate

        settings = load(context, config)
        hosts = tuple(dict.fromkeys([*(host or ()), *settings.public_hosts()]))
        now = datetime.now(UTC)
        if find_authority(settings.state_dir, now=now) is None:
            ask_for_server_certificate(settings.state_dir, hosts)
            return
        identity = renew_server_certificate(settings.state_dir, hosts, now=now)
        until = f"{identity.certificate.not_valid_after_utc:%Y-%m-%d}"
        typer.echo(f"renewed the server's certificate until {until}; sites may dial: {', '.join(hosts)}")

    @app.command()
    def certificates(
        context: typer.Context,
        config: ConfigOption = None,
        as_json: JsonOption = False,  # noqa: FBT002 - a flag
    ) -> None:
        """List who holds a certificate, and until when.

        Who was shut out stands there too, and what waits for a signature.

        Example: adpfl-server certificates
        """
        from adpfl_server.operating.certificate_view import print_certificates

        print_certificates(load(context, config), as_json=as_json)


def add_requests(app: typer.Typer, load: Load) -> None:
    """Add `requests list | export | import`; arguments as for `add_certificates`."""
    requests_app = typer.Typer(help="What waits for an authority whose key is kept offline.")
    app.add_typer(requests_app, name="requests")

    @requests_app.command("list")
    def list_requests(context: typer.Context, config: ConfigOption = None) -> None:
        """Show each request that waits, with its key's fingerprint.

        Example: adpfl-server requests list
        """
        from adpfl_server.identity.signing_queue import waiting

        with _database(load(context, config)) as database:
            found = waiting(database)
        for request in found:
            typer.echo(_shown(request))
        typer.echo(NEXT_STEPS if found else "no request waits for a signature")

    @requests_app.command()
    def export(
        context: typer.Context,
        file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to carry to the authority.")],
        config: ConfigOption = None,
    ) -> None:
        """Write what waits into a file for the authority. It goes on waiting, and may be exported again.

        Nothing in the file is secret.

        Example: adpfl-server requests export requests.json
        """
        from datetime import UTC, datetime

        from adpfl_server.identity.pki import load_authority_certificate
        from adpfl_server.identity.signing_queue import export as export_requests

        settings = load(context, config)
        now = datetime.now(UTC)
        authority = load_authority_certificate(settings.state_dir, now=now)
        with _database(settings) as database:
            exported = export_requests(database, authority, file, now=now)
        for request in exported.requests:
            typer.echo(_shown(request))
        count = len(exported.requests)
        typer.echo(f"wrote {file}: {count} request{'' if count == 1 else 's'}")
        if exported.left:
            typer.echo(f"note: {exported.left} more found no room; export them once these are signed")

    @requests_app.command("import")
    def import_file(
        context: typer.Context,
        file: Annotated[Path, typer.Argument(metavar="FILE", help="As `adpfl-server sign` wrote it.")],
        config: ConfigOption = None,
    ) -> None:
        """Take the certificates that the authority signed.

        Each is checked against the request that waits.

        Sites get theirs when they ask again; a running server shows its own at once. What does not fit its
        request is refused by name, and the exit code is then 1.

        Example: adpfl-server requests import certificates.json
        """
        from datetime import UTC, datetime

        from adpfl.errors import IdentityError
        from adpfl_server.identity.certificate_import import import_certificates

        settings = load(context, config)
        with _database(settings) as database:
            verdicts = import_certificates(database, settings.state_dir, file, now=datetime.now(UTC))
        for verdict in verdicts:
            if verdict.until is not None:
                typer.echo(f"{verdict.subject}: certified until {verdict.until:%Y-%m-%d}")
        refused = [f"{verdict.subject} ({verdict.refusal})" for verdict in verdicts if verdict.refusal]
        if refused:
            raise IdentityError(f"{file}: {len(refused)} not taken: {'; '.join(refused)}")


def add_authority(app: typer.Typer) -> None:
    """Add `init-authority` and `sign`, for the machine that keeps the authority's key."""

    @app.command("init-authority")
    def init_authority(
        folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made; holds ca.pem and ca.key.")],
        consortium: Annotated[
            str, typer.Option(metavar="NAME", help="Stands in every certificate.")
        ] = "adpfl consortium",
    ) -> None:
        """Make the authority, on a machine that stays offline.

        Carry DIR/ca.pem to the server: adpfl-server init --offline-authority ca.pem. DIR/ca.key stays.

        Example: adpfl-server init-authority authority --consortium "Lesion Study"
        """
        from datetime import UTC, datetime

        from adpfl.security.signing_files import certificate_fingerprint
        from adpfl_server.identity.pki import make_authority

        certificate = make_authority(folder, consortium, now=datetime.now(UTC))
        until = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
        typer.echo(f"made the authority of {consortium!r} in {folder}, valid until {until}")
        typer.echo(f"its certificate's SHA-256: {certificate_fingerprint(certificate)}")

    @app.command()
    def sign(
        file: Annotated[
            Path, typer.Argument(metavar="FILE", help="As adpfl-server requests export wrote it.")
        ],
        authority: Annotated[
            Path, typer.Option("--authority", metavar="DIR", help="Holds ca.pem and ca.key.")
        ] = Path("authority"),
        output: Annotated[
            Path, typer.Option("--output", "-o", metavar="FILE", help="The certificates, to be carried back.")
        ] = Path("certificates.json"),
        *,
        yes: Annotated[bool, typer.Option("--yes", help="Sign every request without asking.")] = False,
    ) -> None:
        """Sign requests, where the authority's key is.

        Needs no configuration.

        Each request is shown with whom its certificate will name and its key's fingerprint, which its holder
        reads out to you. What you do not agree to is left out, and goes on waiting at the server. The exit
        code is 1 where nothing was signed.

        Example: adpfl-server sign requests.json --authority authority
        """
        from datetime import UTC, datetime

        from adpfl.errors import StateError
        from adpfl_server.identity.offline_signing import sign_file
        from adpfl_server.identity.pki import AUTHORITY_CERTIFICATE, AUTHORITY_KEY, read_authority

        now = datetime.now(UTC)
        found = read_authority(authority / AUTHORITY_CERTIFICATE, authority / AUTHORITY_KEY, now=now)

        def agrees(request: "SigningRequest", fingerprint: str) -> bool:
            typer.echo(_shown(request, fingerprint))
            return yes or _confirmed()

        signed = sign_file(file, output, found, agrees, now=now)
        if not signed:
            raise StateError(f"{file}: no request was agreed to; nothing was signed, and no file was written")
        typer.echo(f"wrote {output}: {len(signed)} certificate{'' if len(signed) == 1 else 's'}")


def found_with_offline_authority(state_dir: Path, certificate: Path, hosts: tuple[str, ...]) -> str:
    """What `init --offline-authority` does: make the server's key beside the authority's certificate.

    Returns:
        The consortium's name.
    """
    from datetime import UTC, datetime

    from adpfl.security.certificates import names_of_hosts
    from adpfl.security.identity import consortium_of
    from adpfl_server.identity.pki import init_without_authority_key, read_authority_certificate

    names_of_hosts(hosts)  # before anything is made
    authority = read_authority_certificate(certificate, now=datetime.now(UTC))
    init_without_authority_key(state_dir, authority)
    return consortium_of(authority)


def ask_for_server_certificate(state_dir: Path, hosts: tuple[str, ...]) -> None:
    """Let the request for the server's certificate wait for the authority, and say what comes next."""
    from contextlib import closing
    from datetime import UTC, datetime

    from adpfl.security.signing_files import key_fingerprint
    from adpfl_server.identity.pki import load_server_key
    from adpfl_server.identity.signing_queue import wait_for_server_certificate
    from adpfl_server.storage.database import open_database
    from adpfl_server.store import DATABASE_FILE

    key = load_server_key(state_dir)
    with closing(open_database(state_dir / DATABASE_FILE)) as database:
        wait_for_server_certificate(database, state_dir, hosts, now=datetime.now(UTC))
    typer.echo(
        f"the server's certificate waits for the authority's signature; sites will dial: {', '.join(hosts)}"
    )
    typer.echo(f"the server's key: {key_fingerprint(key.public_key())}")
    typer.echo(NEXT_STEPS)


def _shown(request: "SigningRequest", fingerprint: str | None = None) -> str:
    from adpfl.security.certificates import public_key_of_request
    from adpfl.security.private_files import MAX_FILE_BYTES
    from adpfl.security.signing_files import key_fingerprint
    from adpfl.wire.limits import shown_text

    key = fingerprint or key_fingerprint(public_key_of_request(request.request_der))
    # The file was carried by somebody: nothing in it may move the cursor under whom is asked to agree. All of
    # it is shown: a subject that was cut would be agreed to unseen.
    words = shown_text(request.words, limit=MAX_FILE_BYTES)
    return f"{words}: {request.purpose}, asked {request.asked_at:%Y-%m-%d %H:%M} UTC\n  key {key}"


def _confirmed() -> bool:
    from adpfl.errors import ConfigError

    try:
        return typer.confirm("  sign?")
    except typer.Abort:
        raise ConfigError("no answer; nothing was signed (--yes signs every request)") from None


@contextmanager
def _database(settings: "ServerConfig") -> Iterator[sqlite3.Connection]:
    from adpfl.errors import StateError
    from adpfl_server.storage.database import open_database
    from adpfl_server.store import DATABASE_FILE

    path = settings.state_dir / DATABASE_FILE
    if not path.exists():
        raise StateError(f"{path}: there is none yet; adpfl-server init makes it")
    database = open_database(path)
    try:
        yield database
    finally:
        database.close()
