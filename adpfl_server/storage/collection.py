"""What the server keeps on disk, and what it lets go: disk use is bounded however long a run is.

Kept are, of each run: the newest models and their averages (`keep_models` of the configuration), the state of
the server's optimizer while the run goes on, and the updates of the open round. A commit's row and receipt,
and the digest of each round's model, stay for good. Whoever reads models for longer than a moment, an export
for instance, holds them with `reading`; nothing is collected meanwhile.
"""

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from adpfl.errors import StateError
from adpfl.federated.run_state import RunState
from adpfl.kill_points import reach
from adpfl.wire.chunks import Manifest
from adpfl_server.storage.blobs import BlobFolder
from adpfl_server.storage.database import transaction

READING_LOCK: Final = "reading.lock"

_IN_USE: Final = """
    SELECT update_digest FROM offers
    UNION SELECT first_digest FROM server_moments
    UNION SELECT second_digest FROM server_moments
    UNION SELECT digest FROM run_models AS kept WHERE round >
        (SELECT max(round) FROM run_models AS newest WHERE newest.run = kept.run) - :models
    UNION SELECT digest FROM averaged_models AS kept WHERE round >
        (SELECT max(round) FROM run_models AS newest WHERE newest.run = kept.run) - :models
"""


@contextmanager
def reading(state_dir: Path) -> Iterator[None]:
    """Hold every stored object for the block; any number of processes may.

    Raises:
        StateError: the lock cannot be taken.
    """
    try:
        descriptor = _open_lock(state_dir)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno != errno.EROFS:  # from a disk that is read-only nothing can be collected anyway
            raise StateError(f"{state_dir / READING_LOCK}: cannot be locked: {error}") from error
        yield
        return
    try:
        yield
    finally:
        os.close(descriptor)


def collect(
    state_dir: Path,
    connection: sqlite3.Connection,
    blobs: BlobFolder,
    states: Mapping[str, RunState],
    *,
    keep_models: int,
) -> bool:
    """Let go of what no run needs any more; chunks that a kept object names stay.

    Args:
        state_dir: the server's state folder.
        connection: its database.
        blobs: its chunks.
        states: of every run in the database.
        keep_models: of each run.

    Returns:
        False where somebody is `reading`, and nothing was done.

    Raises:
        OSError: the disk refuses; what is left over is collected another time.
    """
    descriptor = _open_lock(state_dir)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        with transaction(connection):
            for run, state in states.items():
                _forget_past(connection, run, state)
            gone = _forget_objects(connection, keep_models)
        # The rows are gone first: a crash here leaves bytes that nothing names, never a name without bytes.
        reach("server.forgetting")
        if gone:
            for digest in gone - chunks_in_use(connection):
                blobs.drop(digest)
        return True
    finally:
        os.close(descriptor)


def drop_unnamed(connection: sqlite3.Connection, blobs: BlobFolder, manifest: Manifest) -> None:
    """Let go of an object's chunks that no stored object names.

    Raises:
        OSError: the disk refuses; the next start sweeps what is left over.
    """
    for digest in manifest.indices_of.keys() - chunks_in_use(connection):
        blobs.drop(digest)


def chunks_in_use(connection: sqlite3.Connection) -> set[str]:
    """Digests of all chunks that a stored object names."""
    rows = connection.execute("SELECT manifest_json FROM objects")
    return {
        digest for row in rows for digest in Manifest.from_canonical_json(row["manifest_json"]).chunk_digests
    }


def _forget_past(connection: sqlite3.Connection, run: str, state: RunState) -> None:
    """Let a run's past updates and moments go; all of them once nothing can count any more."""
    newest = state.rounds_closed
    key = (run, state.over, newest)
    connection.execute("DELETE FROM offers WHERE run = ? AND (? OR round <= ?)", key)
    connection.execute("DELETE FROM server_moments WHERE run = ? AND (? OR round < ?)", key)


def _forget_objects(connection: sqlite3.Connection, keep_models: int) -> set[str]:
    """Delete the rows of objects that nothing uses; returns the chunks that they name."""
    rows = connection.execute(
        f"DELETE FROM objects WHERE digest NOT IN ({_IN_USE}) RETURNING manifest_json",  # noqa: S608 - a constant
        {"models": keep_models},
    ).fetchall()
    return {
        digest for row in rows for digest in Manifest.from_canonical_json(row["manifest_json"]).chunk_digests
    }


def _open_lock(state_dir: Path) -> int:
    path, flags = state_dir / READING_LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            try:
                descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue  # another process has just made it
        if os.geteuid() == 0:  # a command run by root: the daemon must be able to use what it made
            owner = state_dir.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return descriptor
