"""Every call of the Federation service, over real mutual TLS."""

import errno
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from adpfl.security.tls import CHANNEL_OPTIONS, enrollment_channel_credentials
from adpfl.wire import limits, messages, transfers
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl.wire.messages import RunStatus, SiteActivity, TaskKind
from adpfl.wire.receipts import CommitOutcome, verify_receipt
from adpfl_server.storage import STORAGE_FAILURE
from adpfl_server.weights import plan_of

SITES = ("hospital1", "hospital2", "hospital3")


@pytest.fixture
def running(consortium):
    consortium.start()
    return consortium


@pytest.fixture
def joined(running):
    """Three sites that joined a run whose first round is open."""
    callers = [running.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    return callers


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


@pytest.fixture
def small_chunks(consortium, monkeypatch):
    """Three sites in an open round of a model of four chunks, of which every second one is a check."""
    monkeypatch.setattr("adpfl_server.weights.DEFAULT_CHUNK_SIZE", limits.CHUNK_SIZE_MIN)
    monkeypatch.setattr("adpfl_server.service.CHUNKS_PER_CHECK", 2)
    consortium.start()
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    return consortium, callers[0]


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
    monkeypatch.setattr("adpfl_server.sending.READ_AHEAD", 0)
    monkeypatch.setattr("adpfl_server.sending.KEPT_BYTES", 0)
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
    assert at - joined_at < 5


def test_a_long_poll_ends_when_its_time_is_over(running):
    caller = running.caller("hospital1")
    caller.join()
    started = time.monotonic()
    assert caller.next_task(1).kind is TaskKind.WAIT
    assert 0.9 < time.monotonic() - started < 5


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


# --- models ---------------------------------------------------------------------------------------


def test_the_initial_model_arrives_byte_for_byte(running, joined):
    task = joined[0].next_task()
    manifest, chunks = joined[0].fetch(task.base_digest)
    payload = b"".join(chunks[digest] for digest in manifest.chunk_digests)
    expected = b"".join(array.tobytes() for array in running.weights(0).values())
    assert payload == expected
    assert manifest.digest == task.base_digest


def test_only_what_is_not_held_is_missing(joined):
    digest = joined[0].next_task().base_digest
    manifest, _ = joined[0].fetch(digest)
    _, chunks = joined[0].fetch(digest, held=manifest.chunk_digests)
    assert chunks == {}


def test_updates_of_others_cannot_be_fetched(running, joined):
    base = joined[0].next_task().base_digest
    update = running.update(1)
    joined[0].send(1, base, update)
    with pytest.raises(grpc.RpcError) as error:
        joined[1].fetch(update.manifest.digest)
    assert code_of(error) is grpc.StatusCode.NOT_FOUND


def test_a_chunk_of_another_object_is_not_streamed(joined):
    digest = joined[0].next_task().base_digest
    request = transfers.FetchRequest("demo", digest, ("0" * 64,)).to_wire()
    with pytest.raises(grpc.RpcError) as error:
        list(joined[0].stub.Fetch(request, timeout=10))
    assert code_of(error) is grpc.StatusCode.INVALID_ARGUMENT


# --- updates --------------------------------------------------------------------------------------


def test_a_run_ends_in_the_weighted_sum_of_its_updates(running, joined):
    for round_number in (1, 2):
        base = wait_for_round(joined[0], round_number).base_digest
        for seed, caller in enumerate(joined):
            caller.send(round_number, base, running.update(10 * round_number + seed))
    task = wait_for_round(joined[0], 2)
    while task.kind is not TaskKind.FINISHED:
        task = joined[0].next_task(5)
    manifest, chunks = joined[0].fetch(task.base_digest)
    found = np.frombuffer(b"".join(chunks[digest] for digest in manifest.chunk_digests), dtype="<f4")

    def flat(arrays):
        return np.concatenate([array.reshape(-1) for array in arrays.values()]).astype(np.float64)

    expected = flat(running.weights(0))
    for round_number in (1, 2):
        step = sum(flat(running.weights(10 * round_number + seed, 0.01)) for seed in range(3)) / 3
        expected = (expected + step).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_the_receipt_is_signed_and_returns_the_ledgers_head(running, joined):
    caller = joined[0]
    base = caller.next_task().base_digest
    update = running.update(1)
    caller.push(1, update, caller.offer(1, base, update))
    head = "ab" * 32
    answer = caller.commit(1, base, update.manifest.digest, head)
    assert answer.receipt.ledger_head == head
    assert answer.receipt.outcome is CommitOutcome.ACCEPTED
    assert answer.receipt.site == "hospital1"
    verify_receipt(answer.receipt, answer.signature, caller.identity.server_certificate)


def test_join_returns_the_newest_receipt_that_carried_a_head(running, joined):
    first, second, _ = joined
    task = first.next_task()
    assert first.join("0").newest_receipt is None
    update = running.update(1)
    first.push(1, update, first.offer(1, task.base_digest, update))
    committed = first.commit(1, task.base_digest, update.manifest.digest, head="c" * 64)
    newest = first.join("0").newest_receipt
    assert (newest.receipt, newest.signature) == (committed.receipt, committed.signature)
    newest.verify(first.identity.server_certificate)
    second.send(1, task.base_digest, running.update(2))  # its run spends nothing: no head
    assert second.join("1").newest_receipt is None


def test_the_same_commit_gets_the_same_receipt(running, joined):
    caller = joined[0]
    base = caller.next_task().base_digest
    update = running.update(1)
    first = caller.send(1, base, update)
    assert caller.offer(1, base, update) == ()
    assert caller.commit(1, base, update.manifest.digest) == first


def test_another_update_under_the_same_key_is_refused_and_recorded(running, joined):
    caller = joined[0]
    base = caller.next_task().base_digest
    caller.send(1, base, running.update(1))
    other = running.update(2)
    with pytest.raises(grpc.RpcError) as error:
        caller.offer(1, base, other)
    assert code_of(error) is grpc.StatusCode.ALREADY_EXISTS
    with pytest.raises(grpc.RpcError) as error:
        caller.commit(1, base, other.manifest.digest)
    assert code_of(error) is grpc.StatusCode.ALREADY_EXISTS
    running.running[0].stop()
    assert [entry["kind"] for entry in running.record()["timeline"]].count("update_conflicting") == 2


def test_an_update_of_another_history_is_refused(running, joined):
    caller = joined[0]
    with pytest.raises(grpc.RpcError) as error:
        caller.offer(1, "ab" * 32, running.update(1))
    assert code_of(error) is grpc.StatusCode.FAILED_PRECONDITION
    assert "another history" in error.value.details()


def test_an_update_for_a_round_to_come_is_refused(running, joined):
    base = joined[0].next_task().base_digest
    with pytest.raises(grpc.RpcError) as error:
        joined[0].offer(2, base, running.update(1))
    assert code_of(error) is grpc.StatusCode.FAILED_PRECONDITION
    assert "round 1 is open" in error.value.details()


def test_an_update_of_other_tensors_is_refused_before_a_byte_is_sent(running, joined):
    base = joined[0].next_task().base_digest
    weights = running.weights(1)
    weights["extra"] = np.zeros(3, np.float32)
    with pytest.raises(grpc.RpcError) as error:
        joined[0].offer(1, base, running.update_of(weights))
    assert code_of(error) is grpc.StatusCode.INVALID_ARGUMENT
    assert "tensors" in error.value.details()


def test_a_commit_without_its_chunks_is_refused(running, joined):
    base = joined[0].next_task().base_digest
    update = running.update(1)
    with pytest.raises(grpc.RpcError) as error:
        joined[0].commit(1, base, update.manifest.digest)
    assert code_of(error) is grpc.StatusCode.FAILED_PRECONDITION
    assert "Offer" in error.value.details()
    joined[0].offer(1, base, update)
    with pytest.raises(grpc.RpcError) as error:
        joined[0].commit(1, base, update.manifest.digest)
    assert code_of(error) is grpc.StatusCode.FAILED_PRECONDITION
    assert "push" in error.value.details()


def push_raw(caller, *parts):
    caller.stub.Push(iter(parts), timeout=10)


def test_pushes_that_break_the_contract_store_nothing(running, joined):
    caller = joined[0]
    base = caller.next_task().base_digest
    update = running.update(1)
    (digest,) = caller.offer(1, base, update)
    header = transfers.PushHeader("demo", 1, update.manifest.digest).to_wire()
    good = transfers.Chunk(digest, update.chunks[digest]).to_push()
    bad = update.chunks[digest][:-4] + b"\0\0\xc0\x7f"
    attempts = {
        "header": [good],
        "twice": [header, header],
        "not asked": [header, transfers.Chunk("1" * 64, b"abcd").to_push()],
        "bytes": [header, transfers.Chunk(digest, update.chunks[digest][:-4]).to_push()],
        "SHA-256": [header, transfers.Chunk(digest, bytes(len(update.chunks[digest]))).to_push()],
        "finite": [header, transfers.Chunk(digest, bad).to_push()],
        "must be header or chunk": [pb.PushRequest()],
    }
    for words, parts in attempts.items():
        with pytest.raises(grpc.RpcError) as error:
            push_raw(caller, *parts)
        assert code_of(error) is grpc.StatusCode.INVALID_ARGUMENT, words
        assert words in error.value.details()
    assert caller.offer(1, base, update) == (digest,)


def test_an_update_that_was_not_announced_cannot_be_pushed(running, joined):
    with pytest.raises(grpc.RpcError) as error:
        joined[0].push(1, running.update(1), ())
    assert code_of(error) is grpc.StatusCode.FAILED_PRECONDITION


def test_a_transfer_goes_on_with_what_is_missing(running, joined):
    base = joined[0].next_task().base_digest
    update = running.update(1)
    joined[0].offer(1, base, update)
    assert joined[0].push(1, update, ()) == tuple(update.manifest.indices_of)
    assert joined[0].push(1, update, update.manifest.chunk_digests) == ()
    assert joined[0].offer(1, base, update) == ()


def test_updates_announced_for_one_round_are_bounded(running, joined):
    base = joined[0].next_task().base_digest
    for seed in range(4):
        joined[0].offer(1, base, running.update(seed))
    with pytest.raises(grpc.RpcError) as error:
        joined[0].offer(1, base, running.update(9))
    assert code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_late_update_gets_a_receipt_that_says_so(running):
    running.running[0].stop()
    plan = running.plan(cohort={"sites": list(SITES), "quorum": 2, "round_deadline_seconds": 0.2})
    running.start(plan | {"run": "hasty"})
    callers = [running.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.run = "hasty"
        caller.enter(str(number))
    base = callers[0].next_task().base_digest
    for seed, caller in enumerate(callers[:2]):
        caller.send(1, base, running.update(seed))
    wait_for_round(callers[2], 2)
    late = running.update(7)
    answer = callers[2].send(1, base, late)
    assert answer.receipt.outcome is CommitOutcome.LATE
    assert callers[2].send(1, base, late) == answer
    running.running[-1].stop()
    record = running.record("hasty")
    assert record["rounds"][0]["missing"] == ["hospital3"]
    assert "missing hospital3" in record["summary"]
    kinds = [entry["kind"] for entry in record["timeline"]]
    assert {"deadline_passed", "round_partial", "update_late", "update_repeated"} <= set(kinds)


def no_space(*_arguments, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/srv/adpfl/state/blobs/incoming")


def test_a_full_disk_is_one_line_here_and_a_call_to_repeat_there(running, joined, monkeypatch):
    caller = joined[0]
    base = caller.next_task().base_digest
    update = running.update(1)
    missing = caller.offer(1, base, update)
    with capture_logs() as logs, monkeypatch.context() as full:
        full.setattr("adpfl_server.blobs.os.fsync", no_space)
        with pytest.raises(grpc.RpcError) as error:
            caller.push(1, update, missing)
    assert code_of(error) is grpc.StatusCode.UNAVAILABLE  # which a site retries
    assert error.value.details() == STORAGE_FAILURE
    (line,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert line == {
        "event": "storage failed",
        "log_level": "error",
        "call": "Push",
        "caller": "hospital1",
        "reason": "/srv/adpfl/state/blobs/incoming: No space left on device",
    }
    blobs = running.state_dir / "blobs"
    assert list((blobs / "incoming").iterdir()) == []
    assert caller.offer(1, base, update) == missing
    assert caller.send(1, base, update).receipt.outcome is CommitOutcome.ACCEPTED


def test_a_disk_in_trouble_is_a_line_now_and_then_however_many_call(running, joined, monkeypatch):
    caller = joined[0]
    base = caller.next_task().base_digest
    with capture_logs() as logs, monkeypatch.context() as full:
        full.setattr("adpfl_server.blobs.BlobFolder.get", no_space)
        for _ in range(5):
            with pytest.raises(grpc.RpcError) as error:
                caller.fetch(base)
            assert code_of(error) is grpc.StatusCode.UNAVAILABLE
    assert len([entry for entry in logs if entry["event"] == "storage failed"]) == 1


def test_a_model_collected_while_it_is_fetched_is_not_found(small_chunks, monkeypatch):
    running, caller = small_chunks
    base = caller.next_task().base_digest
    store = running.running[0].daemon.runner.store
    read = store.blobs.get
    chunks = []

    def get(digest):
        if chunks:  # what the sweep does meanwhile: the row first, then the chunks
            monkeypatch.setattr(store, "is_model", lambda *_: False)
            store.blobs.drop(digest)
        chunks.append(digest)
        return read(digest)

    monkeypatch.setattr(store.blobs, "get", get)
    with capture_logs() as logs, pytest.raises(grpc.RpcError) as error:
        caller.fetch(base)
    assert code_of(error) is grpc.StatusCode.NOT_FOUND
    assert f"run demo keeps no model {base[:12]}" in error.value.details()
    assert [entry for entry in logs if entry["event"] == "storage failed"] == []
    assert running.running[0].daemon.runner.book.tally.storage_errors == 0  # health and status stay well


def test_a_commit_that_cannot_be_stored_has_not_happened(running, joined, monkeypatch):
    caller = joined[0]
    base = caller.next_task().base_digest
    update = running.update(1)
    caller.push(1, update, caller.offer(1, base, update))

    def full(*_arguments):
        raise sqlite3.OperationalError("database or disk is full")

    with capture_logs() as logs, monkeypatch.context() as patched:
        patched.setattr("adpfl_server.intake.insert_commit", full)
        with pytest.raises(grpc.RpcError) as error:
            caller.commit(1, base, update.manifest.digest)
    assert code_of(error) is grpc.StatusCode.UNAVAILABLE
    assert [entry["reason"] for entry in logs if entry["log_level"] == "error"] == [
        "database: database or disk is full"
    ]
    assert caller.next_task().kind is TaskKind.TRAIN  # the update does not count
    assert caller.commit(1, base, update.manifest.digest).receipt.outcome is CommitOutcome.ACCEPTED


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
