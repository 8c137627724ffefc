"""The site's ledger on disk: one append-only SQLite table, its key and its remembered head beside it.

Files in the state folder, all readable by their owner alone:

- `ledger.sqlite`: the entries. Nothing in it is ever updated or deleted.
- `ledger.key`: 32 bytes; chains the entries and makes the patients' fingerprints. Back it up apart from the
  database.
- `ledger.head`: the newest entry's MAC as of the last append; a shorter or older database does not hold it.

Every append is one transaction that is on the disk before the call returns. Several processes may open the
same ledger: an append takes the database's write lock and reads what others appended first. The rules are
`adpfl.privacy.ledger`'s.
"""

import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from adpfl.errors import BudgetError, IdentityError, IntegrityError, PrivacyError
from adpfl.privacy.ledger import LedgerBook, LedgerPolicy, NewEntry, Reservation, SpendRequest, Spent
from adpfl.privacy.ledger_chain import (
    GENESIS,
    KEY_BYTES,
    Entry,
    canonical,
    fingerprint,
    link,
    verify_chain,
)
from adpfl_client.durable import make_private_folder, write_bytes

DATABASE_NAME: Final = "ledger.sqlite"
KEY_NAME: Final = "ledger.key"
HEAD_NAME: Final = "ledger.head"

_LOCK_WAIT_SECONDS: Final = 30.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (
    sequence INTEGER PRIMARY KEY,
    at_millis INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    mac BLOB NOT NULL
) STRICT
"""


@dataclass(frozen=True)
class Verification:
    """The chain holds: this many entries, up to this head."""

    entries: int
    head: bytes


class LedgerStore:
    """What this site has spent, for good.

    Open with `open`, close with `close` or a `with` block. Every method that appends takes the time as
    `now`, in Unix seconds, and refuses a clock that ran backwards more than five minutes.
    """

    def __init__(self, connection: sqlite3.Connection, key: bytes, head_path: Path) -> None:
        self._connection = connection
        self._key = key
        self._head_path = head_path
        self._lock = threading.RLock()
        self._book = LedgerBook()
        self._entry_count = 0
        self._head = GENESIS

    @classmethod
    def open(cls, state_dir: Path, now: float) -> Self:
        """Open the ledger of a state folder, making it where there is none, and verify it whole.

        Args:
            state_dir: the site's state folder.
            now: Unix time in seconds, for the first entry of a new ledger.

        Raises:
            IntegrityError: an entry was changed, deleted, added or moved, the tail was cut off, an old copy
                was put back, or one of the files is missing beside the others.
            IdentityError: the key file is readable by others, or is no key.
            PrivacyError: the files cannot be read or written, or are no ledger.
        """
        make_private_folder(state_dir)
        database, key_path, head_path = (state_dir / name for name in (DATABASE_NAME, KEY_NAME, HEAD_NAME))
        fresh = _is_fresh(database, key_path, head_path)
        with _storage(f"{database}: the ledger cannot be opened"):
            if fresh and not key_path.exists():
                write_bytes(key_path, os.urandom(KEY_BYTES))
            key = _read_key(key_path)
            connection = _connect(database)
        store = cls(connection, key, head_path)
        try:
            with _storage(f"{database}: the ledger cannot be read"):
                if fresh:
                    connection.execute(_SCHEMA)
                    store._append(lambda _: [] if store._entry_count else [("opened", {"schema": 1})], now)
                    store._remember_head()
                store.verify()
        except BaseException:
            connection.close()
            raise
        return store

    def reserve(self, request: SpendRequest, policy: LedgerPolicy, *, now: float) -> Reservation:
        """Charge one attempt at one round, durably, before any noised byte of it exists.

        An earlier attempt at the round that was never sealed is abandoned and stays charged.

        Raises:
            BudgetError: the policy, the cap, the clock or the disk refuses; nothing was spent.
            StateError: the round is sealed already: its bytes are to be sent again.
            PrivacyError: the request contradicts itself.
        """
        fingerprints = {fingerprint(self._key, patient) for patient in request.patients}
        reservation_id = ""

        def decide(book: LedgerBook) -> list[NewEntry]:
            nonlocal reservation_id
            reservation_id, entries = book.plan_reservation(request, policy, fingerprints)
            return entries

        with _storage(
            "the ledger cannot be written", error_class=BudgetError, consequence="nothing may be released"
        ):
            self._append(decide, now)
        return self._book.reservations[reservation_id]

    def seal(self, reservation_id: str, update_digest: str, *, now: float) -> None:
        """Bind a reservation to the bytes that may be sent for it, once.

        Args:
            reservation_id: from `reserve`.
            update_digest: SHA-256 of the update, hexadecimal; the same one again changes nothing.
            now: Unix time in seconds.

        Raises:
            StateError: the reservation is unknown, abandoned, or bound to other bytes.
            BudgetError: the clock ran backwards.
        """
        with _storage("the ledger cannot be written"):
            self._append(lambda book: book.plan_seal(reservation_id, update_digest), now)

    def commit(self, reservation_id: str, receipt_json: str, *, now: float) -> None:
        """Record the server's receipt for sealed bytes; the same one again changes nothing.

        Raises:
            StateError: the reservation is unknown, not sealed, or has another receipt.
            BudgetError: the clock ran backwards.
        """
        with _storage("the ledger cannot be written"):
            self._append(lambda book: book.plan_commit(reservation_id, receipt_json), now)

    def abandon(self, reservation_id: str, reason: str, *, now: float) -> None:
        """Give up, on the record, on a reservation whose bytes are lost; it stays charged.

        Raises:
            StateError: the reservation is unknown or committed.
            BudgetError: the clock ran backwards.
        """
        with _storage("the ledger cannot be written"):
            self._append(lambda book: book.plan_abandon(reservation_id, reason), now)

    def acknowledge_clock(self, *, by: str, reason: str, now: float) -> None:
        """Accept, on the record, a clock that ran backwards: later times count from `now` on."""
        body = {"by": by, "reason": reason}
        with _storage("the ledger cannot be written"):
            self._append(lambda _: [("clock_acknowledged", body)], now, any_clock=True)

    def reservations(self, run: str | None = None) -> tuple[Reservation, ...]:
        """Every reservation, oldest first; of one run where `run` is given."""
        self._catch_up()
        return tuple(self._book.reservations.values() if run is None else self._book.of_run(run))

    def spent(self, data_set_id: str, *, delta: float) -> Spent:
        """What a data set, with every set that shares a patient with it, has spent over all runs."""
        self._catch_up()
        return self._book.spent(data_set_id, delta=delta)

    def head(self) -> bytes:
        """The 32-byte MAC of the newest entry: what a push carries and the server's receipt returns."""
        self._catch_up()
        return self._head

    def verify(self, remembered_head: bytes | None = None) -> Verification:
        """Recompute the whole chain and compare it with the head remembered beside the key.

        Args:
            remembered_head: another head that must stand in the chain, from a server's receipt.

        Raises:
            IntegrityError: it does not hold; the message names the first entry that does not fit.
        """
        # The remembered head is read first: another process may append between the two reads.
        remembered = [head for head in (self._remembered_head(), remembered_head) if head is not None]
        with self._lock:
            entries = self._read_entries(after=0)
            head = verify_chain(entries, self._key, remembered_heads=remembered)
            self._book, self._entry_count, self._head = LedgerBook(), 0, GENESIS
            self._take(entries)
        return Verification(entries=len(entries), head=head)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(
        self, decide: Callable[[LedgerBook], Sequence[NewEntry]], now: float, *, any_clock: bool = False
    ) -> None:
        """Decide and write under the write lock, so that two processes never decide on the same state."""
        with self._lock:
            self._append_locked(decide, round(now * 1000.0), any_clock=any_clock)

    def _append_locked(
        self, decide: Callable[[LedgerBook], Sequence[NewEntry]], at_millis: int, *, any_clock: bool
    ) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._catch_up()
            if not any_clock:
                self._book.require_clock(at_millis)
            new: list[Entry] = []
            head = self._head
            for sequence, (kind, body) in enumerate(decide(self._book), start=self._entry_count + 1):
                entry = link(
                    self._key, head, sequence=sequence, at_millis=at_millis, kind=kind, body=canonical(body)
                )
                new.append(entry)
                head = entry.mac
            self._connection.executemany(
                "INSERT INTO entries (sequence, at_millis, kind, body, mac) VALUES (?, ?, ?, ?, ?)",
                [(entry.sequence, entry.at_millis, entry.kind, entry.body, entry.mac) for entry in new],
            )
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._take(new)
        if new:
            self._remember_head()

    def _catch_up(self) -> None:
        """Take what another process appended since; its MACs must continue the chain."""
        with self._lock:
            self._catch_up_locked()

    def _catch_up_locked(self) -> None:
        entries = self._read_entries(after=self._entry_count)
        previous = self._head
        for number, entry in enumerate(entries, start=self._entry_count + 1):
            expected = link(
                self._key,
                previous,
                sequence=number,
                at_millis=entry.at_millis,
                kind=entry.kind,
                body=entry.body,
            )
            if expected != entry:
                raise IntegrityError(
                    f"ledger entry {number} ({entry.kind}) does not match its MAC: it was changed or moved"
                )
            previous = entry.mac
        self._take(entries)

    def _take(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._book.apply(entry)
            self._entry_count, self._head = entry.sequence, entry.mac

    def _read_entries(self, *, after: int) -> list[Entry]:
        rows = self._connection.execute(
            "SELECT sequence, at_millis, kind, body, mac FROM entries WHERE sequence > ? ORDER BY sequence",
            (after,),
        )
        return [Entry(*row) for row in rows]

    def _remember_head(self) -> None:
        write_bytes(self._head_path, self._head.hex().encode() + b"\n")

    def _remembered_head(self) -> bytes | None:
        if not self._head_path.exists():
            return None
        try:
            return bytes.fromhex(self._head_path.read_text(encoding="ascii").strip())
        except ValueError as error:
            raise IntegrityError(f"{self._head_path}: is not a ledger head; it was changed") from error


def _is_fresh(database: Path, key_path: Path, head_path: Path) -> bool:
    """Whether a ledger is to be made here: nothing stands, or a crash cut its making short.

    Raises:
        IntegrityError: some of the files of a finished ledger are gone.
    """
    if not head_path.exists():
        # The head is written last. Before it exists, only the opening entry can.
        if database.exists() and not key_path.exists():
            raise IntegrityError(
                f"{key_path}: is missing beside {database.name}; without it nothing can be verified"
            )
        if database.exists() and _entry_count(database) > 1:
            raise IntegrityError(f"{head_path}: is missing beside a ledger with entries; it was removed")
        return True
    for path in (database, key_path):
        if not path.exists():
            raise IntegrityError(f"{path}: is missing, but {head_path.name} remembers a ledger; restore it")
    return False


def _entry_count(database: Path) -> int:
    with _storage(f"{database}: the ledger cannot be read"):
        connection = _connect(database)
        try:
            found = connection.execute("SELECT name FROM sqlite_schema WHERE name = 'entries'").fetchone()
            return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0]) if found else 0
        finally:
            connection.close()


def _connect(database: Path) -> sqlite3.Connection:
    descriptor = os.open(database, os.O_RDWR | os.O_CREAT, 0o600)
    os.close(descriptor)
    connection = sqlite3.connect(
        database, timeout=_LOCK_WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )
    # One file and no write-ahead log: what is committed is in it. EXTRA is FULL plus the folder's own sync.
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA synchronous = EXTRA")
    return connection


def _read_key(path: Path) -> bytes:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise IdentityError(f"{path}: has mode {mode:04o}; must be readable by its owner alone (0600)")
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise IdentityError(f"{path}: has {len(key)} bytes; a ledger key has {KEY_BYTES}")
    return key


@contextmanager
def _storage(
    what: str, *, error_class: type[PrivacyError] = PrivacyError, consequence: str | None = None
) -> Iterator[None]:
    """Turn a failing disk or database into one line: disk full, lock held too long, no database at all."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        ending = f"; {consequence}" if consequence else ""
        raise error_class(f"{what}: {error}{ending}") from error
