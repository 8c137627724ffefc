"""Enrolment at a caller's end: make a key that never leaves, have it certified, and keep both.

Sites, operators and auditors enrol alike; the bundle says which of them it is for.

`<state_dir>/identity/` holds `key.pem`, `certificate.pem`, `ca.pem`, `server.pem`, `federation.json` and the
signing request. It appears whole, by a rename. Until then the key and the request wait in
`identity.pending/`, so that after a crash or a lost answer the same command asks again with the same request
and gets the same certificate.
"""

import hashlib
import shutil
from datetime import datetime
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import StringConstraints

from adpfl.config import FrozenModel, Name, load_json, parse
from adpfl.errors import ConfigError, IdentityError
from adpfl.security.bundle import Address, EnrollmentBundle, read_bundle
from adpfl.security.certificates import Holder, Role, create_request, new_key, to_pem
from adpfl.security.identity import (
    CallerIdentity,
    check_authority,
    check_issued_by,
    check_key_of,
    check_valid_at,
    holder_of,
    load_certificate,
    load_key,
    save_key,
    time_text,
)
from adpfl.security.private_files import (
    new_staging_folder,
    publish_folder,
    read_public,
    replace_file,
    write_new,
)
from adpfl.security.signing_files import key_fingerprint
from adpfl_client.link.enrollment_call import ask_for_certificate
from adpfl_client.link.proxy import UNNAMED, Route

IDENTITY_FOLDER = "identity"
PENDING_FOLDER = "identity.pending"
REPLACED_FOLDER = "identity.replaced"
RENEWED_FOLDER = "identity.renewed"
"""Where the next key waits for its certificate; see `adpfl_client.link.renewal`."""
KEY = "key.pem"
REQUEST = "request.der"
CERTIFICATE = "certificate.pem"
AUTHORITY_CERTIFICATE = "ca.pem"
SERVER_CERTIFICATE = "server.pem"
FEDERATION = "federation.json"
AWAITED = "awaits-signature"
"""Marks a key whose request the server keeps until it is signed; an enrolment may then be asked for past the
bundle's end."""
PUBLIC_MODE = 0o644


class AwaitingSignatureError(IdentityError):
    """The server keeps the request until the consortium's offline authority has signed it."""


class FederationRecord(FrozenModel):
    """What `federation.json` says: the consortium that this identity is for and how it came about."""

    consortium: str
    role: Role = "site"
    name: Name
    address: Address
    token_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Of the bundle's token: tells a repeated command from a new enrolment."""

    @property
    def holder(self) -> Holder:
        """Whose identity it is."""
        return Holder(self.role, self.name)


def enroll(
    bundle_path: Path,
    state_dir: Path,
    holder: Holder,
    *,
    now: datetime,
    replace: bool = False,
    route: Route = UNNAMED,
) -> CallerIdentity:
    """Enrol with the operator's bundle. May be repeated after a crash or a lost answer.

    Args:
        bundle_path: the operator's bundle.
        state_dir: the holder's folder; made where absent.
        holder: who enrols, which must be whom the bundle is for.
        now: aware current time.
        replace: give up an identity that came from another bundle, once the new one is complete.
        route: how to dial.

    Returns:
        The identity, as stored; the stored one where this very bundle has enrolled the holder before.

    Raises:
        IdentityError: the bundle is unreadable, expired or another's; the holder is enrolled already; the
            server is another consortium's, refuses, or answers with an unusable certificate. An existing
            identity is untouched.
        AwaitingSignatureError: the consortium's authority, which is kept offline, has not signed yet.
        UnreachableError: the server cannot be reached.
    """
    bundle = read_bundle(bundle_path)
    if bundle.holder != holder:
        raise IdentityError(f"{bundle_path}: is for {named(bundle.holder)}; this is {named(holder)}")
    folder = state_dir / IDENTITY_FOLDER
    if folder.exists():
        if _is_from(folder, bundle):
            remove_folder(folder.with_name(REPLACED_FOLDER))
            return load_identity(state_dir, holder, now=now)
        if not replace:
            raise IdentityError(
                f"{folder}: holds an identity from another bundle; nothing was changed "
                "(add --replace to give it up)"
            )
    authority = _trusted_authority(bundle_path, bundle, now)
    pending = state_dir / PENDING_FOLDER
    begun = pending.exists() and _is_from(pending, bundle)
    if not (begun and (pending / CERTIFICATE).exists()):
        if now >= bundle.expires_at and not (begun and (pending / AWAITED).exists()):
            raise IdentityError(
                f"{bundle_path}: expired at {time_text(bundle.expires_at)}; "
                f"it is {time_text(now)} by this machine's clock; ask the operator for a new bundle"
            )
        if not begun:
            _prepare(pending, bundle)
            remove_folder(state_dir / RENEWED_FOLDER)  # it renews an identity that is about to end
        certificate = ask_for_certificate(bundle, authority, read_public(pending / REQUEST), route)
        if certificate is None:
            replace_file(pending / AWAITED, b"", mode=PUBLIC_MODE)
            raise AwaitingSignatureError(_awaiting(holder, load_key(pending / KEY)))
        what = f"certificate from {bundle.enroll_address}"
        check_certificate(certificate, pending, authority, holder, now, what=what)
        replace_file(pending / CERTIFICATE, to_pem(certificate), mode=PUBLIC_MODE)
    identity = _load(pending, holder, now)
    _put_in_place(pending, folder)
    return identity


def load_site_identity(state_dir: Path, site: str, *, now: datetime) -> CallerIdentity:
    """Load a site's identity; see `load_identity`."""
    return load_identity(state_dir, Holder("site", site), now=now)


def load_identity(state_dir: Path, holder: Holder, *, now: datetime) -> CallerIdentity:
    """Load what enrolment stored, checked: this holder, one consortium, one key, valid now.

    A renewal that a crash interrupted between its last two renames is finished first.

    Raises:
        IdentityError: the holder is not enrolled, or a file is absent, readable by others, expired, or
            belongs to another holder, key or consortium.
    """
    folder = state_dir / IDENTITY_FOLDER
    if not folder.is_dir():
        finish_renewal(state_dir)
    if not folder.is_dir():
        state = "enrolment is unfinished" if (state_dir / PENDING_FOLDER).is_dir() else "is absent"
        raise IdentityError(
            f"{folder}: {state}; enrol {holder} with the operator's bundle: adpfl-client enroll"
        )
    return _load(folder, holder, now)


def enrolled_holder(state_dir: Path) -> Holder:
    """Whom the identity in a folder names.

    Raises:
        IdentityError: nobody is enrolled there.
    """
    folder = state_dir / IDENTITY_FOLDER
    if not folder.is_dir():
        finish_renewal(state_dir)
    if not folder.is_dir():
        raise IdentityError(f"{folder}: is absent; enrol first: adpfl-client operate enroll")
    return _record(folder).holder


def finish_renewal(state_dir: Path) -> None:
    """Put a renewed identity whose certificate has arrived in the old one's place; otherwise do nothing."""
    renewed = state_dir / RENEWED_FOLDER
    if (renewed / CERTIFICATE).exists():
        _put_in_place(renewed, state_dir / IDENTITY_FOLDER)


def named(holder: Holder) -> str:
    """A holder with its role, as messages show it: `site hospital1`."""
    return f"{holder.role} {holder.name}"


def _load(folder: Path, holder: Holder, now: datetime) -> CallerIdentity:
    record = _record(folder)
    if record.holder != holder:
        raise IdentityError(f"{folder}: is the identity of {named(record.holder)}; this is {named(holder)}")
    authority = _certificate(folder / AUTHORITY_CERTIFICATE)
    check_authority(authority, now, what=str(folder / AUTHORITY_CERTIFICATE))
    server_certificate = _certificate(folder / SERVER_CERTIFICATE)
    check_issued_by(server_certificate, authority, what=str(folder / SERVER_CERTIFICATE))
    certificate = _certificate(folder / CERTIFICATE)
    key = check_certificate(certificate, folder, authority, holder, now, what=str(folder / CERTIFICATE))
    return CallerIdentity(
        holder=holder,
        authority=authority,
        certificate=certificate,
        server_certificate=server_certificate,
        address=record.address,
        key=key,
    )


def check_certificate(
    certificate: x509.Certificate,
    folder: Path,
    authority: x509.Certificate,
    holder: Holder,
    now: datetime,
    *,
    what: str,
) -> ec.EllipticCurvePrivateKey:
    """Return the key in `folder` if the certificate is its, this holder's, of this authority and valid."""
    check_issued_by(certificate, authority, what=what)
    found = holder_of(certificate, what=what)
    if found != holder:
        raise IdentityError(f"{what}: names {named(found)}; this is {named(holder)}")
    key = load_key(folder / KEY)
    check_key_of(certificate, key, what=what)
    check_valid_at(certificate, now, what=what)
    return key


def _trusted_authority(bundle_path: Path, bundle: EnrollmentBundle, now: datetime) -> x509.Certificate:
    what = f"{bundle_path}: authority_certificate"
    authority = load_certificate(bundle.authority_certificate.encode(), what=what)
    check_authority(authority, now, what=what)
    what = f"{bundle_path}: server_certificate"
    check_issued_by(load_certificate(bundle.server_certificate.encode(), what=what), authority, what=what)
    return authority


def _prepare(pending: Path, bundle: EnrollmentBundle) -> None:
    """Make a key and a signing request for this bundle, in place of an attempt with another one.

    They are on disk before the first request leaves: no certificate can arrive for a key that is lost.
    """
    remove_folder(pending)
    staging = new_staging_folder(pending)
    key = new_key()
    save_key(staging / KEY, key)
    request = create_request(key, bundle.name).public_bytes(serialization.Encoding.DER)
    write_new(staging / REQUEST, request, mode=PUBLIC_MODE)
    write_new(staging / AUTHORITY_CERTIFICATE, bundle.authority_certificate.encode(), mode=PUBLIC_MODE)
    write_new(staging / SERVER_CERTIFICATE, bundle.server_certificate.encode(), mode=PUBLIC_MODE)
    record = FederationRecord(
        consortium=bundle.consortium,
        role=bundle.role,
        name=bundle.name,
        address=bundle.address,
        token_sha256=_token_digest(bundle),
    )
    write_new(staging / FEDERATION, record.model_dump_json(indent=2).encode() + b"\n", mode=PUBLIC_MODE)
    publish_folder(staging, pending)


def _awaiting(holder: Holder, key: ec.EllipticCurvePrivateKey) -> str:
    return (
        f"{named(holder)}: your request waits for the consortium's signature; nothing is lost, and the same "
        f"command asks again; tell the operator your key's fingerprint: {key_fingerprint(key.public_key())}"
    )


def _put_in_place(pending: Path, folder: Path) -> None:
    """Make the pending identity the identity; after a crash between the renames, a repeat finishes it."""
    replaced = folder.with_name(REPLACED_FOLDER)
    remove_folder(replaced)
    (pending / AWAITED).unlink(missing_ok=True)
    if folder.exists():
        publish_folder(folder, replaced)
    publish_folder(pending, folder)
    remove_folder(replaced)


def _is_from(folder: Path, bundle: EnrollmentBundle) -> bool:
    return _record(folder).token_sha256 == _token_digest(bundle)


def _token_digest(bundle: EnrollmentBundle) -> str:
    return hashlib.sha256(bundle.token.get_secret_value().encode()).hexdigest()


def _record(folder: Path) -> FederationRecord:
    path = folder / FEDERATION
    try:
        return parse(load_json(read_public(path)), FederationRecord, source=str(path))
    except (ValueError, ConfigError) as error:
        raise IdentityError(f"{path}: is not the record of an enrolment: {error}") from error


def _certificate(path: Path) -> x509.Certificate:
    return load_certificate(read_public(path), what=str(path))


def remove_folder(folder: Path) -> None:
    """Remove a folder, where there is one."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise IdentityError(f"{folder}: cannot be removed: {error.strerror or error}") from error
