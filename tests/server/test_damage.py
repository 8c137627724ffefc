"""A byte that the disk has changed: noticed by its digest, said by name, never added up, mended."""

import asyncio
import json
import threading

import grpc
import pytest
from typer.testing import CliRunner

from adpfl.errors import IntegrityError, StateError
from adpfl.wire.messages import SiteActivity, TaskKind
from adpfl.wire.receipts import CommitOutcome
from adpfl.wire.safetensors_file import METADATA_KEY
from adpfl_server import runner
from adpfl_server.cli import app
from adpfl_server.operating import health
from adpfl_server.operating.export import Choice, Kind, export_model
from adpfl_server.operating.overview import open_store, status_lines
from adpfl_server.rounds import housekeeping
from adpfl_server.storage.verification import verify_store
from adpfl_server.store import DATABASE_FILE, Store
from tests.server.patience import eventually

SITES = ("hospital1", "hospital2", "hospital3")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(housekeeping, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(runner, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.1)


@pytest.fixture
def callers(consortium, quick):
    cohort = {"sites": list(SITES), "quorum": 3}
    plans = [consortium.plan(run=run, rounds=3, cohort=cohort) for run in ("demo", "control")]
    consortium.start(*plans)
    made = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(made):
        for run in ("demo", "control"):
            caller.run = run
            caller.enter(str(number))
        caller.run = "demo"
    return made


def blob(consortium, digest):
    return consortium.state_dir / "blobs" / digest[:2] / digest


def flip(consortium, digest):
    path = blob(consortium, digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def state(consortium):
    return consortium.running[-1].daemon.runner.states["demo"]


def kinds(consortium):
    with_store = Store(consortium.state_dir, read_only=True)
    try:
        return [event.kind for event in with_store.record("demo").timeline]
    finally:
        with_store.close()


def play_round(consortium, callers, run, number):
    for caller in callers:
        caller.run = run
    base = callers[0].next_task(10).base_digest
    for seed, caller in enumerate(callers):
        caller.send(number, base, consortium.update(10 * number + seed))
    task = callers[0].next_task(10)
    for caller in callers:
        caller.run = "demo"
    return task.base_digest


def lose(consortium, digest):
    blob(consortium, digest).unlink()


def cut(consortium, digest):
    path = blob(consortium, digest)
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("damage", [flip, lose, cut])
def test_a_committed_update_is_asked_for_again_and_counts_once_under_its_receipt(consortium, callers, damage):
    expected = play_round(consortium, callers, "control", 1)
    base = callers[0].next_task().base_digest
    updates = [consortium.update(10 + seed) for seed in range(3)]
    first = callers[0].send(1, base, updates[0])
    callers[1].send(1, base, updates[1])
    damage(consortium, updates[0].manifest.chunk_digests[0])
    callers[2].send(1, base, updates[2])

    task = callers[0].next_task(10)
    assert (task.kind, task.round, task.base_digest) == (TaskKind.TRAIN, 1, base)
    assert callers[1].next_task(0).kind is TaskKind.WAIT
    assert "update_damaged" in kinds(consortium)
    other = consortium.update(77)
    with pytest.raises(grpc.RpcError) as refusal:
        callers[0].send(1, base, other)
    assert refusal.value.code() is grpc.StatusCode.ALREADY_EXISTS
    again = callers[0].send(1, base, updates[0])
    assert (again.receipt, again.signature) == (first.receipt, first.signature)
    assert callers[0].next_task(10).base_digest == expected
    store = Store(consortium.state_dir, read_only=True)
    assert store.connection.execute("SELECT count(*) FROM commits WHERE run = 'demo'").fetchone()[0] == 3
    store.close()


def late_in_a_round_that_opens_again(consortium, monkeypatch, plan, late):
    """While two updates are added up, one of them damaged, the third site's comes; then the round goes on."""
    free = threading.Event()
    ask = runner.Runner._asked_again

    async def held(self, run, action):
        await asyncio.to_thread(free.wait, 30)
        return await ask(self, run, action)

    monkeypatch.setattr(runner.Runner, "_asked_again", held)
    consortium.start(plan)
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    base = callers[0].next_task().base_digest
    first = consortium.update(1)
    callers[0].send(1, base, first)
    flip(consortium, first.manifest.chunk_digests[0])
    callers[2].heartbeat(SiteActivity.LEFT, 1)
    callers[1].send(1, base, consortium.update(2))  # the quorum
    eventually(lambda: state(consortium).open_round.aggregating, "nothing is added up")
    callers[2].next_task()  # it comes back, with what it has
    said = callers[2].commit(1, base, late.manifest.digest)
    free.set()
    eventually(lambda: not state(consortium).open_round.aggregating, "the round did not open again")
    task = callers[2].next_task()
    again = callers[2].send(1, base, late)
    callers[0].send(1, base, first)
    eventually(lambda: state(consortium).rounds_closed == 1, "the round does not close")
    consortium.running[0].stop()
    return said, task, again, consortium.record()["rounds"][0]


def test_an_update_that_was_told_to_be_late_stays_late_where_its_round_opens_again(
    consortium, quick, monkeypatch
):
    update = consortium.update(7)
    said, task, again, record = late_in_a_round_that_opens_again(
        consortium, monkeypatch, consortium.plan(), update
    )
    assert said.receipt.outcome is CommitOutcome.LATE
    assert (task.kind, task.round) == (TaskKind.WAIT, 1)
    assert "came too late" in task.detail
    assert (again.receipt, again.signature) == (said.receipt, said.signature)
    assert record["sites"] == ["hospital1", "hospital2"]
    assert record["missing"] == ["hospital3"]


def test_no_bound_on_the_norm_is_passed_by_coming_too_late_first(consortium, quick, monkeypatch):
    plan = consortium.plan(aggregation={"max_update_norm": 10.0})
    huge = consortium.update_of(consortium.weights(7, 1000.0))
    *_, record = late_in_a_round_that_opens_again(consortium, monkeypatch, plan, huge)
    assert record["sites"] == ["hospital1", "hospital2"]


def test_a_damaged_update_survives_a_restart_in_between(consortium, callers):
    expected = play_round(consortium, callers, "control", 1)
    base = callers[0].next_task().base_digest
    updates = [consortium.update(10 + seed) for seed in range(3)]
    for caller, update in zip(callers[:2], updates, strict=False):
        caller.send(1, base, update)
    consortium.running[-1].stop()
    flip(consortium, updates[1].manifest.chunk_digests[0])
    plans = [
        consortium.plan(run=run, rounds=3, cohort={"sites": list(SITES), "quorum": 3})
        for run in ("demo", "control")
    ]
    consortium.start(*plans)
    revived = [consortium.again(caller) for caller in callers]
    revived[2].send(1, base, updates[2])
    task = revived[1].next_task(10)
    assert (task.kind, task.round) == (TaskKind.TRAIN, 1)
    revived[1].send(1, base, updates[1])
    assert revived[0].next_task(10).base_digest == expected


def test_a_damaged_base_model_holds_the_run_up_says_so_and_is_mended_from_a_copy(
    consortium, callers, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "adpfl_server.transfer.sending.KEPT_BYTES", 0
    )  # else whole chunks would go out from memory
    base = play_round(consortium, callers, "demo", 1)
    config = consortium.running[-1].config
    copy = tmp_path / "copy.safetensors"
    export_model(config, "demo", copy)
    manifest, _ = callers[0].fetch(base)
    chunk = manifest.chunk_digests[0]
    flip(consortium, chunk)

    with pytest.raises(grpc.RpcError) as refusal:
        callers[0].fetch(base)
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE  # which an agent tries again
    eventually(lambda: state(consortium).damage, "the damage to be noticed")
    daemon = consortium.running[-1].daemon
    eventually(lambda: not daemon._storage_health.serving, "the health check to say so")
    assert f"the model of round 1: chunk {chunk[:12]} is damaged" in daemon.runner.storage_trouble
    told = CliRunner().invoke(app, ["status", "demo", "--config", str(consortium.config_path)])
    assert "held up by damage on the server's disk (the model of round 1: chunk" in told.output
    found = CliRunner().invoke(app, ["verify-store", "--config", str(consortium.config_path)])
    assert found.exit_code == 1
    assert f"damaged: the model of round 1 of demo: 1 chunk(s) damaged or missing, {chunk}" in found.output

    # All updates of the round come in: they wait, and nothing is added up to a wrong base.
    for seed, caller in enumerate(callers):
        caller.send(2, base, consortium.update(20 + seed))
    assert callers[0].next_task(1).kind is TaskKind.WAIT
    assert state(consortium).status == "running"

    command = ["verify-store", "--restore", str(copy), "--config", str(consortium.config_path)]
    mended = CliRunner().invoke(app, command)
    assert mended.exit_code == 0
    assert "put back 1 chunk(s)" in mended.output
    assert callers[0].next_task(20).round == 3
    eventually(lambda: not state(consortium).damage, "the run to go on")
    eventually(lambda: daemon._storage_health.serving, "the health check to say so")
    assert [kind for kind in kinds(consortium) if kind.startswith("storage")] == [
        "storage_damaged",
        "storage_mended",
    ]


def test_damage_is_found_at_the_start_and_no_round_opens(consortium, callers):
    base = play_round(consortium, callers, "demo", 1)
    consortium.running[-1].stop()
    store = Store(consortium.state_dir)
    manifest = store.manifest(base)
    store.close()
    whole = blob(consortium, manifest.chunk_digests[0]).read_bytes()
    lose(consortium, manifest.chunk_digests[0])
    cohort = {"sites": list(SITES), "quorum": 3}
    plans = [consortium.plan(run=run, rounds=3, cohort=cohort) for run in ("demo", "control")]
    consortium.start(*plans)
    eventually(lambda: state(consortium).damage, "the damage to be noticed")
    blob(consortium, manifest.chunk_digests[0]).write_bytes(whole)  # as from a backup
    eventually(lambda: not state(consortium).damage, "the run to go on")


@pytest.mark.parametrize("size", ["many", None, 65536.5, True, 65537, 10**9])
def test_a_copy_of_an_odd_chunk_size_is_refused_in_one_line(consortium, tmp_path, size):
    consortium.start(consortium.plan())
    consortium.running[0].stop()
    copy = tmp_path / "copy.safetensors"
    described = {METADATA_KEY: json.dumps({"chunk_size": size})}
    consortium.write_safetensors(copy, consortium.weights(1), described)
    with pytest.raises(IntegrityError, match=r"copy\.safetensors: .*chunk_size is"):
        verify_store(consortium.running[0].config, (copy,))


def test_a_damaged_model_of_a_finished_run_is_said_until_it_is_whole(consortium, quick):
    consortium.start(consortium.plan(rounds=1))
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    model = play_round(consortium, callers, "demo", 1)
    with open_store(consortium.running[-1].config) as store:
        digest = store.manifest(model).chunk_digests[0]
    flip(consortium, digest)  # before anyone has fetched it: the server may hold what it sends in memory
    with pytest.raises(grpc.RpcError) as error:
        callers[1].fetch(model)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE  # which a site retries until it is mended
    eventually(lambda: state(consortium).damage, "nobody looks")
    with open_store(consortium.running[-1].config) as store:
        said = status_lines(store, ["demo"])[0]
    assert said.startswith("demo: finished: 1 of 1 rounds")
    assert (
        f"damage on the server's disk (the model of the finished run, of round 1: chunk {digest[:12]}" in said
    )
    flip(consortium, digest)
    eventually(lambda: not state(consortium).damage, "it stays damaged")
    assert kinds(consortium)[-2:] == ["storage_damaged", "storage_mended"]


def test_an_old_model_is_named_and_holds_nothing_up(consortium, callers, tmp_path):
    initial = callers[0].next_task().base_digest
    manifest, _ = callers[0].fetch(initial)
    base = play_round(consortium, callers, "demo", 1)
    flip(consortium, manifest.chunk_digests[0])
    config = consortium.running[-1].config
    assert verify_store(config).damaged[0].what.startswith("the model of round 0 of ")
    with pytest.raises(Exception, match=f"chunk {manifest.chunk_digests[0][:12]}"):
        export_model(config, "demo", tmp_path / "x", choice=Choice(Kind.LAST, 0))
    assert not (tmp_path / "x").exists()
    play_round(consortium, callers, "demo", 2)
    assert not state(consortium).damage
    assert base != callers[0].next_task(10).base_digest


def test_a_store_without_damage_is_ok_while_updates_come_in(consortium, callers):
    base = callers[0].next_task().base_digest
    update = consortium.update(5, chunk_size=2**20)
    callers[0].offer(1, base, update)  # announced, and not there yet
    config = consortium.running[-1].config
    found = verify_store(config)
    assert (found.damaged, found.restored) == ((), 0)
    assert found.objects == 2
    result = CliRunner().invoke(app, ["verify-store", "--config", str(consortium.config_path)])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("ok: the database, 2 models and updates, ")


def test_a_damaged_database_stops_the_start_in_one_line(consortium, callers):
    consortium.running[-1].stop()
    path = consortium.state_dir / DATABASE_FILE
    for damaged, message in ((path.read_bytes()[:50_000], "is damaged"), (b"", "is empty, but")):
        path.write_bytes(damaged)
        told = CliRunner().invoke(app, ["--config", str(consortium.config_path)])
        assert isinstance(told.exception, StateError), told
        assert message in str(told.exception)
        assert "restore its state folder from the backup" in str(told.exception)
        assert "\n" not in str(told.exception)
