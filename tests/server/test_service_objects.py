"""Models out and updates in through the Federation service, over real mutual TLS."""

import errno
import os
import sqlite3
import time

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from adpfl.wire import limits, transfers
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire.messages import TaskKind
from adpfl.wire.receipts import CommitOutcome, verify_receipt
from adpfl_server.storage.trouble import STORAGE_FAILURE

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
        "bytes; must be": [header, transfers.Chunk(digest, update.chunks[digest][:-4]).to_push()],
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
        full.setattr("adpfl_server.storage.blobs.os.fsync", no_space)
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
        full.setattr("adpfl_server.storage.blobs.BlobFolder.get", no_space)
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


def test_each_chunk_is_a_sign_of_life(small_chunks, monkeypatch):
    """A model may take longer than the server waits for a word."""
    running, caller = small_chunks
    base = caller.next_task().base_digest
    update = running.update(1, chunk_size=limits.CHUNK_SIZE_MIN)
    missing = caller.offer(1, base, update)
    heard = []
    monkeypatch.setattr(running.running[0].daemon.runner, "heard", heard.append)
    caller.fetch(base)
    assert heard == [caller.site] * 4
    caller.push(1, update, missing)
    assert heard == [caller.site] * 8


def test_a_commit_that_cannot_be_stored_has_not_happened(running, joined, monkeypatch):
    caller = joined[0]
    base = caller.next_task().base_digest
    update = running.update(1)
    caller.push(1, update, caller.offer(1, base, update))

    def full(*_arguments):
        raise sqlite3.OperationalError("database or disk is full")

    with capture_logs() as logs, monkeypatch.context() as patched:
        patched.setattr("adpfl_server.rounds.intake.insert_commit", full)
        with pytest.raises(grpc.RpcError) as error:
            caller.commit(1, base, update.manifest.digest)
    assert code_of(error) is grpc.StatusCode.UNAVAILABLE
    assert [entry["reason"] for entry in logs if entry["log_level"] == "error"] == [
        "database: database or disk is full"
    ]
    assert caller.next_task().kind is TaskKind.TRAIN  # the update does not count
    assert caller.commit(1, base, update.manifest.digest).receipt.outcome is CommitOutcome.ACCEPTED
