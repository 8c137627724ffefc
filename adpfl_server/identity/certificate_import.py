"""Certificates that come back from an offline authority, each checked against the request that waits.

The file is not trusted. A certificate is taken only if the consortium's authority signed it, for the key of
a request that still waits, for whom that request names and nobody else, for the right end, and for now.
"""

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from adpfl.errors import IdentityError
from adpfl.security.certificates import (
    CLIENT_LIFETIME,
    OFFLINE_CLOCK_SKEW,
    SERVER_LIFETIME,
    names_of_hosts,
    public_key_of_request,
    serial_text,
    to_pem,
)
from adpfl.security.identity import check_issued_by, check_valid_at, holder_of, load_certificate, public_key
from adpfl.security.signing_files import (
    CertificateFile,
    SignedCertificate,
    SigningRequest,
    certificate_fingerprint,
    read_carried,
)
from adpfl_server.identity import signing_queue
from adpfl_server.identity.audit_log import record
from adpfl_server.identity.certificate_table import keep
from adpfl_server.identity.pki import install_server_certificate, load_authority_certificate
from adpfl_server.storage.database import transaction

LIFETIME_SLACK: Final = OFFLINE_CLOCK_SKEW
"""A certificate may live so much longer than one signed here: the two machines' clocks need not agree."""


class Verdict(NamedTuple):
    """What became of one certificate of a file."""

    subject: str
    """Whose it is, by the request; or the request's name where none is known."""
    refusal: str
    """Why it was not taken; empty where it was."""
    until: datetime | None = None


def import_certificates(
    database: sqlite3.Connection, state_dir: Path, path: Path, *, now: datetime
) -> list[Verdict]:
    """Take the certificates of a file, each by itself; a repeat changes nothing.

    Args:
        database: the server's, in autocommit mode.
        state_dir: the server's folder.
        path: as `adpfl-server sign` wrote it.
        now: aware current time.

    Returns:
        One verdict a certificate, in the file's order.

    Raises:
        IdentityError: the file cannot be used, or comes from another authority; nothing was taken.
    """
    authority = load_authority_certificate(state_dir, now=now)
    file = read_carried(path, CertificateFile)
    if file.authority_sha256 != certificate_fingerprint(authority):
        raise IdentityError(f"{path}: comes from another authority than this consortium's; nothing was taken")
    return [_take(database, state_dir, answer, authority, now) for answer in file.certificates]


def _take(
    database: sqlite3.Connection,
    state_dir: Path,
    answer: SignedCertificate,
    authority: x509.Certificate,
    now: datetime,
) -> Verdict:
    waiting = [one for one in signing_queue.waiting(database) if one.request_sha256 == answer.request_sha256]
    if not waiting:
        return _not_waiting(database, answer)
    request = _meant(waiting, answer)
    try:
        certificate = _certificate(answer)
        check_answer(certificate, request, authority, now)
        with transaction(database):
            _keep(database, state_dir, request, certificate, now)
    except IdentityError as error:
        with transaction(database):
            detail = f"{request.words}: {error}"
            record(database, now, "certificate_refused", subject=request.holder, detail=detail)
        return Verdict(request.words, str(error))
    return Verdict(request.words, "", certificate.not_valid_after_utc)


def _not_waiting(database: sqlite3.Connection, answer: SignedCertificate) -> Verdict:
    name = f"request {answer.request_sha256[:12]}"
    known = signing_queue.outcomes(database, answer.request_sha256)
    if "signed" in known:
        return Verdict(name, "was signed and taken before")
    if "withdrawn" in known:
        return Verdict(name, "was withdrawn meanwhile: by a newer one, a new token or a revocation")
    return Verdict(name, "never waited on this server")


def _meant(waiting: Sequence[SigningRequest], answer: SignedCertificate) -> SigningRequest:
    """Which of the requests for one key a certificate answers: that of whom it names, or else any."""
    try:
        found = holder_of(_certificate(answer), what="the certificate")
    except IdentityError:  # the server's, or one that no request will fit
        return waiting[0]
    return next((request for request in waiting if request.holder == found), waiting[0])


def _certificate(answer: SignedCertificate) -> x509.Certificate:
    certificate = load_certificate(answer.certificate_pem.encode(), what="the certificate")
    if to_pem(certificate).decode() != answer.certificate_pem:
        raise IdentityError("the certificate: is not one certificate in PEM")
    return certificate


def check_answer(
    certificate: x509.Certificate, request: SigningRequest, authority: x509.Certificate, now: datetime
) -> None:
    """Check that a certificate is the answer to a request, and nothing more.

    Raises:
        IdentityError: it is another authority's, for another key, name, role, host or end, or its dates are
            not those of a certificate signed now.
    """
    what = "the certificate"
    check_issued_by(certificate, authority, what=what)
    if public_key(certificate) != public_key_of_request(request.request_der):
        raise IdentityError(f"{what}: is for another key")
    if request.holder is None:
        if set(_alternative_names(certificate)) != set(names_of_hosts(request.hosts)):
            raise IdentityError(f"{what}: is for other hosts than {', '.join(request.hosts)}")
        purpose, lifetime = ExtendedKeyUsageOID.SERVER_AUTH, SERVER_LIFETIME
    else:
        found = holder_of(certificate, what=what)
        if found != request.holder:
            raise IdentityError(f"{what}: names {found.role} {found.name}; must name {request.words}")
        purpose, lifetime = ExtendedKeyUsageOID.CLIENT_AUTH, CLIENT_LIFETIME
    _check_leaf(certificate, purpose, what)
    check_valid_at(certificate, now, what=what)
    if certificate.not_valid_after_utc > now + lifetime + LIFETIME_SLACK:
        raise IdentityError(f"{what}: lives longer than {lifetime.days} days")


def _alternative_names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, ValueError):
        return []


def _check_leaf(certificate: x509.Certificate, purpose: x509.ObjectIdentifier, what: str) -> None:
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        purposes = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except (x509.ExtensionNotFound, ValueError) as error:
        raise IdentityError(f"{what}: does not say what it is for") from error
    if constraints.ca or purposes != [purpose]:
        raise IdentityError(f"{what}: is for another end of the connection, or an authority")


def _keep(
    database: sqlite3.Connection,
    state_dir: Path,
    request: SigningRequest,
    certificate: x509.Certificate,
    now: datetime,
) -> None:
    """Let a checked certificate work, within a transaction."""
    if signing_queue.outcome(database, request.request_sha256, request.holder) != "waiting":
        raise IdentityError("the request was settled by somebody else meanwhile")
    signing_queue.settle(database, request, "signed", now)
    detail = f"certificate {serial_text(certificate)}, signed offline"
    if request.holder is None:
        install_server_certificate(state_dir, certificate)
        record(database, now, "server_certificate_installed", detail=detail)
        return
    serial = serial_text(certificate)
    if database.execute("SELECT 1 FROM certificates WHERE serial = ?", (serial,)).fetchone() is not None:
        raise IdentityError(f"the certificate: has the serial {serial} of another one")
    keep(database, certificate, request.holder, request.request_sha256, now=now)
    database.execute(
        "UPDATE enrollment_tokens SET certificate_pem = ? WHERE request_sha256 = ? AND role = ? AND name = ? "
        "AND used_at IS NOT NULL AND certificate_pem IS NULL",
        (to_pem(certificate).decode(), request.request_sha256, request.holder.role, request.holder.name),
    )
    kind = "enrolled" if request.purpose == "enrolment" else "renewed"
    record(database, now, kind, subject=request.holder, detail=detail)
