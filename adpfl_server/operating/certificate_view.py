"""What an operator sees of certificates: the authority's, the server's, everybody's, and what waits."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from rich.console import Console
from rich.table import Table

from adpfl.errors import IdentityError
from adpfl.security.certificates import serial_text
from adpfl.security.identity import load_certificate
from adpfl.security.private_files import read_public
from adpfl.security.signing_files import SigningRequest
from adpfl_server.config import ServerConfig
from adpfl_server.identity import signing_queue
from adpfl_server.identity.certificate_table import EXPIRES_SOON, issued, standing_until
from adpfl_server.identity.pki import AUTHORITY_CERTIFICATE, AUTHORITY_KEY, PKI_FOLDER, SERVER_CERTIFICATE
from adpfl_server.operating.overview import open_store

RENEW_HERE: Final = "adpfl-server renew-certificate"
RENEW_OFFLINE: Final = (
    "adpfl-server renew-certificate, requests export FILE, sign FILE on the authority's machine, "
    "requests import FILE"
)
FOUND_ANEW: Final = "found a new consortium and enrol everybody"


def ending_soon(state_dir: Path, now: datetime) -> Iterator[str]:
    """What is to be done, by command, about the server's own certificates that end soon or have ended."""
    offline = not (state_dir / PKI_FOLDER / AUTHORITY_KEY).exists()
    for role, certificate in _own(state_dir):
        ends = certificate.not_valid_after_utc
        if now < ends - EXPIRES_SOON:
            continue
        renewed_by = RENEW_OFFLINE if offline else RENEW_HERE
        mend = FOUND_ANEW if role == "authority" else f"renew it: {renewed_by}"
        yield f"the {role}'s certificate ends at {ends:%Y-%m-%d %H:%M} UTC; {mend}"


def print_certificates(config: ServerConfig, *, as_json: bool) -> None:
    """Print every certificate, the newest of each holder first, and what waits for a signature."""
    now = datetime.now(UTC)
    with open_store(config) as store:
        found = [row.document(now) for row in issued(store.connection)]
        waiting = [_waiting(request) for request in signing_queue.waiting(store.connection)]
    own = [_document(role, certificate, now) for role, certificate in _own(config.state_dir)]
    documents = [*own, *found, *waiting]
    console = Console(soft_wrap=True)
    if as_json:
        console.print_json(json.dumps(documents))
        return
    table = Table("role", "name", "serial", "valid until", "standing")
    for row in documents:
        ends = row["not_after_unix_seconds"]
        until = (
            f"{datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M:%S} UTC" if isinstance(ends, float) else ""
        )
        table.add_row(*(str(row[key]) for key in ("role", "name", "serial")), until, str(row["standing"]))
    console.print(table)
    for words in ending_soon(config.state_dir, now):
        console.print(words, markup=False, highlight=False)


def _own(state_dir: Path) -> Iterator[tuple[str, x509.Certificate]]:
    """The authority's certificate and the server's, as far as they can be read."""
    for role, name in (("authority", AUTHORITY_CERTIFICATE), ("server", SERVER_CERTIFICATE)):
        path = state_dir / PKI_FOLDER / name
        try:
            yield role, load_certificate(read_public(path), what=str(path))
        except IdentityError:  # a start says what is wrong with it
            continue


def _document(role: str, certificate: x509.Certificate, now: datetime) -> dict[str, object]:
    ends = certificate.not_valid_after_utc
    return {
        "role": role,
        "name": "",
        "serial": serial_text(certificate),
        "not_after_unix_seconds": ends.timestamp(),
        "standing": standing_until(ends.timestamp(), now),
    }


def _waiting(request: SigningRequest) -> dict[str, object]:
    return {
        "role": request.role,
        "name": request.name,
        "serial": "",
        "not_after_unix_seconds": None,
        "standing": f"{request.purpose} waits for a signature",
    }
