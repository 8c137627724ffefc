"""Received models: checked chunk by chunk, safetensors on disk, usable without the run."""

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from adpfl.errors import ConfigError, DataError, DiskUnwritableError, IntegrityError, ProtocolError
from adpfl.wire.safetensors_file import read_header
from adpfl_client.operating.prediction import predict_folder
from adpfl_client.rounds.models import ModelStore, StoredModel, tensor_names


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "models")


def receive(store, stored_object, plan, round_number=0):
    return store.finish(receive_all(store, stored_object, plan, round_number))


def receive_all(store, stored_object, plan, round_number=0):
    incoming = store.receive(plan, round_number, stored_object.manifest)
    for digest in incoming.missing:
        incoming.write(digest, stored_object.chunks[digest])
    return incoming


def test_a_received_model_is_a_safetensors_file_that_knows_its_plan(store, make_object, make_plan):
    received = receive(store, make_object(), make_plan())
    arrays = load_file(received.path)
    for name, expected in make_object().arrays().items():
        np.testing.assert_array_equal(arrays[name], expected)
    assert StoredModel.read(received.path) == received
    assert received.plan == make_plan()
    assert tensor_names(received.path) == ("weight", "bias")
    assert [path for path in store.folder.rglob("*") if path.is_file()] == [received.path]


def test_a_model_is_found_by_its_digest_alone(store, make_object, make_plan):
    received = receive(store, make_object(), make_plan(), 3)
    assert store.find("derm", 3, received.digest) == received
    assert store.find("derm", 3, "f" * 64) is None
    assert store.find("derm", 2, received.digest) is None


def test_nothing_appears_before_the_last_chunk(store, make_object, make_plan):
    model = make_object()
    incoming = store.receive(make_plan(), 0, model.manifest)
    incoming.write(incoming.missing[0], model.chunks[incoming.missing[0]])
    with pytest.raises(IntegrityError, match="still lacks"):
        store.finish(incoming)
    assert not store.path("derm", 0).exists()


def test_a_chunk_that_was_not_asked_for_is_refused(store, make_object, make_plan):
    with pytest.raises(ProtocolError, match="not asked for"):
        store.receive(make_plan(), 0, make_object().manifest).write("e" * 64, b"x")


def test_the_bytes_are_written_once(store, make_object, make_plan):
    """The file that the chunks came into is the one that stays, private from its first byte."""
    incoming = receive_all(store, make_object(), make_plan())
    before = incoming.path.stat()
    assert stat.S_IMODE(before.st_mode) == 0o600
    assert store.finish(incoming).path.stat().st_ino == before.st_ino
    assert list((store.folder / "derm" / "incoming").iterdir()) == []


def test_bytes_that_changed_before_a_restart_are_fetched_again(store, make_object, make_plan):
    """All had come; the next start looks at what is really on the disk."""
    model = make_object()
    flip(receive_all(store, model, make_plan()).path)
    assert store.receive(make_plan(), 0, model.manifest).missing == (model.manifest.chunk_digests[-1],)
    assert (
        load_file(receive(store, model, make_plan()).path)["bias"].tolist() == model.arrays()["bias"].tolist()
    )


@pytest.mark.parametrize(("round_number", "averaged"), [(1, False), (2, False), (2, True), (10, False)])
def test_a_file_says_what_it_was_received_for_last(store, make_object, make_plan, round_number, averaged):
    model = make_object()
    receive_all(store, model, make_plan(), 1)
    incoming = store.receive(make_plan(), round_number, model.manifest, averaged=averaged)
    for digest in incoming.missing:
        incoming.write(digest, model.chunks[digest])
    stored = store.finish(incoming)
    description = read_header(stored.path).description
    assert (description["round"], description["averaged"]) == (round_number, averaged)
    assert store.find("derm", round_number, model.manifest.digest) == stored


def test_what_came_of_a_model_that_is_no_longer_wanted_is_removed(store, make_object, make_plan):
    stale = receive_all(store, make_object(1), make_plan()).path
    other_run = receive_all(store, make_object(1), make_plan(run="second")).path
    receive_all(store, make_object(2), make_plan(), 1)
    assert not stale.exists()
    assert other_run.exists()


def test_what_else_lies_where_a_model_is_received_does_not_come_into_it(
    store, make_object, make_plan, tmp_path
):
    """A folder that somebody made there, and a link in the place of the file."""
    first = receive_all(store, make_object(1), make_plan())
    elsewhere = first.path.rename(tmp_path / "elsewhere")
    first.path.symlink_to(elsewhere)
    (first.path.parent / "folder").mkdir()
    (first.path.parent / "folder" / "file").touch()
    before = elsewhere.read_bytes()
    model = receive(store, make_object(1), make_plan())
    assert not model.path.is_symlink()
    assert elsewhere.read_bytes() == before
    assert model.path.read_bytes() == before


def refuse(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_refuses_the_name_keeps_what_came(store, make_object, make_plan, monkeypatch):
    model = make_object()
    incoming = receive_all(store, model, make_plan())
    with monkeypatch.context() as full:
        full.setattr(Path, "replace", refuse)
        with pytest.raises(DiskUnwritableError, match="the received model"):
            store.finish(incoming)
    assert not store.path("derm", 0).exists()
    again = store.receive(make_plan(), 0, model.manifest)
    assert again.missing == ()
    assert store.find("derm", 0, model.manifest.digest) is None
    assert store.find("derm", 0, store.finish(again).digest) is not None


def test_a_disk_that_refuses_the_sync_is_asked_for_all_of_it_again(
    store, make_object, make_plan, monkeypatch
):
    """After a failed sync memory shows bytes that the disk lacks, and the next sync says that all is well."""
    model = make_object()
    incoming = receive_all(store, model, make_plan())
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", refuse)
        with pytest.raises(DiskUnwritableError, match="the received model"):
            store.finish(incoming)
    assert not store.path("derm", 0).exists()
    assert store.receive(make_plan(), 0, model.manifest).missing == model.manifest.chunk_digests
    stored = receive(store, model, make_plan())
    assert store.find("derm", 0, stored.digest) == stored


def test_a_model_of_another_history_is_kept_beside(store, make_object, make_plan):
    old = receive(store, make_object(1), make_plan(), 2)
    new = receive(store, make_object(2), make_plan(), 2)
    assert store.find("derm", 2, new.digest) == new
    assert {model.digest for model in store.models()} == {old.digest, new.digest}


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_model_that_has_changed_on_disk_is_not_found_and_is_replaced(store, make_object, make_plan, damage):
    received = receive(store, make_object(), make_plan(), 1)
    damage(received.path)
    assert store.find("derm", 1, received.digest) is None
    again = receive(store, make_object(), make_plan(), 1)
    assert store.find("derm", 1, received.digest) == again
    assert [path.name for path in store.folder.rglob("*.safetensors")] == ["round-0001.safetensors"]


def test_only_the_newest_rounds_stay_where_the_site_wants_it(store, make_object, make_plan):
    for number in (0, 1, 2, 9_999, 10_000):
        receive(store, make_object(number), make_plan(), number)
    receive(store, make_object(77), make_plan(), 10_000)  # of another history
    receive(store, make_object(5), make_plan(run="second"), 0)
    store.let_go("derm", keep=2)
    assert [(one.run, one.round) for one in store.models()] == [
        ("derm", 9_999),
        ("derm", 10_000),
        ("derm", 10_000),
        ("second", 0),
    ]


def test_models_are_listed_by_run_and_round(store, make_object, make_plan):
    receive(store, make_object(1), make_plan(run="second"), 0)
    receive(store, make_object(2), make_plan(), 10)
    receive(store, make_object(3), make_plan(), 9)
    assert [(one.run, one.round) for one in store.models()] == [("derm", 9), ("derm", 10), ("second", 0)]
    assert ModelStore(store.folder / "absent").models() == []


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{}"])
def test_another_file_is_no_model(tmp_path, content):
    path = tmp_path / "round-0000.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"round-0000\.safetensors"):
        StoredModel.read(path)


def test_a_plan_that_breaks_a_rule_is_no_model(store, make_object, make_plan):
    path = receive(store, make_object(), make_plan()).path
    data = path.read_bytes()
    broken = data.replace(b'\\"rounds\\": 2', b'\\"rounds\\": 0')
    assert broken != data
    path.write_bytes(broken)
    with pytest.raises(DataError, match="rounds is 0"):
        StoredModel.read(path)


def test_an_absent_file_is_said(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        StoredModel.read(tmp_path / "absent.safetensors")


def test_a_classifier_writes_no_masks(store, make_object, make_plan, clinic, tmp_path):
    received = receive(store, make_object(), make_plan(task="skin_lesion_presence"))
    with pytest.raises(ConfigError, match="skin_lesion_presence answers whether a crop shows a structure"):
        predict_folder(received.path, clinic, tmp_path / "masks")
    assert not (tmp_path / "masks").exists()
