import ipaddress
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from adpfl.errors import IdentityError
from adpfl.security.certificates import (
    CLOCK_SKEW,
    HOSTS_PER_SERVER,
    MAX_REQUEST_BYTES,
    Holder,
    create_authority,
    create_request,
    issue_client_certificate,
    issue_server_certificate,
    names_of_hosts,
    new_key,
    public_key_of_request,
    serial_text,
)

DER = serialization.Encoding.DER
HOSPITAL1 = Holder("site", "hospital1")
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anything")])


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def request_of(key, *extensions, algorithm=None):
    builder = x509.CertificateSigningRequestBuilder().subject_name(NAME)
    for wanted, critical in extensions:
        builder = builder.add_extension(wanted, critical=critical)
    return builder.sign(key, algorithm or hashes.SHA256()).public_bytes(DER)


def policy(consortium):
    return PolicyBuilder().store(Store([consortium.authority.certificate])).time(consortium.now)


def test_the_authority_signs_leaves_only(now):
    authority = create_authority("Lesion Study", now=now, lifetime=timedelta(days=2)).certificate
    constraints = extension(authority, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = extension(authority, x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    assert isinstance(authority.public_key().curve, ec.SECP256R1)
    assert isinstance(authority.signature_hash_algorithm, hashes.SHA256)
    assert authority.not_valid_before_utc == now - CLOCK_SKEW
    assert authority.not_valid_after_utc == now + timedelta(days=2)
    assert "Lesion Study" in authority.subject.rfc4514_string()


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "line\nbreak", "tab\t"])
def test_a_consortium_needs_a_name_that_can_be_shown(name, now):
    with pytest.raises(IdentityError, match="consortium is"):
        create_authority(name, now=now)


def test_the_key_of_an_authority_never_shows(consortium):
    assert "EllipticCurvePrivateKey" not in repr(consortium.authority)
    assert "key=" not in repr(consortium.authority)


def test_the_server_certificate_passes_an_independent_verifier(consortium):
    certificate = consortium.server("aggregator.example", "192.0.2.7", "2001:db8::7").certificate
    chain = [certificate, consortium.authority.certificate]
    for name in (
        x509.DNSName("aggregator.example"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.7")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::7")),
    ):
        assert policy(consortium).build_server_verifier(name).verify(certificate, []) == chain
    for name in (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))):
        with pytest.raises(VerificationError):
            policy(consortium).build_server_verifier(name).verify(certificate, [])


def test_a_site_certificate_passes_an_independent_verifier(consortium):
    certificate = consortium.site("hospital1").certificate
    verified = policy(consortium).build_client_verifier().verify(certificate, [])
    assert verified.subjects == [x509.UniformResourceIdentifier("urn:adpfl:site:hospital1")]


def test_neither_leaf_can_stand_in_for_the_other(consortium, found):
    site, server = consortium.site("hospital1").certificate, consortium.server().certificate
    with pytest.raises(VerificationError):
        policy(consortium).build_client_verifier().verify(server, [])
    assert extension(site, x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    assert extension(server, x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH]
    )
    with pytest.raises(VerificationError):
        policy(found("Other Study")).build_client_verifier().verify(site, [])


@pytest.mark.parametrize("end", ["site", "server"])
def test_leaves_are_tied_to_their_authority_and_end_with_it(consortium, end):
    authority = consortium.authority
    long = timedelta(days=100_000)
    if end == "site":
        request = create_request(new_key(), "hospital1").public_bytes(DER)
        leaf = issue_client_certificate(authority, request, HOSPITAL1, now=consortium.now, lifetime=long)
    else:
        key = new_key().public_key()
        leaf = issue_server_certificate(authority, key, ["localhost"], now=consortium.now, lifetime=long)
    assert leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc
    assert leaf.not_valid_before_utc == consortium.now - CLOCK_SKEW
    assert extension(leaf, x509.BasicConstraints).value == x509.BasicConstraints(ca=False, path_length=None)
    assert extension(leaf, x509.KeyUsage).value.digital_signature
    assert not extension(leaf, x509.KeyUsage).value.key_cert_sign
    subject_key = extension(authority.certificate, x509.SubjectKeyIdentifier).value
    assert extension(leaf, x509.AuthorityKeyIdentifier).value.key_identifier == subject_key.digest
    assert extension(leaf, x509.SubjectKeyIdentifier).value == x509.SubjectKeyIdentifier.from_public_key(
        leaf.public_key()
    )


def test_nothing_but_the_key_is_taken_from_a_request(consortium):
    key = new_key()
    request = request_of(
        key,
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(Holder("site", "hospital2").uri)]),
            False,
        ),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
    )
    certificate = issue_client_certificate(consortium.authority, request, HOSPITAL1, now=consortium.now)
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "hospital1"
    assert not extension(certificate, x509.BasicConstraints).value.ca
    names = extension(certificate, x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("urn:adpfl:site:hospital1")]
    assert ExtendedKeyUsageOID.SERVER_AUTH not in extension(certificate, x509.ExtendedKeyUsage).value


def test_serial_numbers_are_random(consortium):
    request = create_request(new_key(), "hospital1").public_bytes(DER)
    issued = [
        issue_client_certificate(consortium.authority, request, HOSPITAL1, now=consortium.now)
        for _ in range(8)
    ]
    serials = {certificate.serial_number for certificate in issued}
    assert len(serials) == 8
    assert all(serial.bit_length() > 100 for serial in serials)
    assert int(serial_text(issued[0]), 16) == issued[0].serial_number


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(rsa.generate_private_key(public_exponent=65537, key_size=2048), id="rsa"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), id="p384"),
        pytest.param(ec.generate_private_key(ec.SECP256K1()), id="k256"),
    ],
)
def test_other_kinds_of_key_are_refused(key):
    with pytest.raises(IdentityError, match="must be P-256"):
        public_key_of_request(request_of(key))


def test_an_ed25519_request_is_refused():
    key = ed25519.Ed25519PrivateKey.generate()
    request = x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, None).public_bytes(DER)
    with pytest.raises(IdentityError, match="must be P-256"):
        public_key_of_request(request)


def test_a_request_for_somebody_elses_key_is_refused():
    mine, theirs = new_key(), new_key()
    genuine = request_of(mine)
    point = serialization.PublicFormat.UncompressedPoint
    encoding = serialization.Encoding.X962
    forged = genuine.replace(
        mine.public_key().public_bytes(encoding, point), theirs.public_key().public_bytes(encoding, point)
    )
    assert forged != genuine
    assert public_key_of_request(genuine) == mine.public_key()
    with pytest.raises(IdentityError, match="not signed by its own key"):
        public_key_of_request(forged)


@pytest.mark.parametrize(
    "mangle",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda request: request[:-1], id="cut"),
        pytest.param(lambda request: request + b"\0", id="tail"),
        pytest.param(lambda _: b"\x30\x82" + b"\xff" * 100, id="garbage"),
        pytest.param(lambda request: request + b"\0" * MAX_REQUEST_BYTES, id="too-large"),
    ],
)
def test_a_mangled_request_is_refused(mangle):
    with pytest.raises(IdentityError, match="signing request"):
        public_key_of_request(mangle(request_of(new_key())))


@pytest.mark.parametrize(
    "site", ["", "Hospital", "a/b", "a b", "-a", "a" * 64, "höpital", "a\n", "urn:adpfl:site:a"]
)
def test_a_site_needs_a_safe_name(consortium, site):
    with pytest.raises(IdentityError, match="site is"):
        Holder("site", site)
    with pytest.raises(IdentityError, match="site is"):
        issue_client_certificate(
            consortium.authority, request_of(new_key()), Holder("site", site), now=consortium.now
        )


@pytest.mark.parametrize(
    "host",
    [
        "",
        "*",
        "*.example",
        "a..b",
        "-a.example",
        "host:50051",
        "https://host",
        "fe80::1%eth0",
        "fe80::1%\x1b[2K\x1b[1Gsite hospital1",  # would rewrite the line that a person agrees to
        "\u212aey.example.org",  # the Kelvin sign, of which the lower case is an ASCII k
        "a b",
        "under_score",
        "é.example",
    ],
)
def test_a_host_is_a_name_or_an_address(consortium, host):
    with pytest.raises(IdentityError, match="host is"):
        consortium.server("localhost", host)


def test_a_server_has_no_more_hosts_than_a_file_of_requests_may_hold():
    hosts = [f"host{number}.example.org" for number in range(HOSTS_PER_SERVER + 1)]
    assert len(names_of_hosts(hosts[1:])) == HOSTS_PER_SERVER
    with pytest.raises(IdentityError, match=f"names {HOSTS_PER_SERVER + 1}; must name 1 to"):
        names_of_hosts(hosts)


def test_a_server_needs_a_host(consortium):
    with pytest.raises(IdentityError, match="hosts is empty"):
        issue_server_certificate(consortium.authority, new_key().public_key(), [], now=consortium.now)
