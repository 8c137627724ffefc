"""What the server has acknowledged is on the disk: a power cut right after an answer loses none of it."""

import json

import pytest

from adpfl_server.operating.export import export_model
from adpfl_server.rounds.housekeeping import damaged_chunks
from adpfl_server.storage import blobs, records
from adpfl_server.store import Store

SITES = ("hospital1", "hospital2", "hospital3")


@pytest.fixture
def callers(consortium):
    consortium.start(consortium.plan(cohort={"sites": list(SITES), "quorum": 3}))
    made = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(made):
        caller.enter(str(number))
    return made


def lost(image):
    """What a run that goes on from this image would miss, in words."""
    store = Store(image, read_only=True)
    try:
        state = store.state("demo")
        needed = {state.model_digest: f"model {state.rounds_closed}"}
        rows = store.connection.execute("SELECT * FROM commits WHERE round > ?", (state.rounds_closed,))
        needed |= {row["update_digest"]: f"update of {row['site']}" for row in rows}
        if state.open_round is not None:
            answered = {update.update_digest for update in state.open_round.updates}
            assert answered <= needed.keys()
        found = []
        for digest, what in needed.items():
            manifest = store.manifest(digest)
            if manifest is None or damaged_chunks(store.blobs, manifest):
                found.append(what)
        return found
    finally:
        store.close()


def commits(image):
    store = Store(image, read_only=True)
    try:
        return [row["site"] for row in store.connection.execute("SELECT site FROM commits ORDER BY site")]
    finally:
        store.close()


def test_every_acknowledged_update_and_every_published_model_survives(
    consortium, callers, lose_power, tmp_path
):
    disk = lose_power(consortium.state_dir)
    base = callers[0].next_task().base_digest
    for seed, caller in enumerate(callers):
        caller.send(1, base, consortium.update(seed, chunk_size=2**20))
        image = disk.image(tmp_path / f"after-{seed}")
        assert lost(image) == []
        assert commits(image) == list(SITES[: seed + 1])
    assert callers[0].next_task(10).round == 2
    image = disk.image(tmp_path / "after-the-round")
    assert lost(image) == []
    store = Store(image, read_only=True)
    assert store.state("demo").rounds_closed == 1
    store.close()


def skip_file(monkeypatch):
    monkeypatch.setattr(blobs.os, "fsync", lambda _: None)


def skip_folder(monkeypatch):
    monkeypatch.setattr(blobs, "sync_folder", lambda _: None)


@pytest.mark.parametrize("skip", [skip_file, skip_folder])
def test_a_sync_that_is_left_out_shows(consortium, callers, lose_power, tmp_path, monkeypatch, skip):
    disk = lose_power(consortium.state_dir)
    skip(monkeypatch)
    base = callers[0].next_task().base_digest
    callers[0].send(1, base, consortium.update(0))
    assert lost(disk.image(tmp_path / "after")) == ["update of hospital1"]


def test_a_new_state_folder_survives_with_its_first_runs(consortium, lose_power, tmp_path, enrolled):
    disk = lose_power(consortium.root)
    consortium.start(consortium.plan())
    image = disk.image(tmp_path / "after") / "state"
    assert (image / "pki" / "ca.key").exists()
    assert lost(image) == []


def test_a_written_record_survives_and_so_does_an_export(consortium, callers, lose_power, tmp_path):
    disk = lose_power(consortium.root)
    (consortium.root / "out").mkdir()
    export_model(consortium.running[-1].config, "demo", consortium.root / "model.safetensors")
    store = Store(consortium.state_dir, read_only=True)
    path = consortium.root / "fresh" / "runs" / "demo" / "run.json"
    records.write_record(path, store.record("demo"))
    store.close()
    image = disk.image(tmp_path / "after")
    written = (consortium.root / "model.safetensors").read_bytes()
    assert (image / "model.safetensors").read_bytes() == written
    found = json.loads((image / "fresh" / "runs" / "demo" / "run.json").read_text())
    assert found["plan"]["run"] == "demo"
