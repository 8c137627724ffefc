"""The blob folder: a name exists only with all of its bytes."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from adpfl.errors import IntegrityError
from adpfl_server.storage import blobs
from adpfl_server.storage.blobs import BlobFolder


def name_of(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def folder(tmp_path):
    return BlobFolder(tmp_path / "blobs")


def test_what_is_put_is_got(folder):
    folder.put(name_of(b"abc"), b"abc")
    folder.put(name_of(b"abc"), b"abc")
    assert folder.has(name_of(b"abc"))
    assert folder.get(name_of(b"abc")) == b"abc"


def test_bytes_under_another_name_are_not_stored(folder):
    with pytest.raises(IntegrityError):
        folder.put(name_of(b"abc"), b"abd")
    assert not folder.has(name_of(b"abc"))


def test_absent_and_damaged_chunks_are_found_out(folder, tmp_path):
    with pytest.raises(IntegrityError, match="is not stored"):
        folder.get(name_of(b"abc"))
    folder.put(name_of(b"abc"), b"abc")
    (path,) = (tmp_path / "blobs").glob("*/" + name_of(b"abc"))
    path.write_bytes(b"abd")
    with pytest.raises(IntegrityError, match="do not match"):
        folder.get(name_of(b"abc"))


def test_a_failed_write_leaves_no_name_and_no_litter(folder, tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blobs.os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        folder.put(name_of(b"abc"), b"abc")
    assert not folder.has(name_of(b"abc"))
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def test_the_file_is_flushed_before_it_gets_its_name(folder, tmp_path, monkeypatch):
    order = []
    real_fsync, real_rename = blobs.os.fsync, blobs.Path.rename
    monkeypatch.setattr(blobs.os, "fsync", lambda fd: (order.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(
        blobs.Path, "rename", lambda self, target: (order.append("rename"), real_rename(self, target))[1]
    )
    monkeypatch.setattr(blobs, "sync_folder", lambda _: order.append("folder"))
    folder.put(name_of(b"abc"), b"abc")
    assert order == ["fsync", "rename", "folder"]


def test_a_chunk_counts_as_stored_only_once_its_folder_is_synced(folder, monkeypatch):
    """Else another site that has the same chunk would be told that it is safe here."""
    seen = []
    monkeypatch.setattr(blobs, "sync_folder", lambda _: seen.append(folder.has(name_of(b"abc"))))
    folder.put(name_of(b"abc"), b"abc")
    assert seen == [False]
    assert folder.has(name_of(b"abc"))


def test_a_chunk_whose_folder_was_not_synced_is_asked_for_again(folder, lose_power, tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(5, "Input/output error")

    disk = lose_power(tmp_path / "blobs")
    with monkeypatch.context() as patch:
        patch.setattr(blobs, "sync_folder", refuse)
        with pytest.raises(OSError, match="Input/output"):
            folder.put(name_of(b"abc"), b"abc")
    assert not folder.has(name_of(b"abc"))
    folder.put(name_of(b"abc"), b"abc")
    assert folder.has(name_of(b"abc"))
    assert BlobFolder(disk.image(tmp_path / "after")).get(name_of(b"abc")) == b"abc"


def test_names_that_a_killed_server_had_not_synced_are_synced_by_the_next(
    folder, lose_power, tmp_path, monkeypatch
):
    disk = lose_power(tmp_path / "blobs")
    with monkeypatch.context() as patch:
        patch.setattr(blobs, "sync_folder", lambda _: None)
        folder.put(name_of(b"abc"), b"abc")
    following = BlobFolder(tmp_path / "blobs")
    following.sweep({name_of(b"abc")})
    assert following.has(name_of(b"abc"))
    assert BlobFolder(disk.image(tmp_path / "after")).has(name_of(b"abc"))


def test_a_sweep_keeps_what_it_is_told_and_clears_half_written_chunks(folder, tmp_path):
    for data in (b"one", b"two"):
        folder.put(name_of(data), data)
    (tmp_path / "blobs" / "incoming" / "tmp123").write_bytes(b"half")
    folder.sweep({name_of(b"one")})
    assert folder.has(name_of(b"one"))
    assert not folder.has(name_of(b"two"))
    assert list((tmp_path / "blobs" / "incoming").iterdir()) == []


def test_threads_may_store_the_same_chunk_at_once(folder):
    data = b"x" * 100_000
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: folder.put(name_of(data), data), range(64)))
    assert folder.get(name_of(data)) == data
