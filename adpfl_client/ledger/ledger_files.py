"""The ledger's files: how they come to be, who may use them at a time, and what their absence means.

They are made in the order head (naming no entry yet), key, database, opening entry, head. So a half-made
ledger always has a head that names no entry, and any other gap means that somebody removed a file.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adpfl.errors import DiskUnwritableError, IdentityError, IntegrityError, StorageError
from adpfl.privacy.ledger_chain import GENESIS, KEY_BYTES, Entry
from adpfl.security.private_files import PRIVATE_FILE_MODE, read_private
from adpfl_client.durable import may_pass, new_file, write_bytes

DATABASE_NAME: Final = "ledger.sqlite"
KEY_NAME: Final = "ledger.key"
HEAD_NAME: Final = "ledger.head"
RECEIPT_NAME: Final = "ledger.receipt"
"""The server's newest receipt, which names a head that the ledger must contain."""

RECORDED_RUNS: Final = "runs"
"""The folder in which the agent keeps the records of its runs, one folder each."""

LOCK_WAIT_SECONDS: Final = 30.0
_LOCK_POLL_SECONDS: Final = 0.02

_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNWRITABLE: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
)

_TABLE: Final = """CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY,
    at_millis INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    mac BLOB NOT NULL
) STRICT"""


@dataclass(frozen=True)
class LedgerFiles:
    """The files of one state folder."""

    folder: Path

    @property
    def database(self) -> Path:
        """The entries."""
        return self.folder / DATABASE_NAME

    @property
    def key(self) -> Path:
        """What chains them."""
        return self.folder / KEY_NAME

    @property
    def head(self) -> Path:
        """The newest entry's MAC as of the last append."""
        return self.folder / HEAD_NAME

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other process and opening out: of the making, and of an append with its head.

        Raises:
            OSError: another holds it for too long.
        """
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def begin(self) -> bool:
        """Make key and database where there are none; returns whether the opening entry is still to come.

        Raises:
            IntegrityError: some of the files are gone beside the others.
        """
        if not self.head.exists():
            for path in (self.database, self.key):
                if path.exists():
                    raise IntegrityError(f"{self.head}: is missing beside {path.name}; it was removed")
            self._require_no_history()
            self.remember(GENESIS)
        if self.remembered_head() != GENESIS:
            for path in (self.database, self.key):
                if not path.exists():
                    raise IntegrityError(
                        f"{path}: is missing, but {HEAD_NAME} remembers a ledger; restore it from the backup"
                    )
            return False
        self._require_no_history()
        if not self.key.exists():
            if self.database.exists():
                raise IntegrityError(f"{self.key}: is missing beside {DATABASE_NAME}; it was removed")
            write_bytes(self.key, os.urandom(KEY_BYTES))
        return True

    def _require_no_history(self) -> None:
        """Refuse to begin anew where runs have left records: a run is recorded after the ledger was made."""
        recorded = _traces_of_spending(self.folder)
        if recorded:
            trace = recorded[0].relative_to(self.folder)
            raise IntegrityError(
                f"{self.head}: names no entry, but {trace} is the record of an earlier run; the ledger was "
                "removed: restore it from the backup"
            )

    def read_key(self) -> bytes:
        """The chain's key.

        Raises:
            IdentityError: the file is readable by others, or is no key.
        """
        key = read_private(self.key)
        if len(key) != KEY_BYTES:
            raise IdentityError(f"{self.key}: has {len(key)} bytes; a ledger key has {KEY_BYTES}")
        return key

    def remembered_head(self) -> bytes:
        """The head as of the last append; `GENESIS` while the ledger is being made.

        Raises:
            IntegrityError: the file is gone or holds no head.
        """
        try:
            head = bytes.fromhex(self.head.read_text(encoding="ascii").strip())
        except FileNotFoundError as error:
            raise IntegrityError(f"{self.head}: is missing; it was removed") from error
        except ValueError as error:
            raise IntegrityError(f"{self.head}: is not a ledger head; it was changed") from error
        if len(head) != len(GENESIS):
            raise IntegrityError(f"{self.head}: is not a ledger head; it was changed")
        return head

    @contextmanager
    def remembering(self, head: bytes) -> Iterator[None]:
        """Put a new head on the disk before the block and under its name after it.

        The block commits the entries. A disk that is full fails before it, so nothing is spent then; a crash
        after it leaves a head that is one append behind, which the chain still holds.

        Raises:
            OSError: the disk refuses before the block; nothing was spent.
            StorageError: it refuses after the block, or the block's commit fails halfway. The entries stand,
                or may stand: whoever waited for the disk and asked again would spend again.
        """
        begun = False
        try:
            with new_file(self.head) as file:
                file.write(_head_line(head))
                file.flush()
                os.fsync(file.fileno())
                begun = True
                yield
        except OSError as error:
            if not begun:
                raise
            raise StorageError(
                f"{self.head}: cannot be renewed: {error}; what was appended stands"
            ) from error
        except sqlite3.Error as error:
            if _code(error) != sqlite3.SQLITE_IOERR:
                raise  # a full disk is found before anything is final, and the transaction is undone
            raise StorageError(f"{self.database}: an append may have been kept: {error}") from error

    def remember(self, head: bytes) -> None:
        """Put a head under its name at once; no entry depends on it.

        Raises:
            OSError: the disk refuses.
        """
        write_bytes(self.head, _head_line(head))

    def connect(self) -> sqlite3.Connection:
        """Open the database, making its one table where there is none.

        Raises:
            IntegrityError: it holds anything else than that table.
        """
        if not self.database.exists():
            # Never open and close a database that is in use: closing drops this process's locks on it.
            os.close(os.open(self.database, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE_FILE_MODE))
        connection = sqlite3.connect(
            self.database, timeout=LOCK_WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            # One file, no write-ahead log: what is committed is in it. EXTRA is FULL plus the folder's sync.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = EXTRA")
            if self.remembered_head() == GENESIS and not _schema(connection):
                connection.execute(_TABLE)
            require_schema(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def require_schema(connection: sqlite3.Connection) -> None:
    """Refuse a database that has more than the ledger's one table, such as a trigger that undoes inserts.

    Raises:
        IntegrityError: it does, or the table was made anew in another form.
    """
    if _schema(connection) != [("table", "entries", _TABLE)]:
        raise IntegrityError(
            "the ledger's database has another structure than the ledger made; it was changed"
        )


def read_entries(connection: sqlite3.Connection, *, first: int) -> list[Entry]:
    """Entries from number `first` on, in order.

    Raises:
        IntegrityError: a row is not of the ledger's form.
    """
    rows = connection.execute(
        "SELECT sequence, at_millis, kind, body, mac FROM entries WHERE sequence >= ? ORDER BY sequence",
        (first,),
    ).fetchall()
    for row in rows:
        if tuple(type(value) for value in row) != (int, int, str, str, bytes):
            raise IntegrityError(f"ledger entry {row[0]} is not of the ledger's form; it was changed")
    return [Entry(*row) for row in rows]


def insert_entries(connection: sqlite3.Connection, entries: list[Entry]) -> None:
    """Append entries within the transaction under way."""
    connection.executemany(
        "INSERT INTO entries (sequence, at_millis, kind, body, mac) VALUES (?, ?, ?, ?, ?)",
        [(entry.sequence, entry.at_millis, entry.kind, entry.body, entry.mac) for entry in entries],
    )


@contextmanager
def storage(what: str) -> Iterator[None]:
    """Turn a failing disk or database into one line.

    Raises:
        DiskUnwritableError: the disk is full or read-only, which may pass.
        StorageError: it fails otherwise, or the lock is held too long.
        IntegrityError: the file is no database, or a damaged one.
    """
    try:
        yield
    except OSError as error:
        raise (DiskUnwritableError if may_pass(error) else StorageError)(f"{what}: {error}") from error
    except sqlite3.Error as error:
        code = _code(error)
        if code in _DAMAGED:
            raise IntegrityError(f"{what}: {error}") from error
        raise (DiskUnwritableError if code in _UNWRITABLE else StorageError)(f"{what}: {error}") from error
    except UnicodeDecodeError as error:  # SQLite quotes what it finds, and Python cannot read the quotation
        raise IntegrityError(f"{what}: the file is damaged") from error


def _code(error: sqlite3.Error) -> int:
    """The primary result code of SQLite; 0 where the error is Python's own."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def has_traces(folder: Path) -> bool:
    """Whether a state folder holds anything that a ledger, or a run that it paid for, leaves behind.

    Only where there is nothing may it be said that nothing was spent.
    """
    files = (folder / name for name in (DATABASE_NAME, KEY_NAME, HEAD_NAME))
    return any(path.exists() for path in files) or bool(_traces_of_spending(folder))


def _traces_of_spending(folder: Path) -> list[Path]:
    receipt = folder / RECEIPT_NAME
    return [*sorted(folder.glob(f"{RECORDED_RUNS}/*")), *([receipt] if receipt.exists() else [])]


def _schema(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    return connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()


def _lock(descriptor: int) -> None:
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOCK_POLL_SECONDS)
        else:
            return


def _head_line(head: bytes) -> bytes:
    return head.hex().encode() + b"\n"
