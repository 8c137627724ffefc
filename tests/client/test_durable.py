"""Files and folders that are there whole or not at all."""

import stat

import pytest

from adpfl.errors import StorageError
from adpfl_client.durable import (
    discard_partials,
    make_private_folder,
    new_file,
    new_folder,
    storing,
    write_bytes,
)


def test_a_file_replaces_the_old_one_and_is_private(tmp_path):
    path = tmp_path / "record.json"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "record.json"
    write_bytes(path, b"old")
    with pytest.raises(TypeError), new_file(path) as file:
        file.writelines([b"half", "no bytes"])
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "entry"
    with pytest.raises(FileNotFoundError), new_folder(target) as folder:
        write_bytes(folder / "absent" / "one", b"1")
    assert not target.exists()
    with new_folder(target) as folder:
        write_bytes(folder / "one", b"1")
        assert not target.exists()
    assert (target / "one").read_bytes() == b"1"


def test_a_folder_left_by_a_crash_is_not_built_upon(tmp_path):
    crashed = tmp_path / "entry.partial"
    crashed.mkdir()
    (crashed / "stale").write_bytes(b"x")
    with new_folder(tmp_path / "entry") as folder:
        write_bytes(folder / "one", b"1")
    assert [entry.name for entry in (tmp_path / "entry").iterdir()] == ["one"]


def test_leftovers_are_removed_and_named(tmp_path):
    (tmp_path / "a.partial").write_bytes(b"")
    (tmp_path / "b.partial").mkdir()
    (tmp_path / "whole").write_bytes(b"")
    assert [path.name for path in discard_partials(tmp_path)] == ["a.partial", "b.partial"]
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert discard_partials(tmp_path / "absent") == []


def test_every_new_folder_on_the_way_is_private(tmp_path):
    made = make_private_folder(tmp_path / "one" / "two")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700


def test_a_disk_that_refuses_is_one_line_with_role_and_reason(tmp_path):
    words = "the record of the run: the disk refuses: No such file"
    with pytest.raises(StorageError, match=words) as refusal, storing("the record of the run"):
        write_bytes(tmp_path / "absent" / "record.json", b"x")
    assert "absent" in str(refusal.value)
    assert "\n" not in str(refusal.value)
