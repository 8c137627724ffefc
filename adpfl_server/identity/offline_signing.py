"""The offline machine's work: show each request to a person, and sign those that the person agrees to.

Needs the authority and a file of requests: no configuration, no database and no network.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509

from adpfl.errors import IdentityError
from adpfl.security.certificates import (
    OFFLINE_CLOCK_SKEW,
    CertificateAuthority,
    issue_client_certificate,
    issue_server_certificate,
    public_key_of_request,
    to_pem,
)
from adpfl.security.signing_files import (
    CertificateFile,
    RequestFile,
    SignedCertificate,
    SigningRequest,
    certificate_fingerprint,
    key_fingerprint,
    read_carried,
    write_carried,
)

Agrees = Callable[[SigningRequest, str], bool]
"""A request and its key's fingerprint to whether it shall be signed."""


def sign_file(
    path: Path, output: Path, authority: CertificateAuthority, agrees: Agrees, *, now: datetime
) -> list[SigningRequest]:
    """Sign the requests of a file that somebody agrees to, and write the certificates.

    Every request is verified before the first is shown.

    Args:
        path: as `adpfl-server requests export` wrote it.
        output: where the certificates go; nothing is written where nobody agreed to anything.
        authority: what signs.
        agrees: asked for each request.
        now: aware current time.

    Returns:
        The requests that were signed.

    Raises:
        IdentityError: the file cannot be used, asks another authority, or holds a request that is not signed
            by its own key; nothing was signed.
    """
    file = read_carried(path, RequestFile)
    fingerprint = certificate_fingerprint(authority.certificate)
    if file.authority_sha256 != fingerprint:
        raise IdentityError(
            f"{path}: is for another authority, of {file.consortium!r}; this one is {fingerprint[:16]}"
        )
    fingerprints = _verified(path, file.requests)
    chosen = [
        request for request, key in zip(file.requests, fingerprints, strict=True) if agrees(request, key)
    ]
    if chosen:
        signed = tuple(
            SignedCertificate(
                request_sha256=request.request_sha256,
                certificate_pem=to_pem(_sign(request, authority, now)).decode(),
            )
            for request in chosen
        )
        write_carried(output, CertificateFile(authority_sha256=fingerprint, certificates=signed))
    return chosen


def _verified(path: Path, requests: Sequence[SigningRequest]) -> list[str]:
    """The fingerprint of each request's key, after the request has proved that its sender holds the key."""
    fingerprints = []
    for request in requests:
        try:
            fingerprints.append(key_fingerprint(public_key_of_request(request.request_der)))
        except IdentityError as error:
            raise IdentityError(f"{path}: {request.words}: {error}") from error
    return fingerprints


def _sign(request: SigningRequest, authority: CertificateAuthority, now: datetime) -> x509.Certificate:
    if request.holder is None:
        key = public_key_of_request(request.request_der)
        return issue_server_certificate(authority, key, request.hosts, now=now, clock_skew=OFFLINE_CLOCK_SKEW)
    return issue_client_certificate(
        authority, request.request_der, request.holder, now=now, clock_skew=OFFLINE_CLOCK_SKEW
    )
