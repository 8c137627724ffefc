"""An update whose norm is absurd, over real mutual TLS: refused before it counts, and said."""

import threading

import grpc
import numpy as np
import pytest

from adpfl.wire.messages import TaskKind
from adpfl.wire.receipts import CommitOutcome
from adpfl.wire.transfers import CommitUpdateRequest
from adpfl_server.identity import audit_log
from adpfl_server.operating.overview import open_store, status_document, status_lines
from tests.server.patience import eventually

SITES = ("hospital1", "hospital2", "hospital3")
BOUND = 10.0


@pytest.fixture
def callers(consortium):
    """Three sites in the first round of a run that bounds the norm."""
    consortium.start(consortium.plan(aggregation={"max_update_norm": BOUND}))
    made = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(made):
        caller.enter(str(number))
    return made


def absurd(consortium, seed=7):
    return consortium.update_of(consortium.weights(seed, 1000.0))


def refusal(caller, base, update, round_number=1):
    with pytest.raises(grpc.RpcError) as error:
        caller.commit(round_number, base, update.manifest.digest)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # which no site retries
    return error.value.details()


def send_absurd(consortium, caller):
    base = caller.next_task().base_digest
    update = absurd(consortium)
    caller.push(1, update, caller.offer(1, base, update))
    return base, update, refusal(caller, base, update)


def test_the_refusal_names_rule_and_bound(consortium, callers):
    _, update, said = send_absurd(consortium, callers[2])
    flat = np.concatenate([np.frombuffer(chunk, "<f4") for chunk in update.chunks.values()])
    norm = np.linalg.norm(flat.astype(np.float64))
    assert f"its norm is {norm:.6g}; aggregation.max_update_norm is 10" in said


def test_the_round_goes_on_with_its_quorum(consortium, callers):
    base, update, _ = send_absurd(consortium, callers[2])
    for seed, caller in enumerate(callers[:2]):
        answer = caller.send(1, base, consortium.update(seed))
        assert answer.receipt.outcome is CommitOutcome.ACCEPTED
    task = callers[2].next_task(10)
    assert (task.kind, task.round) == (TaskKind.TRAIN, 2)
    # What was refused is late now, like any update of a closed round: answered, never aggregated.
    assert callers[2].commit(1, base, update.manifest.digest).receipt.outcome is CommitOutcome.LATE
    answer = callers[2].send(2, task.base_digest, consortium.update(3))
    assert answer.receipt.outcome is CommitOutcome.ACCEPTED
    consortium.running[0].stop()
    first = consortium.record()["rounds"][0]
    assert (first["sites"], first["missing"], first["refused"]) == (
        ["hospital1", "hospital2"],
        ["hospital3"],
        ["hospital3"],
    )


def test_a_refused_update_stays_refused_and_so_does_another(consortium, callers):
    caller = callers[2]
    base, update, said = send_absurd(consortium, caller)
    assert refusal(caller, base, update) == said
    good = consortium.update(1)
    with pytest.raises(grpc.RpcError, match="takes no update of hospital3 any more"):
        caller.offer(1, base, good)
    assert refusal(caller, base, good) == said
    assert caller.push(1, update, ()) == ()  # nothing is missing of what cannot count
    task = caller.next_task()
    assert task.kind is TaskKind.WAIT
    assert "was refused" in task.detail
    consortium.running[0].stop()
    consortium.start(consortium.plan(aggregation={"max_update_norm": BOUND}))
    assert refusal(consortium.again(caller), base, update) == said


def test_status_record_and_audit_log_say_it(consortium, callers):
    send_absurd(consortium, callers[2])
    daemon = consortium.running[0]
    with open_store(daemon.config) as store:
        lines = "\n".join(status_lines(store, ["demo"]))
        document = status_document(store, "demo")
        kinds = {entry.kind for entry in audit_log.entries(store.connection)}
    assert "hospital3: 10 training patients; its update is missing: it was refused (its norm is" in lines
    assert "aggregation.max_update_norm is 10" in document["not_answering"]["hospital3"]
    assert "update_refused" in kinds
    assert daemon.daemon.runner.book.tally.updates["demo", "refused"] == 1


def test_an_update_at_the_bound_counts(consortium):
    one = consortium.update(1)
    flat = np.concatenate([np.frombuffer(chunk, "<f4") for chunk in one.chunks.values()])
    norm = float(np.sqrt(np.dot(flat.astype(np.float64), flat.astype(np.float64))))
    consortium.start(consortium.plan(aggregation={"max_update_norm": norm}))
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    answer = callers[0].send(1, callers[0].next_task().base_digest, one)
    assert answer.receipt.outcome is CommitOutcome.ACCEPTED


def test_without_a_bound_nothing_is_read_again(consortium, monkeypatch):
    consortium.start()
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    base = callers[0].next_task().base_digest
    blobs = consortium.running[0].daemon.runner.store.blobs
    monkeypatch.setattr(blobs, "get", lambda _digest: pytest.fail("an update is read without need"))
    answer = callers[0].send(1, base, absurd(consortium))
    assert answer.receipt.outcome is CommitOutcome.ACCEPTED


def test_a_commit_that_is_given_up_again_and_again_is_measured_once(consortium, callers, monkeypatch):
    caller = callers[0]
    base, update = caller.next_task().base_digest, consortium.update(1)
    caller.push(1, update, caller.offer(1, base, update))
    blobs = consortium.running[0].daemon.runner.store.blobs
    read, free, reads = blobs.get, threading.Event(), []

    def slowly(digest):
        reads.append(digest)
        free.wait(30)
        return read(digest)

    monkeypatch.setattr(blobs, "get", slowly)
    request = CommitUpdateRequest("demo", 1, base, update.manifest.digest, "").to_wire()
    try:
        for _ in range(4):  # as many as there are threads for files
            with pytest.raises(grpc.RpcError) as error:
                caller.stub.CommitUpdate(request, timeout=0.5)
            assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        eventually(lambda: reads)
        assert len(reads) == 1
    finally:
        free.set()
    assert caller.commit(1, base, update.manifest.digest).receipt.outcome is CommitOutcome.ACCEPTED
    assert sorted(reads) == sorted(update.chunks)


def test_an_update_that_lacks_chunks_is_not_measured_and_is_told_so(consortium, callers):
    caller = callers[2]
    base = caller.next_task().base_digest
    update = consortium.update(1)
    caller.offer(1, base, update)
    with pytest.raises(grpc.RpcError, match="lacks 1 of 1 chunks; push them first") as error:
        caller.commit(1, base, update.manifest.digest)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caller.send(1, base, update).receipt.outcome is CommitOutcome.ACCEPTED
