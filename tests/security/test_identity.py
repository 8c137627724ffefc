from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from adpfl.errors import IdentityError
from adpfl.security.certificates import (
    Holder,
    create_request,
    new_key,
    public_key_of_request,
    serial_text,
    to_pem,
)
from adpfl.security.identity import (
    check_authority,
    check_issued_by,
    check_key_of,
    check_valid_at,
    key_to_pem,
    load_certificate,
    load_key,
    peer_certificate,
    save_key,
    site_of,
)

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hospital1")])


def certificate_with(now, *uris, key=None):
    """A self-signed certificate with these URIs and no other claim."""
    key = key or new_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def test_a_key_survives_the_disk_and_stays_private(tmp_path):
    key = new_key()
    save_key(tmp_path / "key.pem", key)
    assert load_key(tmp_path / "key.pem").private_numbers() == key.private_numbers()
    text = (tmp_path / "key.pem").read_bytes()
    assert text.startswith(b"-----BEGIN PRIVATE KEY-----\n")  # PKCS#8, not the older EC form
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(IdentityError, match="exists already"):
        save_key(tmp_path / "key.pem", new_key())


def test_a_loose_key_is_refused(tmp_path):
    save_key(tmp_path / "key.pem", new_key())
    (tmp_path / "key.pem").chmod(0o640)
    with pytest.raises(IdentityError, match=r"key\.pem: mode is 0640.*chmod 600"):
        load_key(tmp_path / "key.pem")


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "no usable private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no usable private key"),
        (
            new_key().private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"word"),
            ),
            "no usable private key",
        ),
        (key_to_pem(ec.generate_private_key(ec.SECP384R1())), "must be P-256"),
    ],
    ids=["empty", "garbage", "encrypted", "p384"],
)
def test_an_unusable_key_is_refused(tmp_path, data, rule):
    (tmp_path / "key.pem").write_bytes(data)
    (tmp_path / "key.pem").chmod(0o600)
    with pytest.raises(IdentityError, match=rule):
        load_key(tmp_path / "key.pem")


def test_certificates_are_read_in_both_encodings(consortium):
    certificate = consortium.site("hospital1").certificate
    other = consortium.server().certificate
    assert load_certificate(to_pem(certificate) + to_pem(other), what="chain") == certificate
    assert load_certificate(certificate.public_bytes(serialization.Encoding.DER), what="leaf") == certificate
    for data in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\x30\x00"):
        with pytest.raises(IdentityError, match="what it is: holds no usable certificate"):
            load_certificate(data, what="what it is")


def test_a_certificate_names_one_site(consortium):
    assert site_of(consortium.site("hospital1").certificate) == "hospital1"


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("https://hospital1",),
        ("urn:adpfl:site:",),
        ("urn:adpfl:site:Hospital1",),
        ("urn:adpfl:site:hospital1", "urn:adpfl:site:hospital2"),
        ("urn:adpfl:site:hospital1", "https://hospital1"),
        ("URN:ADPFL:SITE:hospital1",),
    ],
)
def test_a_certificate_without_exactly_one_site_names_none(now, uris):
    with pytest.raises(IdentityError):
        site_of(certificate_with(now, *uris))


def test_the_common_name_is_no_identity(consortium, now):
    with pytest.raises(IdentityError, match="names nobody"):
        site_of(certificate_with(now))  # its subject says CN=hospital1
    with pytest.raises(IdentityError):
        site_of(consortium.server().certificate)


def test_the_peer_is_read_from_the_verified_certificate(consortium):
    certificate = consortium.site("hospital1").certificate
    peer = peer_certificate({"x509_pem_cert": [to_pem(certificate)], "x509_common_name": [b"hospital9"]})
    assert peer.holder == Holder("site", "hospital1")
    assert peer.serial == serial_text(certificate)
    assert peer.not_after == certificate.not_valid_after_utc


@pytest.mark.parametrize("context", [{}, {"x509_pem_cert": []}, {"x509_common_name": [b"hospital1"]}])
def test_a_connection_without_a_certificate_is_nobody(context):
    with pytest.raises(IdentityError, match="no client certificate"):
        peer_certificate(context)


def test_dates_are_checked_to_the_second(consortium):
    certificate = consortium.site("hospital1").certificate
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    second = timedelta(seconds=1)
    check_valid_at(certificate, first, what="site")
    check_valid_at(certificate, last, what="site")
    with pytest.raises(IdentityError, match=f"site: expired at {last:%Y-%m-%d %H:%M:%S} UTC; it is "):
        check_valid_at(certificate, last + second, what="site")
    with pytest.raises(IdentityError, match=f"site: not valid before {first:%Y-%m-%d %H:%M:%S} UTC; it is "):
        check_valid_at(certificate, first - second, what="site")


def test_a_foreign_certificate_is_named_as_such(consortium, found):
    other = found("Lesion Study").authority.certificate  # the same name, another key
    certificate = consortium.site("hospital1").certificate
    check_issued_by(certificate, consortium.authority.certificate, what="site")
    with pytest.raises(IdentityError, match=r"site: was not signed by .*another consortium"):
        check_issued_by(certificate, other, what="site")


def test_an_authority_must_be_one(consortium, now):
    check_authority(consortium.authority.certificate, now, what="ca")
    with pytest.raises(IdentityError, match="ca: is no certificate authority"):
        check_authority(consortium.site("hospital1").certificate, now, what="ca")
    with pytest.raises(IdentityError, match="ca: is no certificate authority"):
        check_authority(certificate_with(now), now, what="ca")
    with pytest.raises(IdentityError, match="ca: expired"):
        check_authority(consortium.authority.certificate, now + timedelta(days=4000), what="ca")


def test_a_certificate_of_another_key_is_refused(consortium):
    one, two = consortium.site("hospital1"), consortium.site("hospital1")
    check_key_of(one.certificate, one.key, what="site")
    with pytest.raises(IdentityError, match="site: is for another private key"):
        check_key_of(one.certificate, two.key, what="site")


def test_identities_never_show_their_keys(consortium):
    for identity in (consortium.server(), consortium.site("hospital1")):
        assert "PrivateKey" not in repr(identity)
        assert "key=" not in repr(identity)
        assert identity.consortium == "Lesion Study"


def spoiled(der, old, new):
    assert der.count(old) >= 1
    return der.replace(old, new, 1)


def test_a_certificate_is_read_whole_or_refused(consortium):
    """The library reads subject, names and extensions only when asked; a stranger's must not fail later."""
    der = consortium.authority.certificate.public_bytes(serialization.Encoding.DER)
    version, organization = b"\xa0\x03\x02\x01\x02", b"\x06\x03\x55\x04\x0a"
    constraints = b"\x06\x03\x55\x1d\x13"
    for bad in (
        spoiled(der, version, b"\xa0\x03\x02\x01\x07"),
        spoiled(der, organization, b"\x1d\x03\x55\x04\x0a"),
        spoiled(der, constraints, b"\x06\x03\x55\x1d\x0e"),  # the key identifier's, which stands there too
    ):
        with pytest.raises(IdentityError, match="holds no usable certificate"):
            load_certificate(bad, what="certificate")


def test_a_signing_request_of_an_unknown_version_is_refused():
    der = create_request(new_key(), "hospital1").public_bytes(serialization.Encoding.DER)
    with pytest.raises(IdentityError, match="malformed"):
        public_key_of_request(spoiled(der, b"\x02\x01\x00", b"\x02\x01\x10"))
