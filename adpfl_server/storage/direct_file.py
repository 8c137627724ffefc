"""Whole files written past the page cache.

A chunk of an update is written once and read once, seconds or hours later. Through the page cache it would
be copied again, would push out what is worth keeping, and would leave the disk idle until the sync; directly
it goes from our buffer to the disk, and the sync that follows has little left to do. Where the file system or
the system cannot do that, or the size is no whole number of blocks, the file is written in the ordinary way.
"""

import errno
import mmap
import os
import threading
from typing import Final

BLOCK_BYTES: Final = 4096
"""Direct writes begin and end at multiples of the largest block that disks in use have."""
BUFFER_BYTES: Final = 4 * 2**20
"""One in each thread that writes: memory must be aligned as the file is, and messages are not."""

_DIRECT: Final = getattr(os, "O_DIRECT", 0)
_buffers = threading.local()


def write_new(path: str, data: bytes | memoryview, *, direct: bool) -> None:
    """Make a file with these bytes, readable by the owner alone; not yet durable.

    Args:
        path: its name.
        data: its bytes; at once all of it.
        direct: past the page cache, where that can be done.

    Raises:
        FileExistsError: there is such a file.
        OSError: the disk refuses; what was made is removed.
    """
    fits = 0 < len(data) <= BUFFER_BYTES and len(data) % BLOCK_BYTES == 0
    flag = _DIRECT if direct and fits else 0
    try:
        _write(path, _aligned(data) if flag else memoryview(data), flag)
    except OSError as error:
        if not flag or error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
        _write(path, memoryview(data), 0)


def _write(path: str, data: memoryview, direct: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | direct, 0o600)
    try:
        left = data
        while left:
            left = left[os.write(descriptor, left) :]
    except BaseException:
        os.unlink(path)  # noqa: PTH108 - a plain name: this runs for every chunk
        raise
    finally:
        os.close(descriptor)


def _aligned(data: bytes | memoryview) -> memoryview:
    """The same bytes in this thread's aligned buffer."""
    buffer: memoryview | None = getattr(_buffers, "view", None)
    if buffer is None:
        buffer = _buffers.view = memoryview(mmap.mmap(-1, BUFFER_BYTES))  # pages are aligned
    buffer[: len(data)] = data
    return buffer[: len(data)]
