"""Requests that wait for an authority whose key is not on this machine: the database's table of them.

A request is named by the SHA-256 of its bytes and by whom its certificate would name. It waits until its
certificate is imported, or until it is withdrawn: by a newer one of the same holder, or because the holder
was revoked or given a new token.
"""

import json
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from adpfl.errors import IdentityError, StateError
from adpfl.security.certificates import Holder, create_request, names_of_hosts, public_key_of_request
from adpfl.security.identity import consortium_of
from adpfl.security.private_files import MAX_FILE_BYTES
from adpfl.security.signing_files import (
    REQUESTS_PER_FILE,
    Purpose,
    RequestFile,
    SigningRequest,
    certificate_fingerprint,
    key_fingerprint,
    request_to_pem,
    write_carried,
)
from adpfl.wire.chunks import sha256_hex
from adpfl_server.identity.audit_log import SERVER, record
from adpfl_server.identity.pki import PKI_FOLDER, SERVER_CERTIFICATE, load_server_key
from adpfl_server.storage.database import transaction

SERVER_ROLE: Final = "server"
_ROOM_FOR_KEYS: Final = 1024
"""Bytes that a request takes in a file beside its PEM and hosts, and the file for itself, at most."""


class Exported(NamedTuple):
    """What an export wrote."""

    requests: tuple[SigningRequest, ...]
    left: int
    """Requests that found no room; a further export takes them once these are signed."""


def wait(
    database: sqlite3.Connection,
    holder: Holder | None,
    request: bytes,
    *,
    purpose: Purpose,
    now: datetime,
    hosts: Sequence[str] = (),
    token_sha256: str | None = None,
) -> None:
    """Keep a request until it is signed, within a transaction; the subject's earlier ones end.

    Args:
        database: in a transaction.
        holder: whom the certificate will name; None for the server.
        request: PKCS#10, DER, verified.
        purpose: whether the subject has had a certificate before.
        now: aware current time.
        hosts: what sites dial, for the server.
        token_sha256: the token that paid for it.

    Raises:
        IdentityError: the subject's request was signed before.
    """
    withdraw(database, holder, now=now, purpose=purpose)
    digest = sha256_hex(request)
    if outcome(database, digest, holder) == "signed":
        raise IdentityError(f"signing request {digest[:12]} is known already; make another key")
    database.execute(
        "INSERT OR REPLACE INTO signing_requests (request_sha256, role, name, hosts_json, purpose, request, "
        "token_sha256, asked_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            digest,
            *_subject(holder),
            json.dumps(list(hosts)),
            purpose,
            request,
            token_sha256,
            now.timestamp(),
        ),
    )
    detail = f"{purpose}, key {key_fingerprint(public_key_of_request(request))}"
    record(database, now, "signature_requested", actor=holder, subject=holder, detail=detail)


def wait_for_server_certificate(
    database: sqlite3.Connection, state_dir: Path, hosts: Sequence[str], *, now: datetime
) -> None:
    """Let a request for the server's next certificate, for the key that it has, wait; an earlier one ends.

    Raises:
        IdentityError: a host breaks its rule, or the server's key cannot be used.
    """
    names_of_hosts(hosts)
    request = create_request(load_server_key(state_dir), SERVER_ROLE)
    certified = (state_dir / PKI_FOLDER / SERVER_CERTIFICATE).exists()
    with transaction(database):
        withdraw(database, None, now=now)
        wait(
            database,
            None,
            request.public_bytes(serialization.Encoding.DER),
            purpose="renewal" if certified else "enrolment",
            now=now,
            hosts=hosts,
        )


def outcome(database: sqlite3.Connection, request_sha256: str, holder: Holder | None) -> str | None:
    """`waiting`, `signed` or `withdrawn`; None for a request that never waited.

    Args:
        database: the server's.
        request_sha256: which request.
        holder: whose; None for the server's.
    """
    row = database.execute(
        "SELECT coalesce(outcome, 'waiting') FROM signing_requests "
        "WHERE request_sha256 = ? AND role = ? AND name = ?",
        (request_sha256, *_subject(holder)),
    ).fetchone()
    return None if row is None else str(row[0])


def outcomes(database: sqlite3.Connection, request_sha256: str) -> set[str]:
    """What became of a request under any name: of `waiting`, `signed` and `withdrawn` those that apply."""
    rows = database.execute(
        "SELECT coalesce(outcome, 'waiting') FROM signing_requests WHERE request_sha256 = ?",
        (request_sha256,),
    )
    return {str(row[0]) for row in rows}


def stands(database: sqlite3.Connection, token_sha256: str) -> bool:
    """Whether a token has bought a request that waits or was signed: then its own end no longer matters."""
    row = database.execute(
        "SELECT EXISTS (SELECT 1 FROM signing_requests "
        "WHERE token_sha256 = ? AND outcome IS NOT 'withdrawn')",
        (token_sha256,),
    ).fetchone()
    return bool(row[0])


def asked_since(database: sqlite3.Connection, holder: Holder, since: datetime) -> int:
    """How many requests of a holder have come since a time and were not signed."""
    row = database.execute(
        "SELECT count(*) FROM signing_requests WHERE role = ? AND name = ? AND asked_at > ? "
        "AND outcome IS NOT 'signed'",
        (*_subject(holder), since.timestamp()),
    ).fetchone()
    return int(row[0])


def waiting(database: sqlite3.Connection) -> list[SigningRequest]:
    """Every request that waits, the oldest first."""
    rows = database.execute("SELECT * FROM signing_requests WHERE outcome IS NULL ORDER BY asked_at, rowid")
    return [_request(row) for row in rows]


def settle(database: sqlite3.Connection, request: SigningRequest, result: str, now: datetime) -> None:
    """End a request's waiting, within a transaction."""
    database.execute(
        "UPDATE signing_requests SET settled_at = ?, outcome = ? "
        "WHERE request_sha256 = ? AND role = ? AND name = ?",
        (now.timestamp(), result, request.request_sha256, *_subject(request.holder)),
    )


def withdraw(
    database: sqlite3.Connection, holder: Holder | None, *, now: datetime, purpose: Purpose | None = None
) -> int:
    """End what waits of a subject, within a transaction; returns how many requests that were.

    Args:
        database: in a transaction.
        holder: whose; None for the server's.
        now: aware current time.
        purpose: enrolments or renewals alone; None for both.
    """
    rows = database.execute(
        "UPDATE signing_requests SET settled_at = ?, outcome = 'withdrawn' "
        "WHERE role = ? AND name = ? AND outcome IS NULL AND purpose = coalesce(?, purpose) "
        "RETURNING request_sha256",
        (now.timestamp(), *_subject(holder), purpose),
    ).fetchall()
    for row in rows:
        record(database, now, "request_withdrawn", actor=SERVER, subject=holder, detail=row["request_sha256"])
    return len(rows)


def end_enrolments(database: sqlite3.Connection, holder: Holder, *, now: datetime) -> None:
    """End a holder's enrolments, within a transaction: none waits, and no token buys one again."""
    withdraw(database, holder, now=now, purpose="enrolment")
    database.execute(
        "UPDATE signing_requests SET token_sha256 = NULL WHERE role = ? AND name = ?", _subject(holder)
    )


def export(
    database: sqlite3.Connection, authority: x509.Certificate, path: Path, *, now: datetime
) -> Exported:
    """Write what waits into a file for the authority; it goes on waiting, and may be exported again.

    Raises:
        StateError: nothing waits.
        IdentityError: the file cannot be written.
    """
    found = waiting(database)
    if not found:
        raise StateError("no request waits for a signature; nothing was written")
    chosen = found[: _fitting(found)]
    file = RequestFile(
        consortium=consortium_of(authority),
        authority_sha256=certificate_fingerprint(authority),
        requests=tuple(chosen),
    )
    digest = write_carried(path, file)
    with transaction(database):
        count = len(chosen)
        detail = f"{count} {'request' if count == 1 else 'requests'}, file {digest}"
        record(database, now, "requests_exported", detail=detail)
    return Exported(tuple(chosen), len(found) - len(chosen))


def _fitting(requests: Sequence[SigningRequest]) -> int:
    """How many of them one file takes, from the first on."""
    room = MAX_FILE_BYTES - _ROOM_FOR_KEYS
    for count, request in enumerate(requests[:REQUESTS_PER_FILE]):
        room -= len(json.dumps([request.request_pem, request.hosts])) + _ROOM_FOR_KEYS
        if room < 0:
            return count
    return min(len(requests), REQUESTS_PER_FILE)


def _subject(holder: Holder | None) -> tuple[str, str]:
    return (SERVER_ROLE, "") if holder is None else (holder.role, holder.name)


def _request(row: sqlite3.Row) -> SigningRequest:
    return SigningRequest(
        request_sha256=row["request_sha256"],
        role=row["role"],
        name=row["name"],
        hosts=tuple(json.loads(row["hosts_json"])),
        purpose=row["purpose"],
        request_pem=request_to_pem(row["request"]),
        asked_at=datetime.fromtimestamp(row["asked_at"], UTC),
    )
