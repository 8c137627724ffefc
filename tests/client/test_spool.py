"""Finished updates: sealed whole, answered once, the same bytes for ever."""

import numpy as np
import pytest

from adpfl.errors import IntegrityError, StateError
from adpfl.federated.records import StepRecord
from adpfl_client.spool import Spool, SpoolKey

KEY = SpoolKey("derm", 7, "a" * 64)
STEP = StepRecord(
    round=7,
    step=0,
    clip_norm=1.0,
    noise_scale=0.1,
    norm_quantiles=(1.0, 2.0, 3.0, 4.0, 5.0),
    units=4,
    clipped_units=1,
    nonfinite_units=0,
)


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool")


def seal(spool, key=KEY, seed=0):
    arrays = {"w": np.random.default_rng(seed).standard_normal((3, 9_000), dtype=np.float32)}
    return spool.seal(
        key, arrays, chunk_size=65_536, reservation="r7", steps=(STEP,), engine_state={"steps_taken": 21}
    )


def test_a_sealed_update_is_found_by_another_process(spool):
    sealed = seal(spool)
    found = Spool(spool.folder).find(KEY)
    assert found == sealed
    assert found.entry.steps == (STEP,)
    assert found.entry.engine_state == {"steps_taken": 21}
    assert [found.chunk(one) for one in found.manifest.chunk_digests] == [
        sealed.chunk(one) for one in sealed.manifest.chunk_digests
    ]


def test_a_task_is_answered_once(spool):
    sealed = seal(spool)
    with pytest.raises(StateError, match="already sealed"):
        seal(spool, seed=1)
    assert spool.find(KEY).entry.update_digest == sealed.entry.update_digest


@pytest.mark.parametrize(
    "other", [SpoolKey("derm", 8, "a" * 64), SpoolKey("derm", 7, "b" * 64), SpoolKey("other", 7, "a" * 64)]
)
def test_run_round_and_base_each_make_another_task(spool, other):
    seal(spool)
    assert spool.find(other) is None
    seal(spool, other, seed=1)
    assert spool.find(KEY).key == KEY


def test_a_base_whose_digest_begins_alike_is_told_apart(spool):
    seal(spool)
    with pytest.raises(IntegrityError, match="its name says"):
        spool.find(SpoolKey("derm", 7, "a" * 63 + "b"))


def test_what_a_crash_left_is_discarded_and_named(spool):
    sealed = seal(spool)
    half = sealed.folder.with_name("round-0008-bbbbbbbbbbbbbbbb.partial")
    half.mkdir()
    (half / "update.payload").write_bytes(b"noise")
    assert spool.discard_unsealed() == ["derm/round-0008-bbbbbbbbbbbbbbbb"]
    assert spool.sealed("derm") == [sealed]


def test_what_a_crash_left_of_held_room_or_of_a_sent_update_is_no_loss(spool):
    sealed = seal(spool)
    leftovers = [sealed.folder.with_name(name) for name in ("room.partial", "round-0006-a.sent.partial")]
    leftovers[0].write_bytes(b"0")
    leftovers[1].mkdir()
    assert spool.discard_unsealed() == []
    assert not any(path.exists() for path in leftovers)


def test_a_failure_while_writing_seals_nothing(spool):
    with pytest.raises(Exception, match="float32"):
        spool.seal(KEY, {"w": np.zeros(3)}, chunk_size=65_536, reservation="r", steps=(), engine_state=None)
    assert spool.find(KEY) is None
    assert spool.discard_unsealed() == []


@pytest.mark.parametrize("name", ["update.payload", "entry.json", "manifest.json"])
def test_a_damaged_entry_is_refused(spool, name):
    path = seal(spool).folder / name
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(IntegrityError):
        spool.find(KEY)


def test_an_entry_with_the_manifest_of_another_update_is_refused(spool):
    other = seal(spool, SpoolKey("derm", 8, "a" * 64), seed=1)
    folder = seal(spool).folder
    (folder / "manifest.json").write_bytes((other.folder / "manifest.json").read_bytes())
    with pytest.raises(IntegrityError, match="the manifest is not that of update"):
        spool.find(KEY)


def test_changed_bytes_are_not_given_out(spool):
    sealed = seal(spool)
    path = sealed.folder / "update.payload"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="do not match"):
        sealed.chunk(sealed.manifest.chunk_digests[0])


def test_a_chunk_of_another_update_is_not_there(spool):
    with pytest.raises(IntegrityError, match="no chunk"):
        seal(spool).chunk("c" * 64)


def test_a_removed_update_is_gone(spool):
    spool.remove(seal(spool))
    assert spool.find(KEY) is None
    assert spool.sealed("derm") == []
    assert spool.sealed("never-seen") == []


def test_a_crash_while_an_update_is_forgotten_leaves_no_half_of_it(spool, monkeypatch):
    sealed = seal(spool)

    def crash(folder):
        (folder / "manifest.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as crashing:
        crashing.setattr("adpfl_client.spool.shutil.rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            spool.remove(sealed)
    again = Spool(spool.folder)
    assert again.find(KEY) is None
    assert again.discard_unsealed() == []
    assert list((spool.folder / "derm").iterdir()) == []
