"""What a site has sent, or spent, is on its disk first: a power cut at any call of the server loses none."""

import os
import shutil
import stat

import pytest

from adpfl_client import durable
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.rounds import models
from adpfl_client.rounds.models import ModelStore
from adpfl_client.spool import Spool

RUN = "derm"
NOW = 1e10
"""Later than anything in the ledger."""


class Watched:
    """Looks at the site's disk, as a power cut would leave it, whenever the server is called."""

    def __init__(self, service, disk, folder):
        self.findings = []
        self.images = 0
        self._service, self._disk, self._folder = service, disk, folder
        self._enter = service._enter
        service._enter = self.enter

    def enter(self, method, context):
        if method in {"Offer", "Push", "CommitUpdate"} and not self.findings:
            self.look(method)
        self._enter(method, context)

    def look(self, method):
        self.images += 1
        image = self._disk.image(self._folder / f"{self.images}-{method}")
        self.findings += [f"{method}: {what}" for what in missing(image, self._service)]
        shutil.rmtree(image)


def missing(image, service):
    """What a restart from this image would lack of the round that is being sent."""
    try:
        with LedgerStore.open(image, NOW) as ledger:
            rows = [row for row in ledger.reservations(RUN) if row.round_number == service.round]
    except Exception as error:  # noqa: BLE001 - whatever a half-written ledger raises is a finding
        return [f"ledger: {error}"]
    found = [] if rows and rows[-1].status in {"sealed", "committed"} else ["the sealed row"]
    sealed = [update for update in Spool(image / "spool").sealed(RUN) if update.entry.round == service.round]
    if not sealed:
        return [*found, "the spooled update"]
    for digest in sealed[0].manifest.indices_of:
        sealed[0].chunk(digest)
    return found


@pytest.fixture
def prepared(make_config, make_plan, serve):
    config = make_config()
    config.state_dir.parent.mkdir(exist_ok=True)
    return serve(make_plan(rounds=2)), config


def test_an_update_and_its_row_are_safe_before_a_byte_leaves(prepared, open_agent, lose_power, tmp_path):
    service, config = prepared
    disk = lose_power(config.state_dir.parent)
    images = tmp_path.parent / f"{tmp_path.name}-images"
    images.mkdir()

    class State:
        def image(self, target):
            return disk.image(target.with_name(target.name + "-root")) / config.state_dir.name

    watched = Watched(service, State(), images)
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "finished"
    assert watched.images >= 6
    assert watched.findings == []
    # What the site was told and keeps: receipts in the ledger, both models, the run's record.
    state = disk.image(images / "end") / config.state_dir.name
    with LedgerStore.open(state, NOW) as ledger:
        assert [row.status for row in ledger.reservations(RUN)] == ["committed", "committed"]
    assert [model.round for model in ModelStore(state / "models").models()] == [0, 1, 2]
    assert (state / "runs" / RUN / "site.json").read_bytes() == (
        config.state_dir / "runs" / RUN / "site.json"
    ).read_bytes()


def test_a_sync_that_is_left_out_shows(prepared, open_agent, lose_power, tmp_path, monkeypatch):
    service, config = prepared
    disk = lose_power(config.state_dir.parent)
    monkeypatch.setattr(durable, "sync_folder", lambda _: None)
    images = tmp_path.parent / f"{tmp_path.name}-images"
    images.mkdir()

    class State:
        def image(self, target):
            return disk.image(target.with_name(target.name + "-root")) / config.state_dir.name

    watched = Watched(service, State(), images)
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    assert watched.images >= 1
    assert any("the spooled update" in finding or "ledger" in finding for finding in watched.findings)


def receive(store, plan, model):
    """All of a model comes; returns what was lacking at first, too."""
    incoming = store.receive(plan, 0, model.manifest)
    lacking = incoming.missing
    for digest in lacking:
        incoming.write(digest, model.chunks[digest])
    return incoming, lacking


def leave_out_files(monkeypatch):
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: stat.S_ISDIR(os.fstat(number).st_mode) and real(number))


def leave_out_folders(monkeypatch):
    monkeypatch.setattr(durable, "sync_folder", lambda _: None)


@pytest.fixture
def found_after(make_object, make_plan, lose_power, tmp_path, monkeypatch):
    """Receives a model; returns what a restart would find had the power gone at each of the last points."""

    def receive_one(leave_out=lambda _: None):
        folder = tmp_path / "disk"
        folder.mkdir()
        disk, model, store = lose_power(folder), make_object(), ModelStore(folder / "models")
        leave_out(monkeypatch)
        incoming, _ = receive(store, make_plan(), model)
        found = {}

        def look(point):
            image = ModelStore(disk.image(tmp_path / point) / "models")
            found[point] = image.find(RUN, 0, model.manifest.digest)

        monkeypatch.setattr(models, "reach", look)
        store.finish(incoming)
        return found

    return receive_one


def test_a_model_is_on_the_disk_when_it_has_its_name(found_after):
    found = found_after()
    assert list(found) == ["client.model_saving", "client.model_saved"]
    assert found["client.model_saving"] is None
    assert found["client.model_saved"] is not None


@pytest.mark.parametrize("leave_out", [leave_out_files, leave_out_folders])
def test_a_models_sync_that_is_left_out_shows(found_after, leave_out):
    assert found_after(leave_out)["client.model_saved"] is None


def test_pages_that_the_power_took_are_fetched_again(make_object, make_plan, tmp_path):
    """Nothing of an unfinished model was synced: whatever the disk still has of it is looked at again."""
    model, plan, store = make_object(), make_plan(), ModelStore(tmp_path)
    incoming, _ = receive(store, plan, model)
    with incoming.path.open("r+b") as file:
        file.write(bytes(512))  # where the header was
        file.seek(-model.manifest.payload_bytes, os.SEEK_END)
        file.write(bytes(4096))
    again, lacking = receive(store, plan, model)
    assert lacking == model.manifest.chunk_digests[:1]
    assert store.finish(again) == store.find(RUN, 0, model.manifest.digest)
