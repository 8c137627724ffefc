"""Who is let in: certificates that stand, whoever holds them, and calls that come to their point."""

import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl_server.limits.limits_config import LimitsConfig
from tests.server.patience import eventually


def watches(channel, count=1):
    """Health checks that go on."""
    watch = health_pb2_grpc.HealthStub(channel).Watch
    return [watch(health_pb2.HealthCheckRequest()) for _ in range(count)]


def test_a_revoked_certificate_does_not_keep_its_holders_next_one_out(consortium, revoke):
    consortium.start()
    thief = consortium.caller("hospital1")
    thief.join()
    revoke(consortium.state_dir, "hospital1")
    with pytest.raises(grpc.RpcError, match="has been revoked"):
        thief.join()
    again = consortium.caller("hospital1")
    again.join("1")
    streams = watches(thief.channel, LimitsConfig().calls_at_once)
    eventually(lambda: all(stream.done() for stream in streams))
    again.join("1")
    assert {stream.code() for stream in streams} <= {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }


def test_looking_up_a_certificate_that_does_not_stand_has_its_limits(consortium, revoke):
    """It is refused anyhow; but each look asks the database."""
    consortium.start(limits={"calls_per_second": 2, "calls_at_once": 4, "transfers_at_once": 2})
    thief = consortium.caller("hospital1")
    revoke(consortium.state_dir, "hospital1")
    started = time.monotonic()
    for _ in range(6):  # four at once, the others one by one
        with pytest.raises(grpc.RpcError, match="has been revoked"):
            thief.join()
    assert time.monotonic() - started > 0.8
    request = pb.NextTaskRequest(run="demo", wait_seconds=0)
    calls = [thief.stub.NextTask.future(request, timeout=20) for _ in range(8)]
    said = [call.details() for call in calls if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert any("limits.calls_at_once is 4" in words for words in said)
    assert all(words.startswith("certificate ") for words in said)  # its holder's own room is untouched
    consortium.caller("hospital1").join("1")


def test_two_certificates_of_one_holder_have_one_rate(consortium):
    consortium.start(limits={"calls_per_second": 2, "calls_at_once": 4, "transfers_at_once": 2})
    both = [consortium.caller("hospital1") for _ in range(2)]
    started = time.monotonic()
    for _ in range(4):  # four at once, the others one by one
        for caller in both:
            caller.join()
    assert time.monotonic() - started > 1.8


def test_calls_under_way_of_a_revoked_certificate_end_although_its_holder_has_the_next_one(
    consortium, revoke
):
    consortium.start()
    thief = consortium.caller("hospital1")
    (stream,) = watches(thief.channel)
    assert next(stream).status == health_pb2.HealthCheckResponse.SERVING
    revoke(consortium.state_dir, "hospital1")
    again = consortium.caller("hospital1")  # before the server has looked who was revoked
    (kept,) = watches(again.channel)
    assert next(kept).status == health_pb2.HealthCheckResponse.SERVING
    eventually(stream.done, seconds=5)
    assert stream.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not kept.done()
    kept.cancel()


def test_a_health_check_that_never_comes_to_the_point_is_ended(consortium):
    consortium.start(limits={"stall_seconds": 1.0})
    channel = consortium.caller("hospital1").channel
    never = threading.Event()

    def silent():
        never.wait(20)
        yield from ()

    call = channel.stream_unary("/grpc.health.v1.Health/Check").future(silent())
    try:
        eventually(call.done, seconds=5)
    finally:
        never.set()
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_certificate_that_expires_stops_working_on_an_open_connection(consortium, monkeypatch):
    """TLS has looked at it when the connection was made, and never does again."""
    consortium.start()
    caller = consortium.caller("hospital1")
    caller.join()
    ends = caller.identity.certificate.not_valid_after_utc.timestamp()
    door = consortium.running[0].daemon._admission
    monkeypatch.setattr(door, "_clock", lambda: ends - 1.0)
    caller.join()
    monkeypatch.setattr(door, "_clock", lambda: ends + 1.0)
    with pytest.raises(grpc.RpcError, match="of hospital1 has expired") as error:
        caller.join()
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
