"""The consortium's certificates (RFC 5280): one P-256 authority, the server's, and one for whoever calls it.

The authority signs leaves only (path length 0). A leaf serves one end: the server's has `serverAuth` and the
names that sites dial, a caller's has `clientAuth` and one URI, `urn:adpfl:<role>:<name>`, so neither can
stand in for the other and no role for another. From a signing request only the public key is taken: subject
and extensions are the authority's decision.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, get_args

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from adpfl.errors import IdentityError

AUTHORITY_LIFETIME = timedelta(days=3650)
SERVER_LIFETIME = timedelta(days=825)
CLIENT_LIFETIME = timedelta(days=365)

CLOCK_SKEW = timedelta(minutes=5)
"""Certificates are valid from this much before their making: a site's clock may be a little behind the
server's."""

URI_PREFIX = "urn:adpfl:"
MAX_REQUEST_BYTES = 8 * 1024
MAX_CONSORTIUM_CHARACTERS = 64
"""X.520 `ub-organization-name`."""

Role = Literal["site", "operator", "auditor"]
"""What a certificate lets its holder do: take part in runs, steer them, or read what happened."""
ROLES: tuple[Role, ...] = get_args(Role)

HOSTS_PER_SERVER: Final = 64
"""Hosts that one certificate names: as many as a file of signing requests carries."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_HOST_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Whom a caller's certificate names. A site and an operator of the same name are two holders."""

    role: Role
    name: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise IdentityError(f"role is {self.role!r}; must be one of {', '.join(ROLES)}")
        if not _NAME.fullmatch(self.name):
            raise IdentityError(
                f"{self.role} is {self.name[:80]!r}; must be 1 to 63 lower-case letters, digits, '_' or '-', "
                "and start with a letter or digit"
            )

    @property
    def uri(self) -> str:
        """The URI that names the holder in a certificate."""
        return f"{URI_PREFIX}{self.role}:{self.name}"

    def __str__(self) -> str:
        return self.name if self.role == "site" else f"{self.role} {self.name}"


MALFORMED: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises on a certificate or request that is none, or when a part of one is read."""


@dataclass(frozen=True)
class CertificateAuthority:
    """The consortium's signing key with its certificate; the key never shows in a repr."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh P-256 key from the operating system's generator."""
    return ec.generate_private_key(ec.SECP256R1())


def create_authority(
    consortium: str, *, now: datetime, lifetime: timedelta = AUTHORITY_LIFETIME
) -> CertificateAuthority:
    """Make a self-signed authority that may sign leaf certificates and nothing else.

    Args:
        consortium: the name that stands in every certificate, 1 to 64 printable characters.
        now: aware time of making.
        lifetime: how long the authority is valid.

    Raises:
        IdentityError: the consortium's name breaks its rule.
    """
    if (
        not 0 < len(consortium) <= MAX_CONSORTIUM_CHARACTERS
        or not consortium.isprintable()
        or not consortium.strip()
    ):
        rule = f"must be 1 to {MAX_CONSORTIUM_CHARACTERS} printable characters"
        raise IdentityError(f"consortium is {consortium[:80]!r}; {rule}")
    key = new_key()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, consortium),
            x509.NameAttribute(NameOID.COMMON_NAME, "adpfl certificate authority"),
        ]
    )
    builder = _builder(name, name, key.public_key(), now=now, not_after=now + lifetime)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return CertificateAuthority(certificate, key)


def check_can_issue(certificate: x509.Certificate, *, what: str) -> None:
    """Check that an authority made elsewhere can sign a consortium's certificates.

    Raises:
        IdentityError: it may not sign certificates of both ends, lacks its key's identifier, or names no
            organisation for the consortium.
    """
    names = [
        str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    ]
    if len(names) != 1 or not 0 < len(names[0]) <= MAX_CONSORTIUM_CHARACTERS:
        raise IdentityError(
            f"{what}: names {len(names)} organisations; must name one (O=) of at most "
            f"{MAX_CONSORTIUM_CHARACTERS} characters: it is the consortium's name"
        )
    extensions = {extension.oid: extension.value for extension in certificate.extensions}
    usage = extensions.get(ExtensionOID.KEY_USAGE)
    if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
        raise IdentityError(f"{what}: its key usage lacks keyCertSign")
    purposes = extensions.get(ExtensionOID.EXTENDED_KEY_USAGE)
    needed = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if isinstance(purposes, x509.ExtendedKeyUsage) and not needed <= set(purposes):
        raise IdentityError(
            f"{what}: its extended key usage must allow serverAuth and clientAuth, or be absent"
        )
    if ExtensionOID.SUBJECT_KEY_IDENTIFIER not in extensions:
        raise IdentityError(f"{what}: lacks a subject key identifier")


def issue_server_certificate(
    authority: CertificateAuthority,
    public_key: ec.EllipticCurvePublicKey,
    hosts: Sequence[str],
    *,
    now: datetime,
    lifetime: timedelta = SERVER_LIFETIME,
) -> x509.Certificate:
    """Sign the server's certificate for exactly the names and addresses that sites dial.

    Args:
        authority: the consortium's.
        public_key: the server's, P-256.
        hosts: DNS names and IP addresses, at least one; nothing is added (not even localhost).
        now: aware time of signing.
        lifetime: cut short where the authority itself ends earlier.

    Raises:
        IdentityError: no host or too many, or one that is neither a DNS name nor an IP address.
    """
    names = names_of_hosts(hosts)
    return _issue_leaf(
        authority,
        public_key,
        common_name="adpfl server",
        names=names,
        purpose=ExtendedKeyUsageOID.SERVER_AUTH,
        now=now,
        lifetime=lifetime,
    )


def create_request(key: ec.EllipticCurvePrivateKey, common_name: str) -> x509.CertificateSigningRequest:
    """Make the signing request (PKCS#10, RFC 2986) that proves possession of a key.

    The subject is a courtesy to whoever looks at the file: the authority ignores it.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())


def issue_client_certificate(
    authority: CertificateAuthority,
    request: bytes,
    holder: Holder,
    *,
    now: datetime,
    lifetime: timedelta = CLIENT_LIFETIME,
) -> x509.Certificate:
    """Sign a caller's certificate for the public key of a signing request.

    Nothing but the key is taken from the request: neither its subject nor any extension that it asks for.

    Args:
        authority: the consortium's.
        request: PKCS#10, DER, at most 8 KiB, P-256, signed by its own key.
        holder: whom the certificate will name.
        now: aware time of signing.
        lifetime: cut short where the authority itself ends earlier.

    Raises:
        IdentityError: the request is too large, malformed, of another kind of key, or not signed by its own
            key.
    """
    return _issue_leaf(
        authority,
        public_key_of_request(request),
        common_name=holder.name,
        names=[x509.UniformResourceIdentifier(holder.uri)],
        purpose=ExtendedKeyUsageOID.CLIENT_AUTH,
        now=now,
        lifetime=lifetime,
    )


def public_key_of_request(request: bytes) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key of a signing request after verifying that the request is signed by it.

    Raises:
        IdentityError: the request is too large, malformed, of another kind of key, or not signed by its own
            key.
    """
    if len(request) > MAX_REQUEST_BYTES:
        raise IdentityError(
            f"signing request holds {len(request)} bytes; must be at most {MAX_REQUEST_BYTES}"
        )
    try:
        parsed = x509.load_der_x509_csr(request)
        key = parsed.public_key()
        # The kind of key first: verifying an RSA key of an attacker's choice costs what the attacker likes.
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise IdentityError("signing request holds another kind of key; must be P-256")
        genuine = parsed.is_signature_valid
    except MALFORMED as error:
        raise IdentityError("signing request is malformed; must be PKCS#10 in DER") from error
    if not genuine:
        raise IdentityError("signing request is not signed by its own key")
    return key


def to_pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def serial_text(certificate: x509.Certificate) -> str:
    """Return a certificate's serial number as it is stored and logged: lower-case hexadecimal."""
    return f"{certificate.serial_number:x}"


def _issue_leaf(
    authority: CertificateAuthority,
    public_key: ec.EllipticCurvePublicKey,
    *,
    common_name: str,
    names: Sequence[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    issuer = authority.certificate
    organization = issuer.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    subject = x509.Name([*organization, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    not_after = min(now + lifetime, issuer.not_valid_after_utc)
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    )
    return (
        _builder(subject, issuer.subject, public_key, now=now, not_after=not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(authority_key, critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    now: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(not_after)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def names_of_hosts(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """The names that a server's certificate has for these hosts, each once.

    Raises:
        IdentityError: no host or too many, or one that is neither a DNS name nor an IP address.
    """
    if not hosts:
        raise IdentityError("hosts is empty; must name at least one DNS name or IP address that sites dial")
    if len(hosts) > HOSTS_PER_SERVER:
        raise IdentityError(f"hosts names {len(hosts)}; must name 1 to {HOSTS_PER_SERVER}")
    return [_general_name(host) for host in dict.fromkeys(hosts)]


def _general_name(host: str) -> x509.GeneralName:
    if (
        "%" not in host
    ):  # a zone may hold any character, means something on one machine alone, and is not signed
        try:
            return x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            pass
    name = host.lower()
    if host.isascii() and len(name) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in name.split(".")):
        return x509.DNSName(name)
    raise IdentityError(
        f"host is {host[:80]!r}; must be a DNS name or an IP address, without port or wildcard"
    )
