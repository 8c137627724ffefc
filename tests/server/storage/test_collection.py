"""The disk stays bounded however long a run is, and nothing goes that somebody needs."""

import asyncio
import threading
from contextlib import suppress

import grpc
import pytest

from adpfl.errors import ConfigError, StateError
from adpfl.federated.run_events import RunCancelled
from adpfl.wire import transfers
from adpfl.wire.messages import TaskKind
from adpfl_server.rounds import housekeeping
from adpfl_server.storage import collection, weights
from adpfl_server.storage.collection import reading
from adpfl_server.store import Store
from tests.server.patience import eventually

SITES = ("hospital1", "hospital2", "hospital3")
SMALL = 2**16
ROUNDS = 24
AGGREGATION = {"strategy": "fedadam", "averaging": {"method": "ema", "decay": 0.5}}


@pytest.fixture
def callers(consortium, monkeypatch):
    monkeypatch.setattr(housekeeping, "LOOK_SECONDS", 0.05)

    def start(rounds=ROUNDS, **changes):
        cohort = {"sites": list(SITES), "quorum": 3}
        consortium.start(consortium.plan(rounds=rounds, aggregation=AGGREGATION, cohort=cohort), **changes)
        made = [consortium.caller(site) for site in SITES]
        for number, caller in enumerate(made):
            caller.enter(str(number))
        return made

    return start


def play(consortium, callers, last, after_each=lambda _: None):
    while (task := callers[0].next_task(10)).kind is TaskKind.TRAIN and task.round <= last:
        for seed, caller in enumerate(callers):
            caller.send(task.round, task.base_digest, consortium.update(10 * task.round + seed))
        after_each(task.round)


def chunks(consortium):
    return {path.name for path in (consortium.state_dir / "blobs").glob("??/*")}


def written(consortium, digest):
    """Whether a chunk is on the disk, durable or not yet."""
    return any((consortium.state_dir / "blobs").glob(f"*/{digest}*"))


@pytest.mark.parametrize("hangs_up", [False, True])
def test_a_push_that_outlives_its_round_leaves_nothing_on_the_disk(consortium, monkeypatch, hangs_up):
    monkeypatch.setattr(weights, "DEFAULT_CHUNK_SIZE", SMALL)
    monkeypatch.setattr("adpfl_server.transfer.receiving.SETTLED_TOGETHER", 1)
    cohort = {"sites": list(SITES), "quorum": 2, "round_deadline_seconds": 2.0}
    consortium.start(consortium.plan(rounds=5, cohort=cohort))
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    base = callers[0].next_task(10).base_digest
    late = consortium.update(9, chunk_size=SMALL)
    digests = callers[2].offer(1, base, late)
    sent, came_late = digests[:3], digests[3:]
    got_to_its_end = threading.Event()  # an error in here would look like the end of the stream

    def parts():
        yield transfers.PushHeader("demo", 1, late.manifest.digest).to_wire()
        for digest in sent:
            yield transfers.Chunk(digest, late.chunks[digest]).to_push()
            eventually(lambda digest=digest: written(consortium, digest))
        eventually(lambda: sent[0] in chunks(consortium))
        for seed, caller in enumerate(callers[:2]):
            caller.send(1, base, consortium.update(seed, chunk_size=SMALL))
        eventually(lambda: sent[0] not in chunks(consortium))  # past the deadline, closed and collected
        for digest in came_late:
            yield transfers.Chunk(digest, late.chunks[digest]).to_push()
        if hangs_up:
            eventually(lambda: written(consortium, came_late[-1]))
            call.cancel()
        got_to_its_end.set()

    call = callers[2].stub.Push.future(parts(), timeout=60)
    with suppress(grpc.RpcError, grpc.FutureCancelledError):
        call.result()
    assert got_to_its_end.wait(10)
    eventually(lambda: not any(written(consortium, digest) for digest in digests))


def test_the_disk_stays_bounded_over_many_rounds(consortium, callers):
    made = callers(keep_models=3)
    counts = []
    play(consortium, made, ROUNDS, lambda _: counts.append(len(chunks(consortium))))
    # Every object is of one chunk: 3 models, 3 averages, 2 moments, 3 updates, and as much again for what a
    # round has made and what it has not yet let go.
    assert max(counts) <= 3 + 3 + 2 + 3 + (1 + 1 + 2 + 3)
    assert len(counts) == ROUNDS
    eventually(lambda: len(chunks(consortium)) == 3 + 3)  # over: nothing but models and averages
    store = Store(consortium.state_dir, read_only=True)
    assert sorted(store.kept_models("demo")) == [ROUNDS - 2, ROUNDS - 1, ROUNDS]
    assert sorted(store.kept_averages("demo")) == [ROUNDS - 2, ROUNDS - 1, ROUNDS]
    assert all(store.missing(store.manifest(digest)) == () for digest in store.kept_models("demo").values())
    assert store.connection.execute("SELECT count(*) FROM commits").fetchone()[0] == 3 * ROUNDS
    assert store.model_digest("demo", 1) is not None  # by name, for good
    store.close()


def test_fewer_models_by_the_configuration_take_effect_at_the_next_start(consortium, callers):
    made = callers(rounds=6, keep_models=10)
    play(consortium, made, 6)
    eventually(lambda: len(chunks(consortium)) == 7 + 5)  # the first average is the first model
    consortium.running[-1].stop()
    callers(rounds=6, keep_models=2)
    assert len(chunks(consortium)) == 2 + 2


def test_nothing_goes_while_somebody_reads(consortium, callers):
    made = callers(keep_models=2)
    with reading(consortium.state_dir), reading(consortium.state_dir):
        play(consortium, made, 5)
        store = Store(consortium.state_dir, read_only=True)
        assert sorted(store.kept_models("demo")) == [0, 1, 2, 3, 4, 5]
        store.close()
    eventually(lambda: len(chunks(consortium)) <= 2 + 2 + 2)


def test_a_cancelled_run_lets_its_updates_go(consortium, callers):
    made = callers(keep_models=2)
    task = made[0].next_task()
    update = consortium.update(1)
    made[0].send(1, task.base_digest, update)
    assert update.manifest.chunk_digests[0] in chunks(consortium)
    daemon = consortium.running[-1]
    asyncio.run_coroutine_threadsafe(
        daemon.daemon.runner.advance("demo", RunCancelled("bob")), daemon._loop
    ).result(10)
    eventually(lambda: len(chunks(consortium)) == 1)  # the initial model


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_models_are_no_configuration(consortium, number):
    with pytest.raises(ConfigError, match="keep_models"):
        consortium.configure(keep_models=number)


def test_a_crash_between_rows_and_chunks_is_cleared_at_the_next_start(consortium, callers, monkeypatch):
    made = callers(rounds=4, keep_models=2)

    def killed(*_arguments):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("adpfl_server.storage.blobs.BlobFolder.drop", killed)
        play(consortium, made, 4)
        consortium.running[-1].stop()
    assert len(chunks(consortium)) > 4
    callers(rounds=4, keep_models=2)
    assert len(chunks(consortium)) == 2 + 2


def test_the_lock_is_of_the_state_folder(tmp_path):
    with reading(tmp_path):
        assert (tmp_path / collection.READING_LOCK).exists()


def test_a_lock_that_root_makes_is_the_folders_owners(tmp_path, monkeypatch):
    given = []
    owner = tmp_path.stat()
    monkeypatch.setattr(collection.os, "geteuid", lambda: 0)
    monkeypatch.setattr(collection.os, "fchown", lambda _, *ids: given.append(ids))
    for _ in range(2):
        with reading(tmp_path):
            pass
    assert given == [(owner.st_uid, owner.st_gid)]  # once: what stands there already is left alone


def test_a_lock_that_points_elsewhere_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "reading.lock").symlink_to(elsewhere)
    with pytest.raises(StateError, match="cannot be locked"), reading(tmp_path):
        pass
    assert not elsewhere.exists()
