"""A site's enrolment against real TLS servers on loopback: honest, silent, refusing and hostile ones."""

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import SecretStr

from adpfl.errors import IdentityError
from adpfl.security import tls
from adpfl.security.bundle import EnrollmentBundle, write_bundle
from adpfl.security.certificates import (
    Holder,
    create_authority,
    create_request,
    issue_client_certificate,
    issue_server_certificate,
    new_key,
    to_pem,
)
from adpfl.security.identity import ServerIdentity, load_key
from adpfl.security.signing_files import key_fingerprint
from adpfl.wire._generated.adpfl.v1 import federation_pb2, federation_pb2_grpc
from adpfl_client.link import enrollment
from adpfl_client.link.enrollment import AwaitingSignatureError, load_site_identity
from adpfl_client.link.enrollment_call import UnreachableError

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
TOKEN = "t" * 43


class Server(federation_pb2_grpc.EnrollmentServicer):
    """An enrolment port whose answers a test decides."""

    def __init__(self, hosts=("localhost",)):
        self.authority = create_authority("Lesion Study", now=NOW)
        key = new_key()
        certificate = issue_server_certificate(self.authority, key.public_key(), hosts, now=NOW)
        self.identity = ServerIdentity(self.authority.certificate, certificate, key)
        self.requests = []
        self.answer = self.issue
        self.grpc = grpc.server(ThreadPoolExecutor(2), options=tls.ENROLLMENT_SERVER_OPTIONS)
        federation_pb2_grpc.add_EnrollmentServicer_to_server(self, self.grpc)
        self.port = self.grpc.add_secure_port("localhost:0", tls.enrollment_server_credentials(self.identity))
        self.grpc.start()

    def issue(self, request, _context=None, *, site=None, authority=None, now=NOW, csr=None):
        csr = csr or request.certificate_signing_request
        return issue_client_certificate(
            authority or self.authority, csr, Holder("site", site or request.name), now=now
        )

    def Enroll(self, request, context):  # noqa: N802 - the contract's name
        self.requests.append(request)
        answer = self.answer(request, context)
        if answer is None:
            return federation_pb2.EnrollResponse(awaits_signature=True)
        pem = answer if isinstance(answer, bytes) else to_pem(answer)
        return federation_pb2.EnrollResponse(certificate_chain=pem)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.grpc.stop(None).wait()


@pytest.fixture
def bundle_of(tmp_path):
    """Write the bundle that a server's operator would hand to hospital1."""

    def write(server, **changes):
        bundle = EnrollmentBundle(
            consortium="Lesion Study",
            name="hospital1",
            address="aggregator.example:50051",
            enroll_address=f"localhost:{server.port}",
            authority_certificate=to_pem(server.identity.authority).decode(),
            server_certificate=to_pem(server.identity.certificate).decode(),
            token=SecretStr(changes.pop("token", TOKEN)),
            expires_at=NOW + DAY,
        )
        write_bundle(tmp_path / "bundle.json", bundle.model_copy(update=changes))
        return tmp_path / "bundle.json"

    return write


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "state"


def enroll(bundle, state_dir, site="hospital1", now=NOW, **options):
    return enrollment.enroll(bundle, state_dir, Holder("site", site), now=now, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_site_enrols_and_its_key_stays(server, bundle_of, state_dir):
    identity = enroll(bundle_of(server), state_dir)
    assert identity.site == "hospital1"
    assert identity.consortium == "Lesion Study"
    assert identity.address == "aggregator.example:50051"
    assert identity.certificate.public_key() == identity.key.public_key()
    assert identity.server_certificate == server.identity.certificate
    assert names(state_dir) == ["identity"]

    (request,) = server.requests
    assert (request.name, request.token) == ("hospital1", TOKEN)
    sent = x509.load_der_x509_csr(request.certificate_signing_request)
    assert sent.public_key() == identity.key.public_key()
    secret = identity.key.private_numbers().private_value.to_bytes(32)
    assert secret not in request.SerializeToString()


def test_what_is_stored_is_private_and_loads(server, bundle_of, state_dir):
    identity = enroll(bundle_of(server), state_dir)
    folder = state_dir / "identity"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert TOKEN.encode() not in b"".join(snapshot(state_dir).values())
    loaded = load_site_identity(state_dir, "hospital1", now=NOW)
    assert loaded.key.private_numbers() == identity.key.private_numbers()
    assert loaded.certificate == identity.certificate
    assert loaded.authority == server.identity.authority
    assert loaded.address == identity.address


def test_the_same_bundle_again_changes_nothing_and_asks_nobody(server, bundle_of, state_dir):
    bundle = bundle_of(server)
    first = enroll(bundle, state_dir)
    before = snapshot(state_dir)
    again = enroll(bundle, state_dir, now=NOW + 2 * DAY)  # the bundle has expired; what it bought has not
    assert again.certificate == first.certificate
    assert snapshot(state_dir) == before
    assert len(server.requests) == 1


def test_a_lost_answer_is_asked_for_again_with_the_same_request(server, bundle_of, state_dir):
    def lose(request, context):
        context.abort(grpc.StatusCode.UNAVAILABLE, "the line went dead")

    server.answer = lose
    bundle = bundle_of(server)
    with pytest.raises(IdentityError, match="the line went dead"):
        enroll(bundle, state_dir)
    assert names(state_dir) == ["identity.pending"]
    with pytest.raises(IdentityError, match="enrolment is unfinished"):
        load_site_identity(state_dir, "hospital1", now=NOW)
    key = load_key(state_dir / "identity.pending" / "key.pem")

    server.answer = server.issue
    identity = enroll(bundle, state_dir)
    assert identity.key.private_numbers() == key.private_numbers()
    first, second = server.requests
    assert first == second
    assert names(state_dir) == ["identity"]


@pytest.mark.parametrize(
    "moment", ["new_key", "save_key", "write_new", "replace_file", "publish_folder", "_put_in_place"]
)
def test_a_crash_at_any_moment_is_mended_by_repeating(server, bundle_of, state_dir, monkeypatch, moment):
    bundle = bundle_of(server)

    def crash(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(enrollment, moment, crash)
        with pytest.raises(KeyboardInterrupt):
            enroll(bundle, state_dir)
    assert "identity" not in names(state_dir)
    asked_before = len(server.requests)
    identity = enroll(bundle, state_dir)
    assert names(state_dir) == ["identity"]
    assert load_site_identity(state_dir, "hospital1", now=NOW).certificate == identity.certificate
    assert len({request.certificate_signing_request for request in server.requests}) == 1
    assert len(server.requests) == (1 if moment == "_put_in_place" else asked_before + 1)


def test_an_enrolment_that_waits_for_its_signature_loses_nothing(server, bundle_of, state_dir):
    bundle = bundle_of(server)
    server.answer = lambda *_: None
    told = set()
    for later in (NOW, NOW + 30 * DAY):  # long after the bundle's end
        with pytest.raises(AwaitingSignatureError, match="waits for the consortium's signature") as waiting:
            enroll(bundle, state_dir, now=later)
        told.add(str(waiting.value))
        assert names(state_dir) == ["identity.pending"]
    key = load_key(state_dir / "identity.pending" / "key.pem")
    assert told == {str(waiting.value)}
    assert str(waiting.value).endswith(key_fingerprint(key.public_key()))
    server.answer = server.issue
    identity = enroll(bundle, state_dir, now=NOW + 60 * DAY)
    assert identity.key.private_numbers() == key.private_numbers()
    assert len({request.certificate_signing_request for request in server.requests}) == 1
    assert "awaits-signature" not in names(state_dir / "identity")


def test_an_expired_bundle_that_nobody_keeps_is_not_asked_for(server, bundle_of, state_dir):
    server.answer = lambda _, context: context.abort(grpc.StatusCode.UNAVAILABLE, "away")
    bundle = bundle_of(server)
    with pytest.raises(UnreachableError):
        enroll(bundle, state_dir)
    with pytest.raises(IdentityError, match="expired at"):
        enroll(bundle, state_dir, now=NOW + 2 * DAY)
    assert len(server.requests) == 1


def test_a_key_of_a_crashed_attempt_stays_closed(server, bundle_of, state_dir):
    server.answer = lambda _, context: context.abort(grpc.StatusCode.UNAVAILABLE, "away")
    with pytest.raises(IdentityError):
        enroll(bundle_of(server), state_dir)
    assert (state_dir / "identity.pending").stat().st_mode & 0o777 == 0o700
    assert (state_dir / "identity.pending" / "key.pem").stat().st_mode & 0o777 == 0o600


def test_another_bundle_starts_afresh(server, bundle_of, state_dir):
    server.answer = lambda _, context: context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
    with pytest.raises(IdentityError, match="refused; the bundle's token has ended"):
        enroll(bundle_of(server), state_dir)
    server.answer = server.issue
    enroll(bundle_of(server, token="n" * 43), state_dir)
    first, second = server.requests
    assert first.certificate_signing_request != second.certificate_signing_request
    assert names(state_dir) == ["identity"]


def test_an_identity_is_given_up_only_on_demand(server, bundle_of, state_dir):
    first = enroll(bundle_of(server), state_dir)
    before = snapshot(state_dir)
    newer = bundle_of(server, token="n" * 43)
    with pytest.raises(IdentityError, match=r"nothing was changed \(add --replace"):
        enroll(newer, state_dir)
    assert snapshot(state_dir) == before

    server.answer = lambda _, context: context.abort(grpc.StatusCode.UNAVAILABLE, "away")
    with pytest.raises(IdentityError):
        enroll(newer, state_dir, replace=True)
    assert load_site_identity(state_dir, "hospital1", now=NOW).certificate == first.certificate

    server.answer = server.issue
    second = enroll(newer, state_dir, replace=True)
    assert second.key.public_key() != first.key.public_key()
    assert names(state_dir) == ["identity"]


def test_a_crash_between_giving_up_and_taking_is_mended(server, bundle_of, state_dir, monkeypatch):
    enroll(bundle_of(server), state_dir)
    newer = bundle_of(server, token="n" * 43)
    real = enrollment.publish_folder

    def crash_at_the_last(staging, folder):
        if folder.name == "identity":
            raise KeyboardInterrupt
        real(staging, folder)

    with monkeypatch.context() as patch:
        patch.setattr(enrollment, "publish_folder", crash_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            enroll(newer, state_dir, replace=True)
    assert names(state_dir) == ["identity.pending", "identity.replaced"]
    second = enroll(newer, state_dir, now=NOW + 2 * DAY)  # even after the token has ended: the answer is here
    assert names(state_dir) == ["identity"]
    assert load_site_identity(state_dir, "hospital1", now=NOW).certificate == second.certificate
    assert len(server.requests) == 2


# Bundles that cannot work -------------------------------------------------------------------------


def refused(bundle, state_dir, **options):
    with pytest.raises(IdentityError) as refusal:
        enroll(bundle, state_dir, **options)
    assert TOKEN not in str(refusal.value)
    assert "identity" not in names(state_dir)
    return str(refusal.value)


def test_an_expired_bundle_is_refused_before_anything_is_made(server, bundle_of, state_dir):
    bundle = bundle_of(server)
    message = refused(bundle, state_dir, now=NOW + DAY)
    assert message.startswith(f"{bundle}: expired at {NOW + DAY:%Y-%m-%d %H:%M:%S} UTC")
    assert "ask the operator for a new bundle" in message
    assert not state_dir.exists()
    assert server.requests == []


def test_another_sites_bundle_is_refused(server, bundle_of, state_dir):
    assert "is for site hospital1; this is site hospital2" in refused(
        bundle_of(server), state_dir, site="hospital2"
    )
    assert not state_dir.exists()
    assert server.requests == []


def test_a_loose_bundle_is_refused(server, bundle_of, state_dir):
    bundle = bundle_of(server)
    bundle.chmod(0o644)
    assert f"chmod 600 {bundle}" in refused(bundle, state_dir)


@pytest.mark.parametrize("which", ["authority_certificate", "server_certificate"])
def test_a_bundle_of_mixed_consortia_is_refused(server, bundle_of, state_dir, which):
    other = to_pem(create_authority("Lesion Study", now=NOW).certificate).decode()
    assert "was not signed by" in refused(bundle_of(server, **{which: other}), state_dir)
    assert server.requests == []


def test_a_leaf_is_no_authority(server, bundle_of, state_dir):
    leaf = to_pem(server.identity.certificate).decode()
    message = refused(bundle_of(server, authority_certificate=leaf), state_dir)
    assert "authority_certificate: is no certificate authority" in message


# Servers that cannot be trusted or reached --------------------------------------------------------


def test_a_foreign_server_gets_no_token(server, bundle_of, state_dir):
    impostor = Server()
    try:
        bundle = bundle_of(server, enroll_address=f"localhost:{impostor.port}")
        message = refused(bundle, state_dir)
    finally:
        impostor.grpc.stop(None).wait()
    assert "not signed by the certificate authority of 'Lesion Study'; nothing was sent" in message
    assert impostor.requests == []


def test_a_server_under_another_name_gets_no_token(bundle_of, state_dir):
    elsewhere = Server(hosts=("aggregator.example",))
    try:
        message = refused(bundle_of(elsewhere), state_dir)
    finally:
        elsewhere.grpc.stop(None).wait()
    assert "the server's certificate is for another address; nothing was sent" in message
    assert elsewhere.requests == []


def test_an_absent_server_is_said_to_be_absent(server, bundle_of, state_dir):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    message = refused(bundle_of(server, enroll_address=f"localhost:{port}"), state_dir)
    assert message.startswith(f"enrolment at localhost:{port}: the server cannot be reached")


def other_request(request):
    return create_request(new_key(), request.name).public_bytes(serialization.Encoding.DER)


HOSTILE = {
    "another site's name": (
        lambda server, request: server.issue(request, site="hospital2"),
        "names site hospital2; this is site hospital1",
    ),
    "another key": (
        lambda server, request: server.issue(request, csr=other_request(request)),
        "is for another private key",
    ),
    "another authority": (
        lambda server, request: server.issue(request, authority=create_authority("Lesion Study", now=NOW)),
        "was not signed by",
    ),
    "expired": (
        lambda server, request: issue_client_certificate(
            server.authority,
            request.certificate_signing_request,
            Holder("site", request.name),
            now=NOW - DAY,
            lifetime=DAY / 2,
        ),
        "expired at",
    ),
    "nothing": (lambda _server, _request: b"", "certificate_chain has length 0"),
    "no certificate": (lambda _server, _request: b"certificate", "holds no usable certificate"),
    "the server's own": (lambda server, _request: server.identity.certificate, "names 0 holders"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_unusable_answer_is_refused_and_not_kept(server, bundle_of, state_dir, case):
    answer, rule = HOSTILE[case]
    server.answer = lambda request, _context: answer(server, request)
    message = refused(bundle_of(server), state_dir)
    assert f"localhost:{server.port}" in message
    assert rule in message
    assert "certificate.pem" not in names(state_dir / "identity.pending")


# Loading what enrolment stored --------------------------------------------------------------------


@pytest.fixture
def enrolled(server, bundle_of, state_dir):
    enroll(bundle_of(server), state_dir)
    return state_dir


def load(state_dir, site="hospital1", now=NOW):
    return load_site_identity(state_dir, site, now=now)


def test_a_site_that_is_not_enrolled_is_told_how(state_dir):
    with pytest.raises(IdentityError, match=r"identity: is absent; enrol hospital1 .*adpfl-client enroll"):
        load(state_dir)


def test_a_loose_key_is_refused(enrolled):
    (enrolled / "identity" / "key.pem").chmod(0o640)
    with pytest.raises(IdentityError, match=r"key\.pem: mode is 0640.*chmod 600"):
        load(enrolled)


def test_another_sites_folder_is_refused(enrolled):
    with pytest.raises(IdentityError, match="is the identity of site hospital1; this is site hospital2"):
        load(enrolled, site="hospital2")


def test_dates_are_checked(enrolled):
    with pytest.raises(IdentityError, match=r"certificate\.pem: expired at"):
        load(enrolled, now=NOW + 366 * DAY)
    with pytest.raises(IdentityError, match=r"not valid before"):
        load(enrolled, now=NOW - DAY)


def test_a_swapped_authority_is_refused(enrolled):
    other = create_authority("Lesion Study", now=NOW).certificate
    (enrolled / "identity" / "ca.pem").write_bytes(to_pem(other))
    with pytest.raises(IdentityError, match="was not signed by"):
        load(enrolled)


@pytest.mark.parametrize("name", ["key.pem", "certificate.pem", "ca.pem", "server.pem", "federation.json"])
def test_an_absent_file_is_named(enrolled, name):
    (enrolled / "identity" / name).unlink()
    with pytest.raises(IdentityError, match=f"{name}: cannot be read: No such file"):
        load(enrolled)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"site": "hospital1"}'])
def test_a_damaged_record_is_named(enrolled, text):
    (enrolled / "identity" / "federation.json").write_text(text)
    with pytest.raises(IdentityError, match=r"federation\.json: is not the record of an enrolment"):
        load(enrolled)
