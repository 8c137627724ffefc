"""The server's keys on disk: `<state_dir>/pki/{ca.pem,ca.key,server.pem,server.key}`.

Where the authority signs offline there is no `ca.key`, and no `server.pem` until it has signed the first one.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from adpfl.errors import IdentityError
from adpfl.security.certificates import (
    OFFLINE_CLOCK_SKEW,
    CertificateAuthority,
    check_can_issue,
    create_authority,
    issue_server_certificate,
    new_key,
    to_pem,
)
from adpfl.security.identity import (
    ServerIdentity,
    check_authority,
    check_issued_by,
    check_key_of,
    check_valid_at,
    load_certificate,
    load_key,
    public_key,
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

PKI_FOLDER = "pki"
AUTHORITY_CERTIFICATE = "ca.pem"
AUTHORITY_KEY = "ca.key"
SERVER_CERTIFICATE = "server.pem"
SERVER_KEY = "server.key"

_log = structlog.get_logger()


def init_consortium(
    state_dir: Path,
    consortium: str | CertificateAuthority,
    hosts: Sequence[str],
    *,
    now: datetime,
) -> ServerIdentity:
    """Make a consortium's authority and the server's certificate; both appear on disk at once or not at all.

    Args:
        state_dir: the server's folder; made where absent.
        consortium: the name that stands in every certificate, 1 to 64 printable characters; or an authority
            that was made elsewhere (`read_authority`), whose organisation is the name.
        hosts: every DNS name and IP address by which sites dial the server; nothing is added.
        now: aware current time.

    Raises:
        IdentityError: the folder holds a consortium's keys already, a name breaks its rule, or the disk
            refuses.
    """
    folder = _new_folder(state_dir)
    authority = create_authority(consortium, now=now) if isinstance(consortium, str) else consortium
    key = new_key()
    certificate = issue_server_certificate(authority, key.public_key(), hosts, now=now)
    staging = new_staging_folder(folder)
    save_key(staging / AUTHORITY_KEY, authority.key)
    write_new(staging / AUTHORITY_CERTIFICATE, to_pem(authority.certificate), mode=0o644)
    save_key(staging / SERVER_KEY, key)
    write_new(staging / SERVER_CERTIFICATE, to_pem(certificate), mode=0o644)
    publish_folder(staging, folder)
    return ServerIdentity(authority=authority.certificate, certificate=certificate, key=key)


def init_without_authority_key(state_dir: Path, authority: x509.Certificate) -> None:
    """Make the server's key beside an authority whose own key is kept offline; there is no certificate yet.

    Raises:
        IdentityError: the folder holds a consortium's keys already, or the disk refuses.
    """
    folder = _new_folder(state_dir)
    staging = new_staging_folder(folder)
    write_new(staging / AUTHORITY_CERTIFICATE, to_pem(authority), mode=0o644)
    save_key(staging / SERVER_KEY, new_key())
    publish_folder(staging, folder)


def make_authority(folder: Path, consortium: str, *, now: datetime) -> x509.Certificate:
    """Make an authority in a folder of its own, `ca.pem` and `ca.key`, on a machine that signs offline.

    Raises:
        IdentityError: the folder exists, the name breaks its rule, or the disk refuses.
    """
    if folder.exists():
        raise IdentityError(f"{folder}: exists already; an authority is never overwritten")
    authority = create_authority(consortium, now=now, clock_skew=OFFLINE_CLOCK_SKEW)
    staging = new_staging_folder(folder)
    save_key(staging / AUTHORITY_KEY, authority.key)
    write_new(staging / AUTHORITY_CERTIFICATE, to_pem(authority.certificate), mode=0o644)
    publish_folder(staging, folder)
    return authority.certificate


def read_authority_certificate(path: Path, *, now: datetime) -> x509.Certificate:
    """Read the certificate of an authority that was made elsewhere and whose key stays there.

    Raises:
        IdentityError: the file cannot be used, or breaks a rule for authorities.
    """
    certificate = load_certificate(read_public(path), what=str(path))
    check_authority(certificate, now, what=str(path))
    check_can_issue(certificate, what=str(path))
    public_key(certificate)
    return certificate


def read_authority(certificate_path: Path, key_path: Path, *, now: datetime) -> CertificateAuthority:
    """Read an authority that was made elsewhere, self-signed or an intermediate, to found a consortium with.

    Args:
        certificate_path: PEM or DER; of a PEM chain, the first.
        key_path: P-256, unencrypted PKCS#8 PEM, closed to group and others.
        now: aware current time.

    Raises:
        IdentityError: a file cannot be used, or breaks a rule for authorities.
    """
    certificate = read_authority_certificate(certificate_path, now=now)
    authority = CertificateAuthority(certificate, load_key(key_path))
    check_key_of(certificate, authority.key, what=str(certificate_path))
    return authority


def load_server_identity(state_dir: Path, *, now: datetime) -> ServerIdentity:
    """Load what the daemon serves TLS with, checked: one consortium, one key, valid now.

    Raises:
        IdentityError: a file is absent, readable by others, expired, or belongs to another key or consortium.
    """
    folder = _folder(state_dir)
    authority = _authority_certificate(folder, now)
    path = folder / SERVER_CERTIFICATE
    if not path.exists() and not (folder / AUTHORITY_KEY).exists():
        raise IdentityError(
            f"{path}: is absent; it waits for the authority's signature (adpfl-server requests list)"
        )
    certificate = load_certificate(read_public(path), what=str(path))
    key = load_key(folder / SERVER_KEY)
    check_issued_by(certificate, authority, what=str(path))
    check_key_of(certificate, key, what=str(path))
    check_valid_at(certificate, now, what=str(path))
    return ServerIdentity(authority=authority, certificate=certificate, key=key)


class WatchedIdentity:
    """The server's identity on disk, looked at again whenever its certificate's file has changed.

    gRPC asks at each handshake, from threads of its own. A file that cannot be used is told once, and the
    identity before it goes on serving.
    """

    def __init__(self, state_dir: Path, clock: Callable[[], datetime]) -> None:
        """Watch the certificate that is on disk now."""
        self._state_dir = state_dir
        self._clock = clock
        self._path = state_dir / PKI_FOLDER / SERVER_CERTIFICATE
        self._seen = self._version()

    def renewed(self) -> ServerIdentity | None:
        """The identity where the file has changed since the last look and can be used; else None."""
        version = self._version()
        if version == self._seen:
            return None
        self._seen = version
        try:
            identity = load_server_identity(self._state_dir, now=self._clock())
        except IdentityError as error:
            _log.error("the server's new certificate cannot be used; the old one stays", reason=str(error))
            return None
        ends = time_text(identity.certificate.not_valid_after_utc)
        _log.info("the server's certificate was renewed", until=ends)
        return identity

    def _version(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_ino)


def renew_server_certificate(state_dir: Path, hosts: Sequence[str], *, now: datetime) -> ServerIdentity:
    """Issue the server's next certificate for the key that it has; a running daemon shows it from then on.

    The key stays, because sites check receipts with it.

    Args:
        state_dir: the server's folder.
        hosts: every DNS name and IP address by which sites dial the server.
        now: aware current time.

    Raises:
        IdentityError: the authority's key is not on this machine, a host breaks its rule, or the disk
            refuses.
    """
    authority = load_authority(state_dir, now=now)
    key = load_server_key(state_dir)
    certificate = issue_server_certificate(authority, key.public_key(), hosts, now=now)
    install_server_certificate(state_dir, certificate)
    return ServerIdentity(authority=authority.certificate, certificate=certificate, key=key)


def load_authority(state_dir: Path, *, now: datetime) -> CertificateAuthority:
    """Load what signs sites' certificates.

    Raises:
        IdentityError: a file is absent, readable by others, expired, or of another key.
    """
    folder = _folder(state_dir)
    certificate = _authority_certificate(folder, now)
    key = load_key(folder / AUTHORITY_KEY)
    check_key_of(certificate, key, what=str(folder / AUTHORITY_CERTIFICATE))
    return CertificateAuthority(certificate, key)


def find_authority(state_dir: Path, *, now: datetime) -> CertificateAuthority | None:
    """What signs sites' certificates; None where the authority's key is not on this machine.

    Raises:
        IdentityError: as for `load_authority`.
    """
    if (_folder(state_dir) / AUTHORITY_KEY).exists():
        return load_authority(state_dir, now=now)
    return None


def load_authority_certificate(state_dir: Path, *, now: datetime) -> x509.Certificate:
    """The consortium's authority, without its key.

    Raises:
        IdentityError: it is absent, no authority, or not valid now.
    """
    return _authority_certificate(_folder(state_dir), now)


def install_server_certificate(state_dir: Path, certificate: x509.Certificate) -> None:
    """Put a checked certificate in place; a running daemon shows it from then on.

    Raises:
        IdentityError: it is not for the server's key, or the disk refuses.
    """
    folder = _folder(state_dir)
    check_key_of(certificate, load_server_key(state_dir), what="the server's certificate")
    replace_file(folder / SERVER_CERTIFICATE, to_pem(certificate), mode=0o644)


def load_server_key(state_dir: Path) -> ec.EllipticCurvePrivateKey:
    """The server's private key.

    Raises:
        IdentityError: it is absent, readable by others, or no P-256 key.
    """
    return load_key(_folder(state_dir) / SERVER_KEY)


def _new_folder(state_dir: Path) -> Path:
    folder = state_dir / PKI_FOLDER
    if folder.exists():
        raise IdentityError(
            f"{folder}: exists already; a consortium's keys are never overwritten (choose another state_dir)"
        )
    return folder


def _folder(state_dir: Path) -> Path:
    folder = state_dir / PKI_FOLDER
    if not folder.is_dir():
        raise IdentityError(f"{folder}: is absent; make the consortium's keys first with: adpfl-server init")
    return folder


def _authority_certificate(folder: Path, now: datetime) -> x509.Certificate:
    path = folder / AUTHORITY_CERTIFICATE
    certificate = load_certificate(read_public(path), what=str(path))
    check_authority(certificate, now, what=str(path))
    return certificate
