"""A consortium founded on an authority that an institution brings."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from adpfl.errors import IdentityError
from adpfl.security.certificates import Holder, to_pem
from adpfl_server.identity.pki import init_consortium, read_authority, renew_server_certificate

HOUR = timedelta(hours=1)


def usage(*, signs_certificates):
    names = "digital_signature content_commitment key_encipherment data_encipherment key_agreement crl_sign"
    flags = dict.fromkeys([*names.split(), "encipher_only", "decipher_only"], False)
    return x509.KeyUsage(key_cert_sign=signs_certificates, **flags)


class Institution:
    """Makes authorities, good and bad."""

    def __init__(self, folder):
        self.folder = folder
        self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.now = datetime.now(UTC)

    def make(
        self,
        name="ca",
        *,
        organisation="Charity Hospital",
        ca=True,
        intermediate=False,
        key=None,
        ends=None,
        purposes=None,
        signs=True,
        identifier=True,
    ):
        key = key or ec.generate_private_key(ec.SECP256R1())
        common = [x509.NameAttribute(NameOID.COMMON_NAME, "issuing authority")]
        if organisation:
            common.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
        subject = x509.Name(common)
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]) if intermediate else subject
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - 2 * HOUR)
            .not_valid_after(ends or self.now + 1000 * HOUR)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage(signs_certificates=signs), critical=True)
        )
        if identifier:
            found = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
            builder = builder.add_extension(found, critical=False)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        certificate = builder.sign(self.root_key if intermediate else key, hashes.SHA256())
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_bytes(to_pem(certificate))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        paths[1].chmod(0o600)
        return paths


@pytest.fixture
def institution(tmp_path):
    return Institution(tmp_path)


@pytest.mark.parametrize("intermediate", [False, True])
def test_sites_call_a_server_of_an_authority_that_was_brought(
    consortium, institution, enrolled, caller_at, intermediate
):
    """Real TLS both ways, with the given authority as the only trust anchor."""
    authority = read_authority(*institution.make(intermediate=intermediate), now=institution.now)
    consortium.state_dir = consortium.root / "own"
    identity = init_consortium(consortium.state_dir, authority, ["localhost"], now=institution.now)
    assert identity.consortium == "Charity Hospital"
    assert identity.certificate.not_valid_after_utc <= authority.certificate.not_valid_after_utc
    daemon = consortium.start(state_dir="own")
    address = f"localhost:{daemon.ports.main}"
    site = enrolled(consortium.state_dir, Holder("site", "hospital1"), address)
    assert caller_at(site, address).join().runs
    renew_server_certificate(consortium.state_dir, ["localhost"], now=datetime.now(UTC))
    assert caller_at(site, address).join().runs


def test_a_certificate_of_the_same_authority_is_not_enough(consortium, institution, caller_at, enrolled):
    """The institution's authority signs other things too: what this server has not issued stays outside."""
    certificate, key = institution.make()
    authority = read_authority(certificate, key, now=institution.now)
    consortium.state_dir = consortium.root / "own"
    init_consortium(consortium.state_dir, authority, ["localhost"], now=institution.now)
    daemon = consortium.start(state_dir="own")
    address = f"localhost:{daemon.ports.main}"
    elsewhere = consortium.root / "elsewhere"
    init_consortium(elsewhere, authority, ["localhost"], now=institution.now)
    stranger = enrolled(elsewhere, Holder("site", "hospital1"), address)
    with pytest.raises(grpc.RpcError) as error:
        caller_at(stranger, address).join()
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "unknown to this server" in error.value.details()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ca": False}, "is no certificate authority"),
        ({"signs": False}, "lacks keyCertSign"),
        ({"organisation": ""}, "names 0 organisations"),
        ({"organisation": "Hospital " * 7 + "X"}, None),
        ({"identifier": False}, "lacks a subject key identifier"),
        ({"purposes": [ExtendedKeyUsageOID.SERVER_AUTH]}, "must allow serverAuth and clientAuth"),
        ({"purposes": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]}, None),
        ({"key": ec.generate_private_key(ec.SECP384R1())}, "must be P-256"),
        ({"ends": datetime.now(UTC) - HOUR}, "expired at"),
    ],
)
def test_an_authority_must_be_able_to_do_its_work(institution, changes, message):
    paths = institution.make(**changes)
    if message is None:
        assert read_authority(*paths, now=institution.now)
        return
    with pytest.raises(IdentityError, match=message):
        read_authority(*paths, now=institution.now)


def test_the_key_must_be_the_authoritys_and_closed(institution):
    certificate, key = institution.make("one")
    _, other = institution.make("two")
    with pytest.raises(IdentityError, match="is for another private key"):
        read_authority(certificate, other, now=institution.now)
    key.chmod(0o644)
    with pytest.raises(IdentityError, match="mode is 0644"):
        read_authority(certificate, key, now=institution.now)


def test_a_certificate_that_names_itself_must_have_signed_itself(institution):
    certificate, key = institution.make()
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    forger = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(
        found.issuer,
        found.subject,
        found.public_key(),
        found.serial_number,
        found.not_valid_before_utc,
        found.not_valid_after_utc,
        list(found.extensions),
    )
    certificate.write_bytes(to_pem(builder.sign(forger, hashes.SHA256())))
    with pytest.raises(IdentityError, match="was not signed by"):
        read_authority(certificate, key, now=institution.now)
