"""Loading and checking identities: a key with its certificate, and the authority that both ends trust.

Every check names what is wrong with which certificate: expired, not yet valid, of another authority, without
its holder's name, not of this key. Nothing here reads a clock: the time is an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from adpfl.errors import IdentityError
from adpfl.security.certificates import MALFORMED, URI_PREFIX, Holder, serial_text
from adpfl.security.private_files import read_private, write_new

_PEM_CERTIFICATE_PROPERTY = "x509_pem_cert"
"""gRPC's name for the peer's verified leaf certificate in an authentication context."""


@dataclass(frozen=True)
class PeerCertificate:
    """What a server needs to know of the client certificate behind a call."""

    holder: Holder
    serial: str
    """Lower-case hexadecimal, as in the server's table of certificates."""
    not_after: datetime


@dataclass(frozen=True)
class ServerIdentity:
    """The server's key and certificate, and the authority that signed them and every site."""

    authority: x509.Certificate
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def consortium(self) -> str:
        """The consortium's name, as its authority's certificate has it."""
        return consortium_of(self.authority)


@dataclass(frozen=True)
class CallerIdentity:
    """A caller's key and certificate, the authority it trusts, and the server it dials."""

    holder: Holder
    authority: x509.Certificate
    certificate: x509.Certificate
    server_certificate: x509.Certificate
    """As received at enrolment: receipts are checked with its key."""
    address: str
    """`host:port` of the main port."""
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def site(self) -> str:
        """The holder's name, for code that only sites run."""
        return self.holder.name

    @property
    def consortium(self) -> str:
        """The consortium's name, as its authority's certificate has it."""
        return consortium_of(self.authority)


def save_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a new private key as PKCS#8 PEM that only its owner can read, from the moment the file exists.

    Raises:
        IdentityError: the file exists already or cannot be written.
    """
    write_new(path, key_to_pem(key))


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as unencrypted PKCS#8 PEM: for a 0600 file or the TLS library, nowhere else."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 private key.

    Raises:
        IdentityError: the file is absent, readable by others, or holds anything else.
    """
    data = read_private(path)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"{path}: holds no usable private key; must be unencrypted PKCS#8 PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(f"{path}: holds another kind of key; must be P-256")
    return key


def load_certificate(data: bytes, *, what: str) -> x509.Certificate:
    """Parse one certificate, PEM or DER, all of it; of a PEM chain, the first.

    Args:
        data: the file's bytes.
        what: the certificate's name in messages, such as its path.

    Raises:
        IdentityError: the bytes hold no certificate.
    """
    try:
        if data.lstrip().startswith(b"-----"):
            certificate = x509.load_pem_x509_certificates(data)[0]
        else:
            certificate = x509.load_der_x509_certificate(data)
        _read_whole(certificate)
    except MALFORMED as error:
        raise IdentityError(f"{what}: holds no usable certificate; must be X.509 in PEM or DER") from error
    return certificate


def _read_whole(certificate: x509.Certificate) -> tuple[object, ...]:
    """Every part that the library reads only when asked; one that cannot be read is one of `MALFORMED`."""
    return (
        certificate.subject,
        certificate.issuer,
        certificate.extensions,
        certificate.serial_number,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Return a certificate's key.

    Raises:
        IdentityError: it is not P-256.
    """
    try:
        key = certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError("certificate holds an unusable key; must be P-256") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("certificate holds another kind of key; must be P-256")
    return key


def consortium_of(certificate: x509.Certificate) -> str:
    """Return the organisation that a certificate's subject names, or an empty text."""
    names = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(names[0].value) if names else ""


def holder_of(certificate: x509.Certificate, *, what: str = "certificate") -> Holder:
    """Return the one holder that a caller's certificate names.

    Raises:
        IdentityError: it names nobody, several, an unknown role, or one that breaks the rule for names.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise IdentityError(f"{what}: names nobody (no subject alternative name)") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    holders = [uri.removeprefix(URI_PREFIX) for uri in uris if uri.startswith(URI_PREFIX)]
    if len(holders) != 1 or len(names) != 1:
        raise IdentityError(
            f"{what}: names {len(holders)} holders; must name exactly one, as {URI_PREFIX}<role>:<name>"
        )
    role, _, name = holders[0].partition(":")
    return Holder(role, name)  # type: ignore[arg-type] # the class checks the role


def site_of(certificate: x509.Certificate, *, what: str = "certificate") -> str:
    """Return the one site that a certificate names.

    Raises:
        IdentityError: it names no site, or breaks a rule of `holder_of`.
    """
    holder = holder_of(certificate, what=what)
    if holder.role != "site":
        raise IdentityError(f"{what}: names {holder}; must name a site")
    return holder.name


def peer_certificate(auth_context: Mapping[str, Sequence[bytes]]) -> PeerCertificate:
    """Return who is calling, from gRPC's authentication context (`context.auth_context()`).

    TLS has verified the certificate when the connection was made; whether it has been revoked or has expired
    since is for the caller to ask at each call (`serial`, `not_after`).

    Raises:
        IdentityError: the connection carries no client certificate, or one that names nobody.
    """
    leaves = auth_context.get(_PEM_CERTIFICATE_PROPERTY, ())
    if len(leaves) != 1:
        raise IdentityError("the connection carries no client certificate")
    certificate = load_certificate(leaves[0], what="client certificate")
    return PeerCertificate(
        holder_of(certificate, what="client certificate"),
        serial_text(certificate),
        certificate.not_valid_after_utc,
    )


def check_valid_at(certificate: x509.Certificate, now: datetime, *, what: str) -> None:
    """Check a certificate's dates.

    Raises:
        IdentityError: it has expired or is not yet valid; the message gives both times.
    """
    if now > certificate.not_valid_after_utc:
        raise IdentityError(
            f"{what}: expired at {time_text(certificate.not_valid_after_utc)}; "
            f"it is {time_text(now)} by this machine's clock"
        )
    if now < certificate.not_valid_before_utc:
        raise IdentityError(
            f"{what}: not valid before {time_text(certificate.not_valid_before_utc)}; "
            f"it is {time_text(now)} by this machine's clock"
        )


def check_authority(authority: x509.Certificate, now: datetime, *, what: str) -> None:
    """Check that a certificate is an authority that may sign, valid now.

    It may be self-signed, or an intermediate of an institution's own: whoever trusts it trusts it by itself,
    and TLS builds no longer chain. One that names itself as issuer must have signed itself.

    Raises:
        IdentityError: it is no authority, is forged, has expired or is not yet valid.
    """
    try:
        constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise IdentityError(f"{what}: is no certificate authority") from error
    if not constraints.ca:
        raise IdentityError(f"{what}: is no certificate authority")
    if authority.issuer == authority.subject:
        check_issued_by(authority, authority, what=what)
    check_valid_at(authority, now, what=what)


def check_issued_by(certificate: x509.Certificate, authority: x509.Certificate, *, what: str) -> None:
    """Check that an authority's key signed a certificate.

    Raises:
        IdentityError: another authority signed it.
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise IdentityError(
            f"{what}: was not signed by the certificate authority of {consortium_of(authority)!r}; "
            "it belongs to another consortium"
        ) from error


def check_key_of(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, *, what: str) -> None:
    """Check that a certificate is for this private key.

    Raises:
        IdentityError: it is for another key.
    """
    if public_key(certificate) != key.public_key():
        raise IdentityError(f"{what}: is for another private key")


def time_text(moment: datetime) -> str:
    """Return an aware time as messages show it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
