"""Strangers at the enrolment port of a daemon: patience ends, attempts are counted, and one may enrol."""

import threading
from datetime import UTC, datetime

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from adpfl.security.certificates import Holder, create_request, new_key
from adpfl.security.tls import ENROLLMENT_CHANNEL_OPTIONS, enrollment_channel_credentials
from adpfl.wire import limits
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl_server.enrollment import REFUSAL
from adpfl_server.identity.pki import load_server_identity
from adpfl_server.identity.tokens import issue_token
from adpfl_server.limits import enrollment_port
from adpfl_server.limits.attempts import network_of
from adpfl_server.limits.enrollment_port import CALLS_PER_ADDRESS
from adpfl_server.storage.database import open_database
from adpfl_server.store import DATABASE_FILE
from tests.server.patience import eventually

METHOD = "/adpfl.v1.Enrollment/Enroll"


@pytest.fixture
def stranger(consortium, monkeypatch):
    """Opens channels to a port that waits a second for a message."""
    monkeypatch.setattr(enrollment_port.PatienceInterceptor.__init__, "__defaults__", (1.0,))
    opened = []

    def dial(**limits_):
        if not consortium.running:
            consortium.start(limits=limits_)
        identity = load_server_identity(consortium.state_dir, now=datetime.now(UTC))
        address = f"localhost:{consortium.running[0].ports.enrollment}"
        # A pool of its own, else channels share one connection and its few streams.
        options = (*ENROLLMENT_CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        opened.append(
            grpc.secure_channel(address, enrollment_channel_credentials(identity.authority), options)
        )
        return opened[-1]

    yield dial
    for channel in opened:
        channel.close()


@pytest.fixture
def silence():
    over = threading.Event()

    def nothing():
        over.wait(60)
        yield from ()

    yield nothing
    over.set()


def guess(channel):
    with pytest.raises(grpc.RpcError) as error:
        rpc.EnrollmentStub(channel).Enroll(pb.EnrollRequest(name="hospital1", token="x"), timeout=20)
    return error.value


def enroll(consortium, channel):
    database = open_database(consortium.state_dir / DATABASE_FILE)
    token = issue_token(database, Holder("site", "hospital1"), now=datetime.now(UTC)).token
    database.close()
    request = create_request(new_key(), "hospital1").public_bytes(serialization.Encoding.DER)
    message = pb.EnrollRequest(name="hospital1", token=token, certificate_signing_request=request)
    return rpc.EnrollmentStub(channel).Enroll(message, timeout=20)


def test_a_call_without_its_message_is_ended(stranger, silence):
    with pytest.raises(grpc.RpcError) as error:
        stranger().stream_unary(METHOD)(silence(), timeout=60)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_one_address_cannot_fill_the_port(consortium, stranger, silence, monkeypatch):
    arrived = []
    monkeypatch.setattr(enrollment_port, "network_of", lambda peer: arrived.append(peer) or network_of(peer))
    monkeypatch.setattr(enrollment_port.PatienceInterceptor.__init__, "__defaults__", (60.0,))
    channels = [stranger() for _ in range(CALLS_PER_ADDRESS)]
    held = [channel.stream_unary(METHOD).future(silence(), timeout=120) for channel in channels]
    eventually(lambda: len(arrived) == CALLS_PER_ADDRESS)  # a newcomer among them would have one's place

    newcomer = stranger()
    refused = guess(newcomer)
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"has {CALLS_PER_ADDRESS} calls under way" in refused.details()
    assert not any(call.done() for call in held)

    for call in held:
        call.cancel()
    eventually(lambda: guess(newcomer).code() is not grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert enroll(consortium, newcomer).certificate_chain.startswith(b"-----BEGIN")


def test_attempts_are_counted_and_told_when_to_come_again(consortium, stranger):
    channel = stranger(enrollments_per_minute_per_address=3)
    assert {guess(channel).code() for _ in range(3)} == {grpc.StatusCode.PERMISSION_DENIED}
    refused = guess(channel)
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "limits.enrollments_per_minute_per_address is 3" in refused.details()
    assert 0 < int(dict(refused.trailing_metadata())[limits.RETRY_AFTER_METADATA]) <= 20_000


@pytest.mark.parametrize("sent", [b"\xff\xff\xff", b"\x12" + bytes([0xFF, 0xFF, 0x04]) + bytes(65_500)])
def test_what_is_no_request_is_refused_like_everything_else(stranger, sent):
    with pytest.raises(grpc.RpcError) as error:
        stranger().unary_unary(METHOD)(sent, timeout=20)
    assert (error.value.code(), error.value.details()) in {
        (grpc.StatusCode.PERMISSION_DENIED, REFUSAL),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, error.value.details()),  # longer than the port takes
    }
