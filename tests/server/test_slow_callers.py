"""Callers that open, hold and do not go on, over real mutual TLS: ended, said, and nobody else waits."""

import threading
import time

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from adpfl.security.tls import channel_credentials
from adpfl.wire import limits, transfers
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire.messages import SiteActivity, TaskKind
from adpfl_server.interceptors import HELD_SECONDS
from tests.server.patience import eventually

SITES = ("hospital1", "hospital2", "hospital3")
STALL = 1.0


@pytest.fixture
def callers(consortium):
    """Three sites in a round of a model of 16 MiB, at a server that waits a second."""
    arrays = {"w": np.random.default_rng(3).standard_normal(2**22).astype(np.float32)}
    consortium.write_safetensors(consortium.root / "large.safetensors", arrays)
    plan = consortium.plan(initial_model="large.safetensors")
    consortium.start(plan, limits={"stall_seconds": STALL, "calls_at_once": 8, "transfers_at_once": 2})
    made = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(made):
        caller.enter(str(number))
    return made


def under_way(consortium):
    return len(consortium.running[0].daemon._admission._under_way)


@pytest.fixture
def silence():
    """What a stream sends that has nothing more to say and does not end."""
    over = threading.Event()

    def parts(*first):
        yield from first
        over.wait(60)

    yield parts
    over.set()


METHODS = ("Join", "NextTask", "Have", "Fetch", "Offer", "Push", "CommitUpdate", "ReportMetrics", "Heartbeat")


@pytest.mark.parametrize("method", METHODS)
def test_a_call_without_its_message_is_ended(consortium, callers, silence, method):
    kind = "stream_stream" if method == "Fetch" else "stream_unary"
    call = getattr(callers[0].channel, kind)(f"/adpfl.v1.Federation/{method}")
    started = time.monotonic()
    answered = (lambda: list(call(silence(), timeout=60))) if method == "Fetch" else None
    with pytest.raises(grpc.RpcError) as error:
        answered() if answered else call(silence(), timeout=60)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert f"{method}: no whole message came within 1 seconds" in error.value.details()
    assert time.monotonic() - started > 0.9 * STALL
    assert under_way(consortium) == 0


def test_a_push_that_does_not_go_on_is_ended_and_what_came_is_kept(consortium, callers, silence):
    caller = callers[0]
    base = caller.next_task().base_digest
    arrays = {"w": np.random.default_rng(4).standard_normal(2**22).astype(np.float32)}
    update = consortium.update_of(arrays)
    missing = caller.offer(1, base, update)
    first = transfers.Chunk(missing[0], update.chunks[missing[0]]).to_push()
    header = transfers.PushHeader("demo", 1, update.manifest.digest).to_wire()
    with pytest.raises(grpc.RpcError) as error:
        caller.stub.Push(silence(header, first), timeout=60)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "no whole message came" in error.value.details()
    assert caller.offer(1, base, update) == missing[1:]
    assert caller.push(1, update, missing[1:]) == ()


def test_a_push_that_goes_on_slowly_is_let(consortium, callers):
    caller = callers[0]
    base = caller.next_task().base_digest
    arrays = {"w": np.random.default_rng(4).standard_normal(2**22).astype(np.float32)}
    update = consortium.update_of(arrays)
    missing = caller.offer(1, base, update)[:4]

    def parts():
        yield transfers.PushHeader("demo", 1, update.manifest.digest).to_wire()
        for digest in missing:
            time.sleep(0.6 * STALL)
            yield transfers.Chunk(digest, update.chunks[digest]).to_push()

    left = transfers.PushResponse.from_wire(caller.stub.Push(parts(), timeout=30)).missing
    assert len(left) == 12


def test_a_fetch_that_nobody_reads_is_ended(consortium, callers):
    caller = callers[0]
    digest = caller.next_task().base_digest
    have = transfers.HaveResponse.from_wire(
        caller.stub.Have(transfers.HaveRequest("demo", digest).to_wire(), timeout=60)
    )
    request = transfers.FetchRequest("demo", digest, have.missing).to_wire()
    with capture_logs() as logs:
        call = caller.stub.Fetch(request, timeout=10)
        eventually(lambda: under_way(consortium) == 1)
        eventually(lambda: under_way(consortium) == 0)
    (line,) = [entry for entry in logs if entry["event"] == "call refused"]
    assert (line["call"], line["code"]) == ("Fetch", "DEADLINE_EXCEEDED")
    assert "no answer was read within 1 seconds" in line["reason"]
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(caller.fetch(digest)[1]) == 16  # a fresh stream is served


def test_one_site_holds_so_many_calls_and_the_others_do_not_notice(consortium, callers):
    hostile, honest = callers[0], callers[1]
    base = hostile.next_task().base_digest
    hostile.send(1, base, consortium.update_of({"w": np.zeros(2**22, np.float32)}))  # now it must wait
    poll = pb.NextTaskRequest(run="demo", wait_seconds=3)
    polls = [hostile.stub.NextTask.future(poll, timeout=30) for _ in range(12)]
    eventually(lambda: sum(call.done() for call in polls) == 4)
    refused = [call for call in polls if call.done()]
    assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all("limits.calls_at_once is 8" in call.details() for call in refused)
    assert all(dict(call.trailing_metadata())[limits.RETRY_AFTER_METADATA] == "1000" for call in refused)
    assert not honest.heartbeat(SiteActivity.TRAINING, 1).obsolete
    assert {call.result().kind for call in polls if call not in refused} == {pb.TASK_KIND_WAIT}
    assert hostile.next_task().kind is TaskKind.WAIT


def test_one_site_holds_so_many_transfers(consortium, callers, silence):
    caller = callers[0]
    base = caller.next_task().base_digest
    update = consortium.update_of({"w": np.ones(2**22, np.float32)})
    caller.offer(1, base, update)
    header = transfers.PushHeader("demo", 1, update.manifest.digest).to_wire()
    held = [caller.stub.Push.future(silence(header), timeout=30) for _ in range(2)]
    eventually(lambda: under_way(consortium) == 2)
    asked = time.monotonic()
    with pytest.raises(grpc.RpcError, match=r"limits\.transfers_at_once is 2"):
        caller.push(1, update, ())
    assert time.monotonic() - asked > 0.9 * HELD_SECONDS  # asking again and again is not cheap
    assert caller.offer(1, base, update)  # other calls pass
    for call in held:
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert caller.push(1, update, ()) != ()


def test_a_message_longer_than_its_kind_is_refused_before_it_is_parsed(callers):
    caller = callers[0]
    many = pb.ReportMetricsRequest.FromString(b"\x1a\x00" * 40_000)  # 80 kB on the wire, 40,000 objects here
    with pytest.raises(grpc.RpcError) as error:
        caller.stub.ReportMetrics(many, timeout=60)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"has 80000 bytes; must be at most {limits.CONTROL_BYTES}" in error.value.details()


def test_bytes_that_are_no_message_get_an_answer(callers):
    call = callers[0].channel.unary_unary("/adpfl.v1.Federation/Heartbeat")
    with pytest.raises(grpc.RpcError) as error:
        call(b"\xff\xff\xff", timeout=60)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "HeartbeatRequest is not a message of the contract" in error.value.details()


def test_a_call_that_ends_without_its_message_is_refused(callers):
    call = callers[0].channel.stream_unary("/adpfl.v1.Federation/Heartbeat")
    with pytest.raises(grpc.RpcError) as error:
        call(iter(()), timeout=60)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "HeartbeatRequest is absent" in error.value.details()


def test_a_compressed_message_is_bounded_by_what_it_unfolds_to(callers):
    bomb = bytes(limits.MESSAGE_BYTES + 2**20)
    options = (("grpc.max_send_message_length", -1),)
    identity = callers[0].identity
    with (
        grpc.secure_channel(
            identity.address, channel_credentials(identity), options, compression=grpc.Compression.Gzip
        ) as channel,
        pytest.raises(grpc.RpcError) as error,
    ):
        channel.unary_unary("/adpfl.v1.Federation/Heartbeat")(bomb, timeout=60)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_calls_faster_than_the_rate_are_slowed_and_a_flood_is_refused(consortium):
    consortium.start(limits={"calls_per_second": 10, "calls_at_once": 64})
    hostile, honest = consortium.caller("hospital1"), consortium.caller("hospital2")
    started = time.monotonic()
    for _ in range(30):  # 20 at once, the others one by one
        hostile.next_task()
    assert time.monotonic() - started > 0.8
    request = pb.NextTaskRequest(run="demo", wait_seconds=0)
    calls = [hostile.stub.NextTask.future(request, timeout=30) for _ in range(60)]
    codes = [call.code() for call in calls]
    assert codes.count(grpc.StatusCode.OK) >= 10
    refused = [call for call in calls if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert len(refused) >= 20
    assert len(refused) + codes.count(grpc.StatusCode.OK) == 60
    assert "limits.calls_per_second, 10" in refused[-1].details()
    assert int(dict(refused[-1].trailing_metadata())[limits.RETRY_AFTER_METADATA]) > 1000
    honest.join()
