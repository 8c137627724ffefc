"""The server's keys on disk: `<state_dir>/pki/{ca.pem,ca.key,server.pem,server.key}`."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509

from adpfl.errors import IdentityError
from adpfl.security.certificates import (
    CertificateAuthority,
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
    save_key,
)
from adpfl.security.private_files import new_staging_folder, publish_folder, read_public, write_new

PKI_FOLDER = "pki"
AUTHORITY_CERTIFICATE = "ca.pem"
AUTHORITY_KEY = "ca.key"
SERVER_CERTIFICATE = "server.pem"
SERVER_KEY = "server.key"


def init_consortium(
    state_dir: Path, consortium: str, hosts: Sequence[str], *, now: datetime
) -> ServerIdentity:
    """Make a consortium's authority and the server's certificate; both appear on disk at once or not at all.

    Args:
        state_dir: the server's folder; made where absent.
        consortium: the name that stands in every certificate, 1 to 64 printable characters.
        hosts: every DNS name and IP address by which sites dial the server; nothing is added.
        now: aware current time.

    Raises:
        IdentityError: the folder holds a consortium's keys already, a name breaks its rule, or the disk
            refuses.
    """
    folder = state_dir / PKI_FOLDER
    if folder.exists():
        raise IdentityError(
            f"{folder}: exists already; a consortium's keys are never overwritten (choose another state_dir)"
        )
    authority = create_authority(consortium, now=now)
    key = new_key()
    certificate = issue_server_certificate(authority, key.public_key(), hosts, now=now)
    staging = new_staging_folder(folder)
    save_key(staging / AUTHORITY_KEY, authority.key)
    write_new(staging / AUTHORITY_CERTIFICATE, to_pem(authority.certificate), mode=0o644)
    save_key(staging / SERVER_KEY, key)
    write_new(staging / SERVER_CERTIFICATE, to_pem(certificate), mode=0o644)
    publish_folder(staging, folder)
    return ServerIdentity(authority=authority.certificate, certificate=certificate, key=key)


def load_server_identity(state_dir: Path, *, now: datetime) -> ServerIdentity:
    """Load what the daemon serves TLS with, checked: one consortium, one key, valid now.

    Raises:
        IdentityError: a file is absent, readable by others, expired, or belongs to another key or consortium.
    """
    folder = _folder(state_dir)
    authority = _authority_certificate(folder, now)
    path = folder / SERVER_CERTIFICATE
    certificate = load_certificate(read_public(path), what=str(path))
    key = load_key(folder / SERVER_KEY)
    check_issued_by(certificate, authority, what=str(path))
    check_key_of(certificate, key, what=str(path))
    check_valid_at(certificate, now, what=str(path))
    return ServerIdentity(authority=authority, certificate=certificate, key=key)


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
