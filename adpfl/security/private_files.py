"""Files that hold secrets: private from the first byte, refused when open to others, never half-written.

Key material is created with mode 0600 by the very call that creates the file, so no other process can open it
between creation and a later `chmod`. Folders of several files appear at once, by a rename, after their bytes
are on disk.
"""

import os
import shutil
import stat
from pathlib import Path

from adpfl.errors import IdentityError

PRIVATE_FILE_MODE = 0o600
PRIVATE_FOLDER_MODE = 0o700
OTHERS = 0o077
"""The permission bits of group and others; a secret may have none of them."""

MAX_FILE_BYTES = 1 << 20
"""No key, certificate or bundle comes near this; anything larger is the wrong file."""


def read_private(path: Path) -> bytes:
    """Read a file that holds a secret, after checking on the open file that only its owner can.

    Raises:
        IdentityError: the file is absent, unreadable, no regular file, too large, or its mode gives group or
            others any right. The message names the path, the mode and the command that mends it.
    """
    return _read(path, secret=True)


def read_public(path: Path) -> bytes:
    """Read a file without secrets (a certificate) under the same limits, whatever its mode.

    Raises:
        IdentityError: the file is absent, unreadable, no regular file or too large.
    """
    return _read(path, secret=False)


def _read(path: Path, *, secret: bool) -> bytes:
    try:
        # O_NONBLOCK: opening a named pipe must not hang before the check refuses it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # Of the file that is read, not of whatever the path names a moment later.
            _check_status(path, os.fstat(descriptor), secret=secret)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_FILE_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise IdentityError(f"{path}: cannot be read: {error.strerror or error}") from error


def _check_status(path: Path, status: os.stat_result, *, secret: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise IdentityError(f"{path}: is not a regular file")
    mode = stat.S_IMODE(status.st_mode)
    if secret and mode & OTHERS:
        raise IdentityError(
            f"{path}: mode is {mode:04o}; a file that holds a secret must be closed to group and others; "
            f"mend it with: chmod 600 {path}"
        )
    if status.st_size > MAX_FILE_BYTES:
        raise IdentityError(f"{path}: holds {status.st_size} bytes; must be at most {MAX_FILE_BYTES}")


def write_new(path: Path, data: bytes, *, mode: int = PRIVATE_FILE_MODE) -> None:
    """Create a file with exactly this mode and these bytes, and see them onto the disk.

    Raises:
        IdentityError: the path exists (a key is never overwritten) or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # the umask may have taken bits away
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except FileExistsError as error:
        raise IdentityError(f"{path}: exists already; it is never overwritten") from error
    except OSError as error:
        raise IdentityError(f"{path}: cannot be written: {error.strerror or error}") from error


def replace_file(path: Path, data: bytes, *, mode: int = PRIVATE_FILE_MODE) -> None:
    """Put a file in place whole, old bytes or new bytes at any instant; an older file is replaced.

    Raises:
        IdentityError: the folder is absent or cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)  # left by a crash
        write_new(partial, data, mode=mode)
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise IdentityError(f"{path}: cannot be written: {error.strerror or error}") from error


def make_folder(path: Path, *, mode: int = PRIVATE_FOLDER_MODE) -> Path:
    """Create a folder and its parents where absent, so that their names survive a power cut; returns `path`.

    A file within a folder is not safe before the folder's own name is: syncing the file's folder does not
    sync that folder's entry in the one above.

    Raises:
        OSError: the disk refuses, or a file stands in the way.
    """
    if not path.is_dir():
        make_folder(path.parent, mode=mode)
        path.mkdir(mode=mode, exist_ok=True)
        sync_folder(path.parent)
    return path


def new_staging_folder(folder: Path) -> Path:
    """Make the empty private folder in which the content of `folder` is prepared.

    Parents are created as needed; what a crashed attempt left is cleared.

    Raises:
        IdentityError: the folder cannot be made.
    """
    staging = folder.with_name(f"{folder.name}.partial")
    try:
        make_folder(folder.parent)
        if staging.exists():
            shutil.rmtree(staging)
        staging.mkdir(mode=PRIVATE_FOLDER_MODE)
    except OSError as error:
        raise IdentityError(f"{staging}: cannot be made: {error.strerror or error}") from error
    return staging


def publish_folder(staging: Path, folder: Path) -> None:
    """Give a prepared folder its final name in one step, durably.

    Raises:
        IdentityError: `folder` exists and is not empty, or cannot be written. The staging folder stays.
    """
    try:
        sync_folder(staging)
        staging.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise IdentityError(f"{folder}: cannot be put in place: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a file or rename within it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
