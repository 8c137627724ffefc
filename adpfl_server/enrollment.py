"""Enrolment at the server: one-time tokens, and the call that trades one for a caller's certificate.

A token is 256 random bits; the database keeps its SHA-256 alone, so a stolen database enrols nobody. Each
site, operator and auditor has at most one live token. Spending it, recording the certificate and answering
are one transaction, and the same token with the same signing request gets the same certificate again, so that
a lost answer does not strand a site.

Strangers may call the enrolment port, so every refusal looks the same from outside; the reason is in the
server's log, a line now and then however many call. What they send is looked at in the order of what it
costs: its shape, then the token by reading alone, then the signing request; only a live token with a usable
request gets as far as the database's write lock. The work runs in a pool of its own, apart from the sites'
calls.
"""

import asyncio
import hmac
import math
import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import structlog

from adpfl.config import parse
from adpfl.errors import IdentityError, ProtocolError, StateError
from adpfl.security.bundle import EnrollmentBundle
from adpfl.security.certificates import (
    CLIENT_LIFETIME,
    CertificateAuthority,
    Holder,
    public_key_of_request,
    to_pem,
)
from adpfl.security.identity import ServerIdentity, time_text
from adpfl.wire._generated.adpfl.v1 import federation_pb2, federation_pb2_grpc
from adpfl.wire.messages import EnrollRequest, EnrollResponse
from adpfl_server.attempts import Attempts
from adpfl_server.audit_log import record
from adpfl_server.certificate_table import certify, serial_words, sha256_text
from adpfl_server.database import transaction
from adpfl_server.limits_config import LimitsConfig
from adpfl_server.refusals import CallRefusedError
from adpfl_server.storage import STORAGE_ERRORS, storage_reason

TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
"""256 bits as `secrets.token_urlsafe` writes them."""
TOKEN_LIFETIME = timedelta(days=7)
REFUSAL = "enrolment refused; ask the operator for a new bundle"
"""All that a caller learns, whatever was wrong."""

FAILURE = "enrolment is not possible now; try again later"

REFUSAL_LOG_SECONDS = 10.0
"""Between two lines about refused enrolments; the next line says how many there were meanwhile."""


@dataclass(frozen=True)
class IssuedToken:
    """A fresh token; this object is the only place where it exists in the clear."""

    holder: Holder
    expires_at: datetime
    token: str = field(repr=False)


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
        _end_tokens(database, holder, now)
        database.execute(
            "INSERT INTO enrollment_tokens (token_sha256, role, name, issued_at, expires_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (
                sha256_text(token.encode()),
                holder.role,
                holder.name,
                now.timestamp(),
                expires_at.timestamp(),
            ),
        )
        record(database, now, "token_issued", subject=holder, detail=f"works until {time_text(expires_at)}")
    return IssuedToken(holder=holder, expires_at=expires_at, token=token)


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


def redeem(
    database: sqlite3.Connection,
    authority: CertificateAuthority,
    *,
    holder: Holder,
    token: str,
    request: bytes,
    now: datetime,
    lifetime: timedelta = CLIENT_LIFETIME,
) -> bytes:
    """Trade a token and a signing request for a certificate, once.

    Args:
        database: the server's, in autocommit mode.
        authority: what signs.
        holder: who the caller says it is.
        token: as in the bundle.
        request: PKCS#10, DER.
        now: aware current time.
        lifetime: of the certificate.

    Returns:
        The certificate, PEM. The same bytes for the same token and request.

    Raises:
        IdentityError: the token is unknown, expired, another holder's or used with another request; or the
            request is unusable (the token then stays unspent). The message is for the server's log, never for
            the caller.
    """
    _check_shape(token)
    _live_token(database, holder, token, now)  # by reading alone; again below, where nobody can come between
    public_key_of_request(request)
    request_sha256 = sha256_text(request)
    with transaction(database):
        row = _live_token(database, holder, token, now)
        if row["used_at"] is not None:
            return _repeat(row, holder, request_sha256)
        pem = certify(database, authority, holder, request, now=now, lifetime=lifetime)
        database.execute(
            "UPDATE enrollment_tokens SET used_at = ?, request_sha256 = ?, certificate_pem = ?"
            " WHERE token_sha256 = ?",
            (now.timestamp(), request_sha256, pem, row["token_sha256"]),
        )
        record(database, now, "enrolled", actor=holder, subject=holder, detail=serial_words(pem))
    return pem.encode()


def revoke(
    database: sqlite3.Connection, holder: Holder, *, now: datetime, actor: Holder | None = None
) -> tuple[str, ...]:
    """Revoke all of a holder's certificates and end its tokens.

    Args:
        database: the server's, in autocommit mode.
        holder: whom to shut out.
        now: aware current time.
        actor: who asked for it over the wire; None is whoever holds the server's own machine.

    Returns:
        The serials revoked now; empty where there was nothing left to revoke.

    Raises:
        IdentityError: the server has issued neither a token nor a certificate to such a holder.
    """
    with transaction(database):
        if not _is_known(database, holder):
            raise IdentityError(
                f"there is no {holder.role} {holder.name}: it was never issued a token or a certificate; "
                "nothing was revoked"
            )
        _end_tokens(database, holder, now)
        rows = database.execute(
            "UPDATE certificates SET revoked_at = ? WHERE role = ? AND name = ? AND revoked_at IS NULL "
            "RETURNING serial",
            (now.timestamp(), holder.role, holder.name),
        ).fetchall()
        serials = tuple(str(row[0]) for row in rows)
        record(database, now, "revoked", actor=actor, subject=holder, detail=" ".join(serials))
    return serials


class EnrollmentService(federation_pb2_grpc.EnrollmentServicer):
    """The gRPC service on the enrolment port."""

    def __init__(
        self,
        authority: CertificateAuthority,
        *,
        connect: Callable[[], sqlite3.Connection],
        clock: Callable[[], datetime],
        executor: Executor,
        limits: LimitsConfig | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        certificate_lifetime: timedelta = CLIENT_LIFETIME,
    ) -> None:
        """Serve enrolments.

        Args:
            authority: what signs.
            connect: opens a connection to the server's database; one is opened and closed for each call.
            clock: returns the aware current time.
            executor: bounded, and shared with nothing that sites wait for; signing and SQLite run there.
            limits: how many may try in a minute; None takes the defaults.
            monotonic: seconds that never run backwards; they space the lines about refusals.
            certificate_lifetime: of the certificates issued.
        """
        self._authority = authority
        self._connect = connect
        self._clock = clock
        self._executor = executor
        self._certificate_lifetime = certificate_lifetime
        self._log = structlog.get_logger()
        self._monotonic = monotonic
        self._attempts = Attempts(limits or LimitsConfig(), monotonic)
        self._told_at = -math.inf
        self._untold = 0

    async def Enroll(  # noqa: N802 - the contract's name
        self, request: federation_pb2.EnrollRequest, context: Any
    ) -> federation_pb2.EnrollResponse:
        """Answer one `EnrollRequest`; every refusal is the same PERMISSION_DENIED."""
        loop = asyncio.get_running_loop()
        try:
            self._attempts.count(context.peer())
            asked = EnrollRequest.from_wire(request)
            _check_shape(asked.token)
            answer = await loop.run_in_executor(self._executor, self._redeem, asked)
        except CallRefusedError as error:
            self._tell_refusal(str(error), context.peer())
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), error.metadata)
            raise
        except (IdentityError, ProtocolError) as error:
            self._tell_refusal(str(error), context.peer())
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, REFUSAL)
            raise
        except (StateError, *STORAGE_ERRORS) as error:
            reason = str(error) if isinstance(error, StateError) else storage_reason(error)
            self._log.error("enrolment failed", reason=reason, peer=context.peer())
            await context.abort(grpc.StatusCode.UNAVAILABLE, FAILURE)
            raise
        self._log.info("enrolled", role=asked.role, name=asked.name, peer=context.peer())
        return answer.to_wire()

    def _redeem(self, asked: EnrollRequest) -> EnrollResponse:
        database = self._connect()
        try:
            pem = redeem(
                database,
                self._authority,
                holder=Holder(asked.role, asked.name),
                token=asked.token,
                request=asked.certificate_signing_request,
                now=self._clock(),
                lifetime=self._certificate_lifetime,
            )
        finally:
            database.close()
        return EnrollResponse(pem)

    def _tell_refusal(self, reason: str, peer: str) -> None:
        """Log a refusal, unless one has been logged a moment ago: strangers must not fill the log."""
        now = self._monotonic()
        if now - self._told_at < REFUSAL_LOG_SECONDS:
            self._untold += 1
            return
        self._log.warning("enrolment refused", reason=reason, peer=peer, refused_meanwhile=self._untold)
        self._told_at, self._untold = now, 0


def _check_shape(token: str) -> None:
    if not _TOKEN.fullmatch(token):
        raise IdentityError("what was presented does not have the shape of a token")


def _live_token(database: sqlite3.Connection, holder: Holder, token: str, now: datetime) -> sqlite3.Row:
    """Return the row of a token that works for this holder now.

    The holder selects the row and the digests are compared in constant time, so the time taken does not tell
    how much of a guess was right.
    """
    presented = sha256_text(token.encode())
    found: sqlite3.Row | None = None
    rows = database.execute(
        "SELECT * FROM enrollment_tokens WHERE role = ? AND name = ?", (holder.role, holder.name)
    )
    for row in rows:
        if hmac.compare_digest(row["token_sha256"], presented):
            found = row
    if found is None:
        raise IdentityError(f"the token is not one of {holder}'s")
    if now.timestamp() >= found["expires_at"]:
        ended = time_text(datetime.fromtimestamp(found["expires_at"], UTC))
        raise IdentityError(f"{holder}'s token ended at {ended}")
    return found


def _repeat(row: sqlite3.Row, holder: Holder, request_sha256: str) -> bytes:
    """Return the certificate that a used token has bought, to the same signing request alone."""
    if not hmac.compare_digest(row["request_sha256"], request_sha256):
        raise IdentityError(f"{holder}'s token has been used with another signing request")
    pem: str = row["certificate_pem"]
    return pem.encode()


def _is_known(database: sqlite3.Connection, holder: Holder) -> bool:
    row = database.execute(
        "SELECT EXISTS (SELECT 1 FROM enrollment_tokens WHERE role = :role AND name = :name UNION ALL "
        "SELECT 1 FROM certificates WHERE role = :role AND name = :name)",
        {"role": holder.role, "name": holder.name},
    ).fetchone()
    return bool(row[0])


def _end_tokens(database: sqlite3.Connection, holder: Holder, now: datetime) -> None:
    database.execute(
        "UPDATE enrollment_tokens SET expires_at = ? WHERE role = ? AND name = ? AND expires_at > ?",
        (now.timestamp(), holder.role, holder.name, now.timestamp()),
    )
