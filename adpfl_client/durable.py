"""Files that survive a power cut: written whole or not at all.

A rename replaces a name atomically, but only what has reached the disk before it is safe: the file is flushed
first and the folder that holds the name afterwards.

What is written here fails with the system's own `OSError`; the keepers of the files turn it into one line by
`storing`, which names what could not be stored.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from adpfl.errors import DiskUnwritableError, StorageError
from adpfl.security.private_files import PRIVATE_FILE_MODE, PRIVATE_FOLDER_MODE, make_folder, sync_folder

_PASSING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
PROBE_BYTES: Final = 64 * 2**10
PARTIAL_SUFFIX = ".partial"
"""Marks what was being written when a process died; never read as if it were whole."""


@contextmanager
def storing(what: str) -> Iterator[None]:
    """Turn a disk that refuses (full, read-only, failing) into one line; block or decorator.

    Args:
        what: what is stored, by its role: "the record of the run".

    Raises:
        DiskUnwritableError: the disk is full or read-only, which may pass.
        StorageError: names the role, the file and the system's reason.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise (DiskUnwritableError if may_pass(error) else StorageError)(
            f"{what}: the disk refuses: {error.strerror or error}{where}; nothing that needed it was sent, "
            "and what was reserved stays charged"
        ) from error


def may_pass(error: OSError) -> bool:
    """Whether a refusal of the disk may pass: it is full, or read-only."""
    return error.errno in _PASSING


def probe(folder: Path) -> None:
    """Write, sync and remove a small file.

    Raises:
        OSError: the disk refuses.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe.") as file:
        file.write(bytes(PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def room(path: Path, size: int) -> Iterator[None]:
    """Hold so many bytes of the disk for the block: what is written right after it finds room.

    Args:
        path: a file in an existing folder of the same disk; gone after the block. After a crash, and where
            the disk does not let it go, it is to be discarded by its suffix.
        size: in bytes.

    Raises:
        OSError: the disk has not so much room.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE_MODE)
    try:
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
        yield
    finally:
        # What the block did is done: a disk that has turned read-only meanwhile must not undo the word of it.
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def make_private_folder(path: Path) -> Path:
    """Create `path` and its parents where absent, durably, readable by the owner alone; returns `path`."""
    return make_folder(path, mode=PRIVATE_FOLDER_MODE)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears under its name, on the disk, only when the block ends without an exception.

    A file of that name is replaced in one step. A crash leaves the old file or the new one, and at most a
    `.partial` file beside it. The file is readable by the owner alone.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
    sync_folder(path.parent)


def put_in_place(written: Path, path: Path) -> None:
    """Let a written file take its name once its bytes are on the disk; a file of that name is replaced.

    Args:
        written: the file, on the same disk; gone where its bytes cannot be synced.
        path: its name from now on, in an existing folder.

    Raises:
        OSError: the disk refuses.
    """
    with written.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError:
            # What the disk did not take counts as written to the system from now on: memory would show it
            # whole, the next sync would succeed, and the disk would lack it.
            with suppress(OSError):
                written.unlink()
            raise
    written.replace(path)
    sync_folder(path.parent)
    if written.parent != path.parent:
        sync_folder(written.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write one file as `new_file` does."""
    with new_file(path) as file:
        file.write(data)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that appears under its name only when the block ends without an exception.

    Yields:
        The folder to write into. Files put there by `new_file` are already on the disk when the name appears.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    if partial.exists():
        shutil.rmtree(partial)
    make_private_folder(partial)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(partial)
    partial.rename(path)
    sync_folder(path.parent)


def discard_partials(folder: Path) -> list[Path]:
    """Remove what interrupted writes left directly under `folder`; returns what was removed."""
    if not folder.is_dir():
        return []
    leftovers = sorted(path for path in folder.iterdir() if path.name.endswith(PARTIAL_SUFFIX))
    for path in leftovers:
        remove(path)
    return leftovers


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
