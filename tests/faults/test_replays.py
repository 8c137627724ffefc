"""Calls that come twice, late, of another round, of another run or under another name change nothing."""

from collections.abc import Iterator

import grpc
import pytest

from adpfl.wire.messages import TaskKind
from adpfl.wire.receipts import CommitOutcome
from tests.faults.invariants import check_all
from tests.faults.raw_site import RawSite, Update
from tests.faults.rig import Federation
from tests.faults.witness import SENT_FOLDER

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

RAW, AGENTS = "hospital3", ("hospital1", "hospital2")


@pytest.fixture
def federation(federate) -> Federation:
    """Two agents at work; the third site is for the test to play."""
    made: Federation = federate()
    made.start_all(without=RAW)
    return made


@pytest.fixture
def raw(federation) -> Iterator[RawSite]:
    made = joined(federation)
    yield made
    made.close()


def joined(federation: Federation) -> RawSite:
    made = RawSite(federation, RAW)
    federation.wait_until(lambda: "serving" in federation.events("server"), "the server to serve")
    made.join()
    return made


def refused(call, *arguments, **options) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    code: grpc.StatusCode = caught.value.code()
    return code


def send(raw: RawSite, seed: int):
    task = raw.train_task()
    update = raw.made_up_update(task.base_digest, seed)
    missing = raw.offer(task.round, task.base_digest, update)
    assert raw.push(task.round, update, missing) == ()
    return task, update, raw.commit(task.round, task.base_digest, update)


def end(federation: Federation) -> None:
    """Let the agents end, then the server; the raw site has no agent."""
    for site in AGENTS:
        federation.wait_until(lambda site=site: federation.running[site].code() is not None, site)
        assert federation.running.pop(site).code() == 0, federation.scene()
    assert federation.status()["status"] == "finished"
    federation.stop_server()
    check_all(federation)


def test_everything_twice_counts_once(federation, raw):
    for seed in (1, 2):
        task = raw.train_task()
        update = raw.made_up_update(task.base_digest, seed)
        missing = raw.offer(task.round, task.base_digest, update)
        assert raw.offer(task.round, task.base_digest, update) == missing
        half = missing[: len(missing) // 2]
        assert raw.push(task.round, update, half) == missing[len(half) :]
        assert refused(raw.push, task.round, update, half) is grpc.StatusCode.INVALID_ARGUMENT
        assert refused(raw.commit, task.round, task.base_digest, update) is (
            grpc.StatusCode.FAILED_PRECONDITION
        )
        assert raw.push(task.round, update, raw.offer(task.round, task.base_digest, update)) == ()
        first = raw.commit(task.round, task.base_digest, update)
        assert first.receipt.outcome is CommitOutcome.ACCEPTED
        for _ in range(3):
            assert raw.commit(task.round, task.base_digest, update) == first
            assert raw.offer(task.round, task.base_digest, update) == ()
            assert raw.push(task.round, update) == ()  # nothing is asked for, so nothing is taken
    end(federation)


def test_an_update_of_a_past_round_comes_back_in_vain(federation, raw):
    old_task, old, receipt = send(raw, 1)
    task = raw.train_task()
    assert task.round == 2
    # The same call long after: the same receipt, and the round that is open has nothing of it.
    assert raw.commit(old_task.round, old_task.base_digest, old) == receipt
    # The old bytes as if they were the new round's.
    codes = {
        refused(raw.commit, 2, old_task.base_digest, old),
        refused(raw.offer, 2, old_task.base_digest, old),
        refused(raw.commit, 2, task.base_digest, old),
    }
    assert codes == {grpc.StatusCode.FAILED_PRECONDITION}
    # Other bytes for the past round.
    other = raw.made_up_update(task.base_digest, 7)
    assert refused(raw.commit, 1, old_task.base_digest, other) is grpc.StatusCode.ALREADY_EXISTS
    send(raw, 2)
    end(federation)


def test_a_commit_after_its_round_is_answered_and_not_added(federate):
    """The bytes are there in time, the commit is not: the others' round closes without them."""
    federation = federate(quorum=2)
    federation.start_all(without=RAW)
    raw = joined(federation)
    task = raw.train_task()
    update = raw.made_up_update(task.base_digest, 1)
    assert raw.push(1, update, raw.offer(1, task.base_digest, update)) == ()
    federation.wait_until(lambda: len(federation.record()["rounds"]) > 1, "round 1 to close without us")
    late = raw.commit(1, task.base_digest, update)
    assert late.receipt.outcome is CommitOutcome.LATE
    assert raw.commit(1, task.base_digest, update) == late
    assert raw.offer(1, task.base_digest, update) == ()
    assert raw.push(1, update) == ()
    raw.close()
    end(federation)
    assert federation.record()["rounds"][0]["missing"] == [RAW]


def test_rounds_and_runs_that_do_not_exist_take_nothing(federation, raw):
    task, update, _ = send(raw, 1)
    base = task.base_digest
    for number in (3, 4, 1000):
        assert refused(raw.offer, number, base, update) is grpc.StatusCode.FAILED_PRECONDITION
        assert refused(raw.commit, number, base, update) is grpc.StatusCode.FAILED_PRECONDITION
    for call in (raw.offer, raw.commit):
        assert refused(call, 1, base, update, run="another") is grpc.StatusCode.NOT_FOUND
    assert refused(raw.push, 1, update, run="another") is grpc.StatusCode.NOT_FOUND
    send(raw, 2)
    end(federation)


def test_a_sites_update_does_not_count_for_another(federation, raw):
    """Recorded bytes of one hospital, sent under the certificate of another."""
    task, own, first = send(raw, 1)
    federation.wait_until(lambda: raw.train_task().round == 2, "round 2")
    thief = RawSite(federation, "hospital1")
    try:
        assert refused(thief.commit, 1, task.base_digest, own) is grpc.StatusCode.ALREADY_EXISTS
        assert refused(thief.offer, 1, task.base_digest, own) is grpc.StatusCode.ALREADY_EXISTS
    finally:
        thief.close()
    assert raw.commit(1, task.base_digest, own) == first
    send(raw, 2)
    end(federation)


def test_a_finished_run_answers_and_takes_nothing(federation, raw):
    task, update, receipt = send(raw, 1)
    last_task, last, last_receipt = send(raw, 2)
    federation.wait_until(lambda: raw.task().kind is TaskKind.FINISHED, "the run to finish")
    assert raw.commit(task.round, task.base_digest, update) == receipt
    assert raw.commit(last_task.round, last_task.base_digest, last) == last_receipt
    other = raw.made_up_update(last_task.base_digest, 9)
    assert refused(raw.commit, 2, last_task.base_digest, other) is grpc.StatusCode.ALREADY_EXISTS
    # A round that the plan does not have, from the very model that the run ended with.
    end_of_run = raw.task().base_digest
    assert refused(raw.offer, 3, end_of_run, other) is grpc.StatusCode.FAILED_PRECONDITION
    assert refused(raw.commit, 3, end_of_run, other) is grpc.StatusCode.FAILED_PRECONDITION
    end(federation)


def test_an_agents_own_update_replayed_by_its_certificate_counts_once(federation, raw):
    bases = [send(raw, seed)[0].base_digest for seed in (1, 2)]
    federation.wait_until(lambda: raw.task().kind is TaskKind.FINISHED, "the run to finish")
    federation.wait_until(lambda: federation.running["hospital1"].code() is not None, "the agent to end")
    sent = sorted((federation.root / "state" / "hospital1" / SENT_FOLDER).iterdir())
    assert len(sent) == 2
    twin = RawSite(federation, "hospital1")
    outcomes = []
    try:
        for folder in sent:
            update = twin.sent_update(folder.name)
            outcomes += [outcome(twin, number, base, update) for number in (1, 2) for base in bases]
    finally:
        twin.close()
    # Each update under its own key gets its receipt once more; every other pairing is refused.
    assert sorted(outcomes) == ["ACCEPTED"] * 2 + ["ALREADY_EXISTS"] * 6
    end(federation)


def outcome(site: RawSite, number: int, base: str, update: Update) -> str:
    try:
        return site.commit(number, base, update).receipt.outcome.name
    except grpc.RpcError as error:
        return str(error.code().name)
