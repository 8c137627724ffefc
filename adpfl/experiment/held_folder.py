"""A command's output folder, held against a second command for as long as the first one runs."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adpfl.errors import ConfigError


@contextmanager
def held(root: Path, *, marker: str, text: str, other: str) -> Iterator[bool]:
    """Make the folder and hold it by a lock on its marker; the lock ends with the process.

    Args:
        root: the folder; the caller has seen that it may be taken.
        marker: name of the file that says whose folder it is.
        text: what the file says.
        other: who else could hold it, for the message.

    Yields:
        Whether the folder was there before.

    Raises:
        ConfigError: another holds it, or the disk refuses, here or within the block.
    """
    existed = root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / marker).open("a", encoding="utf-8") as file:
            _lock(file.fileno(), root, other)
            file.truncate(0)
            file.write(text)
            file.flush()
            yield existed
    except OSError as error:
        if error.filename is None:
            raise
        raise ConfigError(f"--output is {root}: {error.filename}: {error.strerror or error}") from error


def _lock(descriptor: int, root: Path, other: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"--output is {root}; another {other} is using it") from error
