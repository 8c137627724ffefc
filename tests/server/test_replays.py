"""One site's bytes under another site's, round's or run's name, over real mutual TLS."""

import asyncio

import grpc
import pytest

from adpfl.wire import transfers
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire.messages import TaskKind
from adpfl.wire.operations import RunControl
from adpfl.wire.receipts import CommitOutcome

SITES = ("hospital1", "hospital2", "hospital3")
OTHER = "other"


@pytest.fixture
def callers(consortium):
    """Three sites in the first rounds of two runs; the second starts from other weights."""
    consortium.write_safetensors(consortium.root / "second.safetensors", consortium.weights(5))
    second = consortium.plan(run=OTHER, initial_model="second.safetensors")
    consortium.start(consortium.plan(), second)
    made = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(made):
        caller.enter(str(number))
        caller.next_task(run=OTHER)
    return made


def code_of(error):
    return error.value.code()


def in_run(caller, run):
    caller.run = run
    return caller


def next_round(caller, number):
    task = caller.next_task(10)
    while task.round < number:
        task = caller.next_task(10)
    return task


def test_a_certificate_decides_who_commits_whatever_was_pushed(consortium, callers):
    """What hospital1 announced and pushed, hospital2 can neither push to nor commit."""
    first, second, _ = callers
    base = first.next_task().base_digest
    update = consortium.update(1)
    missing = first.offer(1, base, update)
    for attempt in (
        lambda: second.push(1, update, missing),
        lambda: second.commit(1, base, update.manifest.digest),
    ):
        with pytest.raises(grpc.RpcError, match="was not announced") as error:
            attempt()
        assert code_of(error) is grpc.StatusCode.FAILED_PRECONDITION
    first.push(1, update, missing)
    receipt = first.commit(1, base, update.manifest.digest).receipt
    assert receipt.site == "hospital1"
    assert second.next_task().kind is TaskKind.TRAIN  # its own answer is still asked for


@pytest.mark.parametrize("method", ["ControlRun", "Revoke", "GetStatus", "ReadAuditLog"])
def test_a_sites_certificate_is_no_operators(callers, method):
    channel = callers[0].channel
    path = f"/adpfl.v1.Operations/{method}"
    make = channel.unary_stream if method == "ReadAuditLog" else channel.unary_unary
    ask = make(path)
    with pytest.raises(grpc.RpcError) as error:
        tuple(ask(b"", timeout=20))
    assert code_of(error) is grpc.StatusCode.PERMISSION_DENIED


def test_an_update_of_another_run_is_refused(consortium, callers):
    caller = callers[0]
    base = caller.next_task().base_digest
    caller.send(1, base, consortium.update(1))
    with pytest.raises(grpc.RpcError, match="another history") as error:
        in_run(caller, OTHER).offer(1, base, consortium.update(1))
    assert code_of(error) is grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.RpcError, match="another history"):
        caller.commit(1, base, consortium.update(1).manifest.digest)
    assert caller.next_task().kind is TaskKind.TRAIN  # nothing was counted here


def test_models_of_another_run_are_not_served_under_this_one(callers):
    caller = callers[0]
    theirs = caller.next_task(run=OTHER).base_digest
    with pytest.raises(grpc.RpcError, match="keeps no model") as error:
        caller.fetch(theirs)
    assert code_of(error) is grpc.StatusCode.NOT_FOUND


def test_an_update_of_an_earlier_round_is_answered_and_never_counted_again(consortium, callers):
    first = callers[0]
    base = first.next_task().base_digest
    receipts = [caller.send(1, base, consortium.update(seed)) for seed, caller in enumerate(callers)]
    task = next_round(first, 2)
    assert first.send(1, base, consortium.update(0)) == receipts[0]  # the same answer as before
    with pytest.raises(grpc.RpcError, match="another history"):
        first.offer(2, base, consortium.update(0))  # as an answer to the round that is open
    assert first.next_task().kind is TaskKind.TRAIN
    assert first.send(2, task.base_digest, consortium.update(9)).receipt.outcome is CommitOutcome.ACCEPTED


def test_a_request_cannot_make_the_server_read_a_chunk_again_and_again(callers):
    caller = callers[0]
    digest = caller.next_task().base_digest
    have = transfers.HaveResponse.from_wire(
        caller.stub.Have(transfers.HaveRequest("demo", digest).to_wire(), timeout=20)
    )
    one = bytes.fromhex(have.missing[0])
    request = pb.FetchRequest(run="demo", object_digest=bytes.fromhex(digest), digests=[one] * 4096)
    with pytest.raises(grpc.RpcError, match="names a chunk twice") as error:
        list(caller.stub.Fetch(request, timeout=20))
    assert code_of(error) is grpc.StatusCode.INVALID_ARGUMENT


def test_what_a_site_says_cannot_steer_an_operators_terminal(callers):
    request = pb.HeartbeatRequest(run="demo", activity=5, detail="budget\x1b[2J\nhospital2 refuses the run")
    with pytest.raises(grpc.RpcError, match=r"HeartbeatRequest\.detail has the character") as error:
        callers[0].stub.Heartbeat(request, timeout=20)
    assert code_of(error) is grpc.StatusCode.INVALID_ARGUMENT


def test_a_long_reason_for_a_cancellation_reaches_the_sites(consortium, callers):
    daemon = consortium.running[0]
    steering = daemon.daemon._steering
    cancelled = steering.control("demo", RunControl.CANCEL, actor=None, reason="x" * 1024)
    asyncio.run_coroutine_threadsafe(cancelled, daemon._loop).result(20)
    task = callers[0].next_task()
    assert task.kind is TaskKind.FAILED
    assert task.detail.startswith("cancelled by the operator: xxx")
    assert task.detail.endswith("...")
