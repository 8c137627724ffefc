"""Every call of the Federation service, over real mutual TLS."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from adpfl.security.tls import CHANNEL_OPTIONS, enrollment_channel_credentials
from adpfl.wire import limits, messages, transfers
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl.wire.messages import RunStatus, SiteActivity, TaskKind
from adpfl.wire.receipts import CommitOutcome
from adpfl_server.storage.weights import plan_of

SITES = ("hospital1", "hospital2", "hospital3")


def code_of(error):
    return error.value.code()


def wait_for_round(caller, round_number):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        task = caller.next_task(5)
        if task.kind is not TaskKind.WAIT and task.round >= round_number:
            return task
    raise AssertionError(f"round {round_number} did not open")


# --- identity -------------------------------------------------------------------------------------


def test_a_client_without_a_certificate_gets_nothing(running):
    known = running.caller("hospital1")
    credentials = enrollment_channel_credentials(known.identity.authority)
    with grpc.secure_channel(known.identity.address, credentials, CHANNEL_OPTIONS) as channel:
        request = messages.NextTaskRequest("demo", 0).to_wire()
        with pytest.raises(grpc.RpcError) as error:
            rpc.FederationStub(channel).NextTask(request, timeout=10)
    assert code_of(error) is grpc.StatusCode.UNAVAILABLE


def test_a_site_speaks_only_for_itself(running):
    with pytest.raises(grpc.RpcError) as error:
        running.caller("hospital1").join(site="hospital2")
    assert code_of(error) is grpc.StatusCode.PERMISSION_DENIED
    assert "hospital2" in error.value.details()


def test_a_run_is_served_to_the_sites_it_names(running):
    stranger = running.caller("hospital9")
    assert stranger.join().runs == ()
    with pytest.raises(grpc.RpcError) as error:
        stranger.next_task()
    assert code_of(error) is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as error:
        stranger.join(run="demo")
    assert code_of(error) is grpc.StatusCode.PERMISSION_DENIED


def test_an_unknown_run_is_not_found(running):
    with pytest.raises(grpc.RpcError) as error:
        running.caller("hospital1").next_task(run="other")
    assert code_of(error) is grpc.StatusCode.NOT_FOUND


def test_a_revoked_certificate_stops_working_on_an_open_connection(running, revoke):
    caller = running.caller("hospital1")
    caller.join()
    revoke(running.state_dir, "hospital1")
    with pytest.raises(grpc.RpcError) as error:
        caller.next_task()
    assert code_of(error) is grpc.StatusCode.UNAUTHENTICATED
    assert "revoked" in error.value.details()


@pytest.mark.parametrize("revoked_before", [1, 3], ids=["in the middle", "at the end"])
def test_a_push_under_way_ends_when_its_site_is_revoked(small_chunks, revoke, revoked_before, monkeypatch):
    running, caller = small_chunks
    if revoked_before == 3:
        monkeypatch.setattr("adpfl_server.service.CHUNKS_PER_CHECK", 1000)
    update = running.update(1, chunk_size=limits.CHUNK_SIZE_MIN)
    digests = tuple(update.manifest.indices_of)
    assert len(digests) == 4
    caller.offer(1, caller.next_task().base_digest, update)

    def parts():
        yield transfers.PushHeader("demo", 1, update.manifest.digest).to_wire()
        for number, digest in enumerate(digests):
            if number == revoked_before:
                revoke(running.state_dir, caller.site)
            yield transfers.Chunk(digest, update.chunks[digest]).to_push()

    with pytest.raises(grpc.RpcError) as error:
        caller.stub.Push(parts(), timeout=20)
    assert code_of(error) is grpc.StatusCode.UNAUTHENTICATED
    assert "revoked" in error.value.details()
    if revoked_before == 1:
        blobs = running.running[0].daemon.runner.store.blobs
        assert [blobs.has(digest) for digest in digests] == [True, False, False, False]


def test_a_fetch_under_way_ends_when_its_site_is_revoked(small_chunks, revoke, monkeypatch):
    monkeypatch.setattr("adpfl_server.transfer.sending.READ_AHEAD", 0)
    monkeypatch.setattr("adpfl_server.transfer.sending.KEPT_BYTES", 0)
    running, caller = small_chunks
    digest = caller.next_task().base_digest
    manifest, _ = caller.fetch(digest)
    blobs = running.running[0].daemon.runner.store.blobs
    read, original = [], blobs.get

    def get(name):
        read.append(name)
        if len(read) == 2:
            revoke(running.state_dir, caller.site)
        return original(name)

    monkeypatch.setattr(blobs, "get", get)
    request = transfers.FetchRequest("demo", digest, manifest.chunk_digests).to_wire()
    with pytest.raises(grpc.RpcError) as error:
        list(caller.stub.Fetch(request, timeout=20))
    assert code_of(error) is grpc.StatusCode.UNAUTHENTICATED
    assert len(read) == 2


# --- join and tasks -------------------------------------------------------------------------------


def test_join_offers_the_plan_that_was_configured(running):
    answer = running.caller("hospital1").join()
    (offer,) = answer.runs
    assert offer.plan_json == plan_of(running.running[0].config.runs[0]).canonical_json()
    assert offer.status is RunStatus.WAITING
    assert len(answer.server_instance_id) == 32


def test_patients_are_declared_once(running):
    caller = running.caller("hospital1")
    caller.join(patients=10)
    caller.join("1", patients=10)
    with pytest.raises(grpc.RpcError) as error:
        caller.join("2", patients=11)
    assert code_of(error) is grpc.StatusCode.FAILED_PRECONDITION
    assert "11" in error.value.details()
    assert "10" in error.value.details()


def test_a_site_without_data_for_the_task_has_not_joined(running):
    caller = running.caller("hospital1")
    assert len(caller.join(task="other").runs) == 1
    assert caller.next_task().detail == "join first"


def test_a_long_poll_answers_when_the_quorum_is_ready(running):
    first, second = running.caller("hospital1"), running.caller("hospital2")
    first.join()
    answers = []
    poll = threading.Thread(target=lambda: answers.append((first.next_task(20), time.monotonic())))
    poll.start()
    time.sleep(0.3)
    assert not answers
    joined_at = time.monotonic()
    second.join("1")
    time.sleep(0.3)
    assert not answers  # the second site may still refuse
    second.next_task()
    poll.join(20)
    task, at = answers[0]
    assert task.kind is TaskKind.TRAIN
    assert task.round == 1
    assert at - joined_at < 15  # it had asked to wait for 20


def test_a_long_poll_ends_when_its_time_is_over(running):
    caller = running.caller("hospital1")
    caller.join()
    started = time.monotonic()
    assert caller.next_task(1).kind is TaskKind.WAIT
    assert 0.9 < time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("call", "request_"),
    [
        ("NextTask", pb.NextTaskRequest(run="demo", wait_seconds=31)),
        ("NextTask", pb.NextTaskRequest(run="../etc", wait_seconds=0)),
        ("Join", pb.JoinRequest(site="hospital1", instance_id="x")),
        ("Have", pb.HaveRequest(run="demo", object_digest=b"short")),
        ("Heartbeat", pb.HeartbeatRequest(run="demo", activity=99)),
        ("Heartbeat", pb.HeartbeatRequest(run="demo", activity=1, detail="x" * 2000)),
    ],
)
def test_a_request_outside_the_contract_names_its_field(running, call, request_):
    caller = running.caller("hospital1")
    with pytest.raises(grpc.RpcError) as error:
        getattr(caller.stub, call)(request_, timeout=10)
    assert code_of(error) is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{call}Request." in error.value.details()


# --- heartbeats and metrics -----------------------------------------------------------------------


def test_a_heartbeat_says_whether_the_work_can_still_count(joined):
    assert not joined[0].heartbeat(SiteActivity.TRAINING, 1).obsolete
    assert joined[0].heartbeat(SiteActivity.TRAINING, 2).obsolete


def test_a_refusing_site_is_not_waited_for(running, joined):
    base = joined[0].next_task().base_digest
    joined[2].heartbeat(SiteActivity.REFUSED, 0, "budget: epsilon 9 is above the cap 8")
    for seed, caller in enumerate(joined[:2]):
        caller.send(1, base, running.update(seed))
    assert wait_for_round(joined[0], 2).round == 2
    assert joined[2].next_task().kind is TaskKind.WAIT
    running.running[0].stop()
    record = running.record()
    assert "hospital3 refuses the run (budget: epsilon 9 is above the cap 8)" in record["summary"]
    assert record["rounds"][0]["missing"] == ["hospital3"]


def test_an_agent_that_repeats_its_refusal_after_every_join_changes_nothing(running):
    callers = [running.caller(site) for site in SITES]
    refusing = callers[0]
    for _ in range(4):
        refusing.join("0")
        refusing.heartbeat(SiteActivity.REFUSED, 0, "policy.epsilon_cap")
    callers[1].enter("1")
    assert callers[1].next_task().kind is TaskKind.WAIT  # a quorum of two joined, and one of them refuses
    callers[2].enter("2")
    assert callers[1].next_task().kind is TaskKind.TRAIN
    running.running[0].stop()
    kinds = [entry["kind"] for entry in running.record()["timeline"] if entry["site"] == "hospital1"]
    assert kinds == ["site_joined", "site_refused"]


def test_no_metric_is_taken_that_the_plan_does_not_name(joined):
    empty = messages.ReportMetricsRequest("demo", 1, {}).to_wire()
    joined[0].stub.ReportMetrics(empty, timeout=10)
    with pytest.raises(grpc.RpcError) as error:
        joined[0].stub.ReportMetrics(
            messages.ReportMetricsRequest("demo", 1, {"dice": 0.5}).to_wire(), timeout=10
        )
    assert code_of(error) is grpc.StatusCode.PERMISSION_DENIED
    assert "dice" in error.value.details()


def test_two_hundred_sites_poll_and_eight_of_them_upload_at_once(consortium):
    """What the default limits must let through."""
    names = [f"hospital{number}" for number in range(200)]
    consortium.start(consortium.plan(cohort={"sites": names, "quorum": 200}))
    callers = [consortium.caller(name) for name in names]
    for call in [caller.stub.Join.future(join_request(caller.site), timeout=60) for caller in callers]:
        call.result()
    poll = messages.NextTaskRequest("demo", 20).to_wire()
    tasks = [call.result() for call in [each.stub.NextTask.future(poll, timeout=60) for each in callers]]
    assert {task.kind for task in tasks} == {pb.TASK_KIND_TRAIN}
    base = tasks[0].base_digest.hex()
    with ThreadPoolExecutor(8) as pool:
        sent = [
            pool.submit(caller.send, 1, base, consortium.update(seed))
            for seed, caller in enumerate(callers[:8])
        ]
        polls = [each.stub.NextTask.future(poll, timeout=60) for each in callers[8:]]
        assert {one.result().receipt.outcome for one in sent} == {CommitOutcome.ACCEPTED}
    assert {call.result().kind for call in polls} == {pb.TASK_KIND_TRAIN}


def join_request(site):
    return messages.JoinRequest(site, "0" * 32, "1", None, {"skin_lesion": 10}).to_wire()


def test_limits_are_those_of_the_transport():
    assert dict(CHANNEL_OPTIONS)["grpc.max_receive_message_length"] == limits.MESSAGE_BYTES
