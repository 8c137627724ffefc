"""Files written past the page cache hold what they should, wherever they are written."""

import errno
import os

import pytest

from adpfl_server.storage import direct_file
from adpfl_server.storage.direct_file import BLOCK_BYTES, BUFFER_BYTES, write_new

SIZES = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 2**20, BUFFER_BYTES, BUFFER_BYTES + BLOCK_BYTES]


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_the_bytes_are_in_the_file(tmp_path, size, direct):
    path, data = tmp_path / "chunk", os.urandom(size)
    write_new(str(path), memoryview(data), direct=direct)
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_system_without_direct_writes_is_written_in_the_ordinary_way(tmp_path, monkeypatch):
    original, flags = os.open, []

    def refuse(path, flag, mode):
        flags.append(flag)
        if flag & direct_file._DIRECT:
            raise OSError(errno.EINVAL, "no direct writes here")
        return original(path, flag, mode)

    monkeypatch.setattr(direct_file, "_DIRECT", 0o40000)
    monkeypatch.setattr(os, "open", refuse)
    write_new(str(tmp_path / "chunk"), bytes(BLOCK_BYTES), direct=True)
    assert [bool(flag & 0o40000) for flag in flags] == [True, False]
    assert (tmp_path / "chunk").stat().st_size == BLOCK_BYTES


def test_a_disk_that_refuses_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_new(str(tmp_path / "chunk"), bytes(BLOCK_BYTES), direct=True)
    assert list(tmp_path.iterdir()) == []
