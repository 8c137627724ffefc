"""Renewing this site's certificate while the one it has still works, in the middle of runs.

The next key and its signing request lie in `<state_dir>/identity.renewed/` before the request leaves, so that
a lost answer costs nothing: the same request gets the same certificate. The folder takes the identity's place
by renames; after a crash between them `adpfl_client.link.enrollment.load_identity` finishes the move. The old
certificate goes on working until its own end, so connections that were made with it need not be cut.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization

from adpfl.errors import IdentityError
from adpfl.security.certificates import create_request, new_key, to_pem
from adpfl.security.identity import CallerIdentity, load_certificate, save_key
from adpfl.security.private_files import (
    new_staging_folder,
    publish_folder,
    read_public,
    replace_file,
    write_new,
)
from adpfl.wire.operations import RenewResponse
from adpfl_client.link.enrollment import (
    AUTHORITY_CERTIFICATE,
    AWAITED,
    CERTIFICATE,
    FEDERATION,
    IDENTITY_FOLDER,
    KEY,
    PUBLIC_MODE,
    RENEWED_FOLDER,
    REQUEST,
    SERVER_CERTIFICATE,
    AwaitingSignatureError,
    check_certificate,
    finish_renewal,
    load_identity,
    remove_folder,
)

RENEW_IN_LAST: Final = 1 / 3
"""Share of a certificate's life, at its end, in which it is renewed."""
WARN_BEFORE: Final = timedelta(days=14)
"""A certificate that ends sooner is warned of: by now it should have been renewed."""

ASK_AGAIN: Final = timedelta(hours=1)
"""Between two questions of an agent for a renewal that waits to be signed: that takes people days."""

AskForCertificate = Callable[[bytes], bytes]
"""A signing request (DER) to a certificate chain (PEM), over the wire."""


def signed_chain(answer: RenewResponse) -> bytes:
    """The certificate chain of an answer.

    Raises:
        AwaitingSignatureError: the request waits for an authority that is kept offline.
    """
    if answer.awaits_signature:
        raise AwaitingSignatureError("the renewal waits for the consortium's signature")
    return answer.certificate_chain


def asked_lately(state_dir: Path, now: datetime) -> bool:
    """Whether the server has said within `ASK_AGAIN` that the renewal waits to be signed."""
    try:
        asked = datetime.fromisoformat((state_dir / RENEWED_FOLDER / AWAITED).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False
    return timedelta(0) <= now - asked < ASK_AGAIN


def renewal_due(identity: CallerIdentity, now: datetime) -> bool:
    """Whether the last third of the certificate's life has begun."""
    certificate = identity.certificate
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return now >= certificate.not_valid_after_utc - life * RENEW_IN_LAST


def ends_soon(identity: CallerIdentity, now: datetime) -> bool:
    """Whether somebody should look why the certificate has not been renewed."""
    return now >= identity.certificate.not_valid_after_utc - WARN_BEFORE


def renew(
    state_dir: Path, identity: CallerIdentity, ask: AskForCertificate, *, now: datetime
) -> CallerIdentity:
    """Make the next key, have it certified, and put both in the identity's place.

    Args:
        state_dir: the holder's folder.
        identity: as it is now.
        ask: trades the signing request for a certificate (see `signed_chain`); what it raises passes through,
            and the same request is sent the next time.
        now: aware current time.

    Returns:
        The new identity, as stored.

    Raises:
        IdentityError: the answer is unusable, or the disk refuses; the identity stays as it was.
    """
    folder = state_dir / RENEWED_FOLDER
    if not (folder / REQUEST).exists():
        _prepare(state_dir, identity)
    try:
        chain = ask(read_public(folder / REQUEST))
    except AwaitingSignatureError:
        replace_file(folder / AWAITED, now.isoformat().encode("ascii"), mode=PUBLIC_MODE)
        raise
    certificate = load_certificate(chain, what="renewed certificate")
    try:
        check_certificate(
            certificate, folder, identity.authority, identity.holder, now, what="renewed certificate"
        )
    except IdentityError:
        remove_folder(folder)  # a new request may fare better
        raise
    replace_file(folder / CERTIFICATE, to_pem(certificate), mode=PUBLIC_MODE)
    finish_renewal(state_dir)
    return load_identity(state_dir, identity.holder, now=now)


def _prepare(state_dir: Path, identity: CallerIdentity) -> None:
    """Put all of the next identity but its certificate on the disk."""
    folder = state_dir / RENEWED_FOLDER
    remove_folder(folder)
    staging = new_staging_folder(folder)
    key = new_key()
    save_key(staging / KEY, key)
    request = create_request(key, identity.holder.name).public_bytes(serialization.Encoding.DER)
    write_new(staging / REQUEST, request, mode=PUBLIC_MODE)
    for name in (AUTHORITY_CERTIFICATE, SERVER_CERTIFICATE, FEDERATION):
        write_new(staging / name, read_public(state_dir / IDENTITY_FOLDER / name), mode=PUBLIC_MODE)
    publish_folder(staging, folder)
