"""The server's table of certificates: who holds one, until when, and whether it still stands.

A certificate that still works buys its holder the next one (`renew`), so that no site falls out of a run
because a year is over.
"""

import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from adpfl.errors import IdentityError
from adpfl.security.certificates import (
    CLIENT_LIFETIME,
    CertificateAuthority,
    Holder,
    issue_client_certificate,
    public_key_of_request,
    serial_text,
    to_pem,
)
from adpfl.security.identity import load_certificate
from adpfl.wire.chunks import sha256_hex
from adpfl_server.identity import signing_queue
from adpfl_server.identity.audit_log import record
from adpfl_server.storage.database import transaction

RENEWALS_A_DAY = 8
"""Certificates that one holder may be issued within a day: the table grows with time, not with requests."""
EXPIRES_SOON = timedelta(days=14)
"""A certificate that ends sooner is said to: its holder should have renewed it by now."""


def revoked_holders(database: sqlite3.Connection) -> frozenset[Holder]:
    """Everybody who has had a certificate and has none left that works."""
    rows = database.execute(
        "SELECT role, name FROM certificates GROUP BY role, name HAVING count(*) = count(revoked_at)"
    )
    return frozenset(Holder(row["role"], row["name"]) for row in rows)


def revoked_certificates(database: sqlite3.Connection) -> dict[str, Holder]:
    """Every certificate that was ever revoked: its serial, and whose it was."""
    rows = database.execute("SELECT serial, role, name FROM certificates WHERE revoked_at IS NOT NULL")
    return {row["serial"]: Holder(row["role"], row["name"]) for row in rows}


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """One row of the server's table of certificates."""

    holder: Holder
    serial: str
    not_after: float
    revoked_at: float | None

    def standing(self, now: datetime) -> str:
        """In words: whether it works."""
        if self.revoked_at is not None:
            return "revoked"
        return standing_until(self.not_after, now)

    def document(self, now: datetime) -> dict[str, object]:
        """For a program."""
        return {
            "role": self.holder.role,
            "name": self.holder.name,
            "serial": self.serial,
            "not_after_unix_seconds": self.not_after,
            "standing": self.standing(now),
        }


def standing_until(not_after: float, now: datetime) -> str:
    """In words: how near a certificate's end is."""
    if not_after < now.timestamp():
        return "expired"
    return "expires soon" if not_after < (now + EXPIRES_SOON).timestamp() else "works"


def issued(database: sqlite3.Connection) -> list[IssuedCertificate]:
    """Every certificate issued, by role and name, the newest of each holder first."""
    rows = database.execute(
        "SELECT role, name, serial, not_after, revoked_at FROM certificates "
        "ORDER BY role, name, not_after DESC"
    )
    return [
        IssuedCertificate(
            Holder(row["role"], row["name"]), row["serial"], row["not_after"], row["revoked_at"]
        )
        for row in rows
    ]


def expiring(database: sqlite3.Connection, now: datetime) -> list[IssuedCertificate]:
    """Holders' newest certificates that still work but end soon."""
    newest = {row.holder: row for row in reversed(issued(database)) if row.revoked_at is None}
    return [row for row in newest.values() if row.standing(now) == "expires soon"]


def check_not_revoked(database: sqlite3.Connection, serial: str) -> None:
    """Check at a call that the caller's certificate is one of ours and still stands.

    A certificate that the authority signed but the database does not know (a server restored from an older
    backup, or a stolen authority key) is refused like a revoked one.

    Raises:
        IdentityError: unknown or revoked.
    """
    row = database.execute("SELECT name, revoked_at FROM certificates WHERE serial = ?", (serial,)).fetchone()
    if row is None:
        raise IdentityError(f"certificate {serial} is unknown to this server; enrol again")
    if row["revoked_at"] is not None:
        raise IdentityError(f"certificate {serial} of {row['name']} has been revoked")


def renew(
    database: sqlite3.Connection,
    authority: CertificateAuthority | None,
    *,
    holder: Holder,
    serial: str,
    request: bytes,
    now: datetime,
    lifetime: timedelta = CLIENT_LIFETIME,
) -> bytes | None:
    """Certify the next key of somebody whose certificate still works.

    The old certificate goes on working until its own end: the new one may be lost on its way, and then the
    same request gets it again.

    Args:
        database: the server's, in autocommit mode.
        authority: what signs; None where its key is kept offline.
        holder: whom the caller's certificate names.
        serial: of the caller's certificate.
        request: PKCS#10, DER.
        now: aware current time.
        lifetime: of the certificate.

    Returns:
        The certificate, PEM, the same bytes for the same request; None while the request waits for an
        authority that is kept offline.

    Raises:
        IdentityError: the caller's certificate is unknown or revoked, the request is unusable, or the holder
            has renewed `RENEWALS_A_DAY` times within a day.
    """
    public_key_of_request(request)
    request_sha256 = sha256_hex(request)
    with transaction(database):
        check_not_revoked(database, serial)
        known = database.execute(
            "SELECT pem FROM certificates WHERE role = ? AND name = ? AND request_sha256 = ? "
            "AND revoked_at IS NULL",
            (holder.role, holder.name, request_sha256),
        ).fetchone()
        if known is not None:
            return str(known["pem"]).encode()
        if authority is None and signing_queue.outcome(database, request_sha256, holder) == "waiting":
            return None
        _check_renewals(database, holder, now)
        if authority is None:
            signing_queue.wait(database, holder, request, purpose="renewal", now=now)
            return None
        signing_queue.withdraw(database, holder, now=now, purpose="renewal")
        pem = certify(database, authority, holder, request, now=now, lifetime=lifetime)
        record(database, now, "renewed", actor=holder, subject=holder, detail=serial_words(pem))
    return pem.encode()


def _check_renewals(database: sqlite3.Connection, holder: Holder, now: datetime) -> None:
    since = now - timedelta(days=1)
    row = database.execute(
        "SELECT count(*) FROM certificates WHERE role = ? AND name = ? AND issued_at > ?",
        (holder.role, holder.name, since.timestamp()),
    ).fetchone()
    recent = int(row[0]) + signing_queue.asked_since(database, holder, since)
    if recent >= RENEWALS_A_DAY:
        raise IdentityError(f"{holder} has {recent} certificates of the last 24 hours; no more are issued")


def certify(
    database: sqlite3.Connection,
    authority: CertificateAuthority,
    holder: Holder,
    request: bytes,
    *,
    now: datetime,
    lifetime: timedelta,
) -> str:
    """Sign a certificate and keep it, within a transaction; returns it as PEM."""
    certificate = issue_client_certificate(authority, request, holder, now=now, lifetime=lifetime)
    keep(database, certificate, holder, sha256_hex(request), now=now)
    return to_pem(certificate).decode()


def keep(
    database: sqlite3.Connection,
    certificate: x509.Certificate,
    holder: Holder,
    request_sha256: str,
    *,
    now: datetime,
) -> None:
    """Keep a certificate that the authority has signed, within a transaction: from then on it works."""
    database.execute(
        "INSERT INTO certificates (serial, role, name, not_after, issued_at, pem, request_sha256) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            serial_text(certificate),
            holder.role,
            holder.name,
            certificate.not_valid_after_utc.timestamp(),
            now.timestamp(),
            to_pem(certificate).decode(),
            request_sha256,
        ),
    )


def serial_words(pem: str) -> str:
    """A certificate as the audit log names it."""
    return f"certificate {serial_text(load_certificate(pem.encode(), what='certificate'))}"
