import os
import stat

import pytest

from adpfl.errors import IdentityError
from adpfl.security.private_files import (
    MAX_FILE_BYTES,
    new_staging_folder,
    publish_folder,
    read_private,
    read_public,
    replace_file,
    write_new,
)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o777])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_new_file_is_private_whatever_the_umask(tmp_path, umask):
    write_new(tmp_path / "key", b"secret")
    assert mode_of(tmp_path / "key") == 0o600
    assert read_private(tmp_path / "key") == b"secret"


def test_a_file_is_private_before_its_first_byte(tmp_path, monkeypatch):
    seen = []
    real = os.fchmod

    def watched(descriptor, mode):
        seen.append((stat.S_IMODE(os.fstat(descriptor).st_mode), os.fstat(descriptor).st_size))
        real(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", watched)
    before = os.umask(0)
    try:
        write_new(tmp_path / "key", b"secret")
    finally:
        os.umask(before)
    assert seen == [(0o600, 0)]


def test_a_file_is_never_overwritten(tmp_path):
    write_new(tmp_path / "key", b"old")
    with pytest.raises(IdentityError, match="exists already"):
        write_new(tmp_path / "key", b"new")
    assert read_private(tmp_path / "key") == b"old"


def test_a_link_in_the_way_is_not_followed(tmp_path):
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IdentityError):
        write_new(tmp_path / "key", b"secret")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666])
def test_a_secret_open_to_others_is_refused_with_the_mend(tmp_path, mode):
    path = tmp_path / "key"
    write_new(path, b"secret")
    path.chmod(mode)
    with pytest.raises(IdentityError) as refusal:
        read_private(path)
    assert str(refusal.value) == (
        f"{path}: mode is {mode:04o}; a file that holds a secret must be closed to group and others; "
        f"mend it with: chmod 600 {path}"
    )
    path.chmod(0o600)
    assert read_private(path) == b"secret"


def test_a_link_to_an_open_secret_is_refused(tmp_path):
    write_new(tmp_path / "key", b"secret", mode=0o644)
    (tmp_path / "link").symlink_to(tmp_path / "key")
    with pytest.raises(IdentityError, match="0644"):
        read_private(tmp_path / "link")


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_closed_secret_is_read(tmp_path, mode):
    write_new(tmp_path / "key", b"secret", mode=mode)
    assert read_private(tmp_path / "key") == b"secret"


def test_a_public_file_may_have_any_mode(tmp_path):
    write_new(tmp_path / "ca.pem", b"certificate", mode=0o644)
    assert read_public(tmp_path / "ca.pem") == b"certificate"


@pytest.mark.parametrize("read", [read_private, read_public])
def test_what_is_no_file_is_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(IdentityError, match="not a regular file"):
        read(tmp_path / "pipe")
    with pytest.raises(IdentityError, match="No such file"):
        read(tmp_path / "absent")
    with pytest.raises(IdentityError, match="not a regular file"):
        read(tmp_path)


def test_an_oversized_file_is_refused(tmp_path):
    write_new(tmp_path / "key", b"x" * (MAX_FILE_BYTES + 1))
    with pytest.raises(IdentityError, match=f"at most {MAX_FILE_BYTES}"):
        read_private(tmp_path / "key")


def test_replace_file_clears_a_crashed_attempt_and_stays_private(tmp_path):
    path = tmp_path / "bundle.json"
    (tmp_path / ".bundle.json.partial").write_bytes(b"half")
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert read_private(path) == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle.json"]


def test_replace_file_says_what_cannot_be_written(tmp_path):
    with pytest.raises(IdentityError, match=r"absent/.*bundle\.json.*: cannot be written: No such file"):
        replace_file(tmp_path / "absent" / "bundle.json", b"one")


def test_a_folder_appears_whole_and_once(tmp_path):
    folder = tmp_path / "deep" / "pki"
    staging = new_staging_folder(folder)
    write_new(staging / "half", b"left by a crash")
    staging = new_staging_folder(folder)
    assert list(staging.iterdir()) == []
    assert mode_of(staging) == 0o700
    write_new(staging / "key", b"secret")
    assert not folder.exists()
    publish_folder(staging, folder)
    assert [entry.name for entry in folder.iterdir()] == ["key"]
    assert not staging.exists()

    second = new_staging_folder(folder)
    write_new(second / "other", b"secret")
    with pytest.raises(IdentityError, match="cannot be put in place"):
        publish_folder(second, folder)
    assert [entry.name for entry in folder.iterdir()] == ["key"]
