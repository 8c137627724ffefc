"""One-time tokens: what an operator hands out, in a bundle, for one certificate.

A token is 256 random bits; the database keeps its SHA-256 alone, so a stolen database enrols nobody. Each
site, operator and auditor has at most one live token.
"""

import hmac
import re
import secrets
import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from adpfl.config import parse
from adpfl.errors import IdentityError
from adpfl.security.bundle import EnrollmentBundle
from adpfl.security.certificates import Holder, to_pem
from adpfl.security.identity import ServerIdentity, time_text
from adpfl.wire.chunks import sha256_hex
from adpfl_server.identity import signing_queue
from adpfl_server.identity.audit_log import record
from adpfl_server.storage.database import transaction

TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
"""256 bits as `secrets.token_urlsafe` writes them."""
TOKEN_LIFETIME = timedelta(days=7)


@dataclass(frozen=True)
class IssuedToken:
    """A fresh token; this object is the only place where it exists in the clear."""

    holder: Holder
    expires_at: datetime
    token: str = field(repr=False)
    ended: bool = False
    """Whether an earlier token, which could still have been used, ended by it."""


def issue_token(
    database: sqlite3.Connection, holder: Holder, *, now: datetime, lifetime: timedelta = TOKEN_LIFETIME
) -> IssuedToken:
    """Issue a one-time token; the holder's earlier tokens end at once.

    Args:
        database: the server's, in autocommit mode.
        holder: the only one for whom the token will work.
        now: aware current time.
        lifetime: how long the token works.

    Raises:
        IdentityError: the lifetime is not positive.
    """
    if lifetime <= timedelta(0):
        raise IdentityError(f"token lifetime is {lifetime}; must be positive")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    expires_at = now + lifetime
    with transaction(database):
        unused = database.execute(
            "SELECT 1 FROM enrollment_tokens WHERE role = ? AND name = ? AND used_at IS NULL "
            "AND ended_at IS NULL AND expires_at > ?",
            (holder.role, holder.name, now.timestamp()),
        ).fetchone()
        end_tokens(database, holder, now)
        database.execute(
            "INSERT INTO enrollment_tokens (token_sha256, role, name, issued_at, expires_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (
                sha256_hex(token.encode()),
                holder.role,
                holder.name,
                now.timestamp(),
                expires_at.timestamp(),
            ),
        )
        record(database, now, "token_issued", subject=holder, detail=f"works until {time_text(expires_at)}")
    return IssuedToken(holder=holder, expires_at=expires_at, token=token, ended=unused is not None)


def bundle_for(
    token: IssuedToken, identity: ServerIdentity, *, address: str, enroll_address: str
) -> EnrollmentBundle:
    """Put together what a site needs to enrol; `adpfl.security.bundle.write_bundle` makes it a file.

    Args:
        token: as issued.
        identity: the server's.
        address: `host:port` at which sites dial the main port.
        enroll_address: the same for the enrolment port.

    Raises:
        ConfigError: an address is not `host:port`.
    """
    document = {
        "consortium": identity.consortium,
        "role": token.holder.role,
        "name": token.holder.name,
        "address": address,
        "enroll_address": enroll_address,
        "authority_certificate": to_pem(identity.authority).decode(),
        "server_certificate": to_pem(identity.certificate).decode(),
        "token": token.token,
        "expires_at": token.expires_at.isoformat(),
    }
    return parse(document, EnrollmentBundle, source="enrolment bundle")


def check_shape(token: str) -> None:
    """Refuse what can be no token before anything is looked up.

    Raises:
        IdentityError: it has another shape.
    """
    if not _TOKEN.fullmatch(token):
        raise IdentityError("what was presented does not have the shape of a token")


def live_token(database: sqlite3.Connection, holder: Holder, token: str, now: datetime) -> sqlite3.Row:
    """Return the row of a token that works for this holder now.

    The holder selects the row and the digests are compared in constant time, so the time taken does not tell
    how much of a guess was right. A token that has bought a request which waits for the authority, or was
    signed by it, works for that request past its own end.

    Raises:
        IdentityError: there is none such, or it has ended.
    """
    presented = sha256_hex(token.encode())
    found: sqlite3.Row | None = None
    rows = database.execute(
        "SELECT * FROM enrollment_tokens WHERE role = ? AND name = ?", (holder.role, holder.name)
    )
    for row in rows:
        if hmac.compare_digest(row["token_sha256"], presented):
            found = row
    if found is None:
        raise IdentityError(f"the token is not one of {holder}'s")
    ended = found["ended_at"]
    if ended is None and now.timestamp() >= found["expires_at"]:
        ended = None if signing_queue.stands(database, presented) else found["expires_at"]
    if ended is not None:
        raise IdentityError(f"{holder}'s token ended at {time_text(datetime.fromtimestamp(ended, UTC))}")
    return found


def end_tokens(database: sqlite3.Connection, holder: Holder, now: datetime) -> None:
    """End a holder's tokens for good, and the enrolments that wait on them, within a transaction."""
    signing_queue.end_enrolments(database, holder, now=now)
    database.execute(
        "UPDATE enrollment_tokens SET ended_at = ? WHERE role = ? AND name = ? AND ended_at IS NULL",
        (now.timestamp(), holder.role, holder.name),
    )
