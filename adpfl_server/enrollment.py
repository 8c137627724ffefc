"""Enrolment at the server: the call that trades a one-time token for a caller's certificate.

Spending the token, recording the certificate and answering are one transaction, and the same token with the
same signing request gets the same certificate again, so that a lost answer does not strand a site. Where the
authority's key is kept offline, the request is kept instead, bound to the token, until its certificate comes.

Strangers may call the enrolment port, so every refusal looks the same from outside; the reason is in the
server's log, a line now and then however many call. What they send is looked at in the order of what it
costs: its shape, then the token by reading alone, then the signing request; only a live token with a usable
request gets as far as the database's write lock. The work runs in a pool of its own, apart from the sites'
calls.
"""

import asyncio
import hmac
import math
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import Any

import grpc
import structlog

from adpfl.errors import IdentityError, ProtocolError, StateError
from adpfl.security.certificates import (
    CLIENT_LIFETIME,
    CertificateAuthority,
    Holder,
    public_key_of_request,
)
from adpfl.wire._generated.adpfl.v1 import federation_pb2, federation_pb2_grpc
from adpfl.wire.chunks import sha256_hex
from adpfl.wire.messages import EnrollRequest, EnrollResponse
from adpfl_server.identity import signing_queue
from adpfl_server.identity.audit_log import record
from adpfl_server.identity.certificate_table import certify, serial_words
from adpfl_server.identity.tokens import check_shape, end_tokens, live_token
from adpfl_server.limits.attempts import Attempts
from adpfl_server.limits.limits_config import LimitsConfig
from adpfl_server.limits.refusals import CallRefusedError
from adpfl_server.storage.database import transaction
from adpfl_server.storage.trouble import STORAGE_ERRORS, storage_reason

REFUSAL = "enrolment refused; ask the operator for a new bundle"
"""All that a caller learns, whatever was wrong."""

FAILURE = "enrolment is not possible now; try again later"

REFUSAL_LOG_SECONDS = 10.0
"""Between two lines about refused enrolments; the next line says how many there were meanwhile."""


def redeem(
    database: sqlite3.Connection,
    authority: CertificateAuthority | None,
    *,
    holder: Holder,
    token: str,
    request: bytes,
    now: datetime,
    lifetime: timedelta = CLIENT_LIFETIME,
) -> bytes | None:
    """Trade a token and a signing request for a certificate, once.

    Args:
        database: the server's, in autocommit mode.
        authority: what signs; None where its key is kept offline.
        holder: who the caller says it is.
        token: as in the bundle.
        request: PKCS#10, DER.
        now: aware current time.
        lifetime: of the certificate.

    Returns:
        The certificate, PEM, the same bytes for the same token and request; None while the request waits for
        an authority that is kept offline.

    Raises:
        IdentityError: the token is unknown, expired, another holder's or used with another request; or the
            request is unusable (the token then stays unspent). The message is for the server's log, never for
            the caller.
    """
    check_shape(token)
    live_token(database, holder, token, now)  # by reading alone; again below, where nobody can come between
    public_key_of_request(request)
    request_sha256 = sha256_hex(request)
    with transaction(database):
        row = live_token(database, holder, token, now)
        known = _bought(row, holder, request_sha256)
        if known is not None:
            return known
        if authority is None:
            if row["used_at"] is None:
                _spend(database, row, request_sha256, None, now)
                signing_queue.wait(
                    database,
                    holder,
                    request,
                    purpose="enrolment",
                    now=now,
                    token_sha256=row["token_sha256"],
                )
            return None
        signing_queue.withdraw(database, holder, now=now, purpose="enrolment")
        pem = certify(database, authority, holder, request, now=now, lifetime=lifetime)
        _spend(database, row, request_sha256, pem, now)
        record(database, now, "enrolled", actor=holder, subject=holder, detail=serial_words(pem))
    return pem.encode()


def _bought(token: sqlite3.Row, holder: Holder, request_sha256: str) -> bytes | None:
    """The certificate that a token has bought, to the same signing request alone; None where it has none yet.

    Raises:
        IdentityError: the token was used with another request.
    """
    if token["used_at"] is None:
        return None
    if not hmac.compare_digest(token["request_sha256"], request_sha256):
        raise IdentityError(f"{holder}'s token has been used with another signing request")
    pem: str | None = token["certificate_pem"]
    return None if pem is None else pem.encode()


def _spend(
    database: sqlite3.Connection, token: sqlite3.Row, request_sha256: str, pem: str | None, now: datetime
) -> None:
    """Bind a token to a request for good, with the certificate that it bought where there is one."""
    database.execute(
        "UPDATE enrollment_tokens SET used_at = ?, request_sha256 = ?, certificate_pem = ? "
        "WHERE token_sha256 = ?",
        (now.timestamp(), request_sha256, pem, token["token_sha256"]),
    )


def revoke(
    database: sqlite3.Connection, holder: Holder, *, now: datetime, actor: Holder | None = None
) -> tuple[str, ...]:
    """Revoke all of a holder's certificates, end its tokens, and withdraw what waits for a signature.

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
        end_tokens(database, holder, now)
        signing_queue.withdraw(database, holder, now=now)
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
        authority: CertificateAuthority | None,
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
            authority: what signs; None where its key is kept offline.
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
            check_shape(asked.token)
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
        told = "enrolment waits for a signature" if answer.awaits_signature else "enrolled"
        self._log.info(told, role=asked.role, name=asked.name, peer=context.peer())
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
        return EnrollResponse(pem or b"", awaits_signature=pem is None)

    def _tell_refusal(self, reason: str, peer: str) -> None:
        """Log a refusal, unless one has been logged a moment ago: strangers must not fill the log."""
        now = self._monotonic()
        if now - self._told_at < REFUSAL_LOG_SECONDS:
            self._untold += 1
            return
        self._log.warning("enrolment refused", reason=reason, peer=peer, refused_meanwhile=self._untold)
        self._told_at, self._untold = now, 0


def _is_known(database: sqlite3.Connection, holder: Holder) -> bool:
    row = database.execute(
        "SELECT EXISTS (SELECT 1 FROM enrollment_tokens WHERE role = :role AND name = :name UNION ALL "
        "SELECT 1 FROM certificates WHERE role = :role AND name = :name)",
        {"role": holder.role, "name": holder.name},
    ).fetchone()
    return bool(row[0])
