"""The server's one SQLite database: connections that never lose a commit, and schemas brought up to date.

WAL so that readers do not wait, `synchronous=FULL` so that a commit is on disk before it is acknowledged,
foreign keys so that no row outlives what it speaks of. One file holds everything but bulk bytes; those are
content-addressed blobs.
"""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from adpfl.errors import StateError
from adpfl.security.private_files import make_folder, sync_folder
from adpfl_server.storage.schema import SCHEMA_VERSION, VERSIONS

BUSY_TIMEOUT_SECONDS = 30.0

RESTORE = "stop the server and restore its state folder from the backup (docs/operate.md, Backup and restore)"


def open_database(path: Path) -> sqlite3.Connection:
    """Open the database, making file and schema where absent, and bringing an older schema up to date.

    A database of an older schema is copied first, to `backup_path`. The connection may move between threads
    but must be used by one at a time. It is in autocommit mode: transactions are explicit, by `transaction`.

    Raises:
        StateError: the file is no database, damaged or of a newer schema version, or the disk refuses.
    """
    with _told_as_state_error(path):
        make_folder(path.parent)
        if not path.exists() or path.stat().st_size == 0:
            _require_no_history(path)
        path.touch(mode=0o600)
        connection = _connect(path)
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")
            found = _version(connection)
            if found < SCHEMA_VERSION:  # else nothing is locked: strangers cause openings too
                if found > 0:
                    _copy(connection, backup_path(path, found), found)
                with transaction(connection):
                    _bring_up_to_date(connection)
                sync_folder(path.parent)
            _require_known(path, _version(connection))
        except BaseException:
            connection.close()
            raise
    return connection


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a database that exists, to read and never to write: for a full or read-only disk too.

    Raises:
        StateError: it is absent, no database, damaged, of another schema version, or holds newer rows that
            this user cannot read.
    """
    with _told_as_state_error(path):
        if not path.is_file():
            raise StateError(f"{path}: there is none yet; start adpfl-server first")
        connection = _connect(path, "mode=ro")
        try:
            found = _version(connection)
        except sqlite3.OperationalError:
            # SQLite shares a file beside the database with writers. Where it can be neither opened nor made,
            # nobody writes; but what a writer left there is not in the database yet.
            connection.close()
            _require_no_leftovers(path)
            connection = _connect(path, "mode=ro&immutable=1")
            found = _version(connection)
        try:
            _require_known(path, found, least=SCHEMA_VERSION)
        except BaseException:
            connection.close()
            raise
    return connection


def require_sound(connection: sqlite3.Connection, path: Path) -> None:
    """Read the whole database and refuse one that is damaged; takes a second for each few hundred MB.

    Raises:
        StateError: it is damaged; the message says what to do.
    """
    with _told_as_state_error(path):
        found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    if found != "ok":
        raise StateError(f"{path}: is damaged ({' '.join(found.split())[:200]}); {RESTORE}")


def backup_path(path: Path, version: int) -> Path:
    """Where the database is copied to before its schema is changed from this version."""
    return path.with_name(f"{path.name}.version-{version}")


def _connect(path: Path, parameters: str = "mode=rw") -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{parameters}",
        timeout=BUSY_TIMEOUT_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )
    connection.row_factory = sqlite3.Row
    return connection


@contextmanager
def _told_as_state_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise StateError(f"{path}: is damaged, or no database ({error}); {RESTORE}") from error
        raise StateError(f"{path}: cannot be opened as the server's database: {error}") from error
    except UnicodeDecodeError as error:  # SQLite quotes what it finds, and Python cannot read the quotation
        raise StateError(f"{path}: is damaged, or no database; {RESTORE}") from error
    except OSError as error:
        reason = error.strerror or error
        raise StateError(f"{path}: cannot be opened as the server's database: {reason}") from error


def _require_no_history(path: Path) -> None:
    """Refuse to begin anew where a server has worked before: the new database would disown its chunks."""
    traces = (*path.parent.glob("blobs/??/*"), *path.parent.glob("runs/*/run.json"))
    if traces:
        state = "is empty" if path.exists() else "is missing"
        trace = min(traces).relative_to(path.parent)
        raise StateError(f"{path}: {state}, but {trace} is of an earlier server; {RESTORE}")


def _require_no_leftovers(path: Path) -> None:
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size > 0:
        raise StateError(
            f"{path}: newer rows stand in {log.name}, which this user cannot read or this disk not serve; "
            "run the command as the server's user"
        )


def _require_known(path: Path, version: int, *, least: int = 0) -> None:
    if version < least:
        raise StateError(
            f"{path}: has schema version {version}; start adpfl-server, which brings it to version {least}"
        )
    if version > SCHEMA_VERSION:
        raise StateError(
            f"{path}: has schema version {version}, and this program knows version {SCHEMA_VERSION} at most; "
            "install the newer program again, or restore the backup that was made before the upgrade"
        )


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def discard_half_copies(path: Path) -> None:
    """Remove what a crash left of copies that were being made before a change of schema.

    Raises:
        OSError: the disk refuses.
    """
    for leftover in path.parent.glob(f".{path.name}.version-*"):
        leftover.unlink(missing_ok=True)


def _copy(connection: sqlite3.Connection, target: Path, version: int) -> None:
    """Copy a database of this version, durably and whole under its name; an older copy is replaced.

    Raises:
        OSError, sqlite3.Error: the disk refuses.
    """
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    partial = Path(name)
    try:
        with closing(sqlite3.connect(partial)) as copy:
            connection.backup(copy)
            # One file that stands by itself: the copy of a database in WAL mode says that it is in it, too.
            copy.execute("PRAGMA journal_mode=DELETE")
            if _version(copy) != version:
                return  # another process has brought it up to date meanwhile, and made the copy
        os.fsync(descriptor)
        partial.replace(target)
    finally:
        os.close(descriptor)
        partial.unlink(missing_ok=True)
    sync_folder(target.parent)


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    found = _version(connection)  # looked up again: another process may have done it
    if found >= SCHEMA_VERSION:
        return
    for statements in VERSIONS[found:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing: commits, durably, when the block ends; rolls back when it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may end the transaction by itself, or leave it open when the commit fails.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
