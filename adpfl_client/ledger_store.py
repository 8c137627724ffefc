"""The site's ledger on disk: one append-only SQLite table, its key and its remembered head beside it.

Files in the state folder, all readable by their owner alone:

- `ledger.sqlite`: the entries. Nothing in it is ever updated or deleted.
- `ledger.key`: 32 bytes; chains the entries and makes the patients' fingerprints. Back it up apart from the
  database.
- `ledger.head`: the newest entry's MAC as of the last append; a shorter or older database does not hold it.

Every append is one transaction that is on the disk before the call returns. Several processes may open the
same ledger: an append takes the ledger's lock and reads what others appended first. The rules are
`adpfl.privacy.ledger`'s.

What this cannot see is all three files replaced together by an older copy of all three. The server's signed
receipts can: each carries the head of its time, and `verify` takes such a head. The newest is kept in
`ledger.receipt` (`adpfl_client.ledger.receipts`), and the server remembers it too.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from adpfl.errors import IntegrityError
from adpfl.privacy.guarantee import Guarantee
from adpfl.privacy.ledger import (
    SCHEMA,
    Approval,
    Exclusion,
    Forecast,
    LedgerBook,
    LedgerPolicy,
    NewEntry,
    Reservation,
    RunTerms,
    SpendRequest,
    Spent,
)
from adpfl.privacy.ledger_chain import GENESIS, Entry, canonical, fingerprint, link, verify_chain
from adpfl_client.durable import make_private_folder
from adpfl_client.ledger.ledger_files import (
    DATABASE_NAME,
    HEAD_NAME,
    KEY_NAME,
    LedgerFiles,
    insert_entries,
    read_entries,
    require_schema,
    storage,
)

__all__ = ["DATABASE_NAME", "HEAD_NAME", "KEY_NAME", "LedgerStore", "Verification"]


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

    def __init__(self, files: LedgerFiles, connection: sqlite3.Connection, key: bytes) -> None:
        self._files = files
        self._connection = connection
        self._inode = files.database.stat().st_ino
        self._key = key
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
                was put back, one of the files is missing beside the others, or is no ledger.
            IdentityError: the key file is readable by others, or is no key.
            StorageError: the disk refuses.
        """
        files = LedgerFiles(make_private_folder(state_dir))
        with storage(f"{files.database}: the ledger cannot be opened"), files.exclusive():
            fresh = files.begin()
            key = files.read_key()
            connection = files.connect()
        store = cls(files, connection, key)
        try:
            if fresh:
                with storage(f"{files.database}: the ledger cannot be written"):
                    store._append(
                        lambda _: [] if store._entry_count else [("opened", {"schema": SCHEMA})], now
                    )
            store.verify()
        except BaseException:
            connection.close()
            raise
        return store

    def reserve(self, request: SpendRequest, policy: LedgerPolicy, *, now: float) -> Reservation:
        """Charge one attempt at one round, durably, before any noised byte of it exists.

        An earlier attempt at the round that was never sealed is abandoned and stays charged.

        Raises:
            BudgetError: the policy, the plan, the cap or the clock refuses; nothing was spent.
            DiskUnwritableError: the disk is full or read-only; nothing was spent.
            StorageError: the disk fails otherwise; the reservation may stand, and then it is charged.
            StateError: the round is sealed already: its bytes are to be sent again.
            PrivacyError: the request contradicts itself.
        """
        fingerprints = self._fingerprints(request.patients)
        reservation_id = ""

        def decide(book: LedgerBook) -> list[NewEntry]:
            nonlocal reservation_id
            reservation_id, entries = book.plan_reservation(request, policy, fingerprints)
            return entries

        with storage("the ledger cannot be written; nothing may be released"):
            self._append(decide, now)
        return self._book.reservations[reservation_id]

    def foresee(self, request: SpendRequest, policy: LedgerPolicy) -> Forecast:
        """What a run would bring its patients to, before anything of it is reserved.

        Raises:
            BudgetError: the run could not begin, or could not finish, within the policy and the cap.
            StateError: the run was declared otherwise when it first spent.
            PrivacyError: the request contradicts itself.
        """
        with self._reading() as book:
            return book.foresee(request, policy, self._fingerprints(request.patients))

    def require_planned(self, run: str, round_number: int, base_digest: str, *, planned_rounds: int) -> None:
        """Refuse a task that the approved plan does not have, before anything is done for it.

        `reserve` refuses it too, whether or not this was asked.

        Raises:
            BudgetError: the round is not one of the plan's, or the run has had too many tasks.
        """
        with self._reading() as book:
            book.require_planned(run, round_number, base_digest, planned_rounds=planned_rounds)

    def require_clock(self, now: float) -> None:
        """Refuse a clock that ran backwards, as every method that appends does.

        Raises:
            BudgetError: it is more than five minutes behind the latest entry.
        """
        with self._reading() as book:
            book.require_clock(round(now * 1000.0))

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
        with storage("the ledger cannot be written"):
            self._append(lambda book: book.plan_seal(reservation_id, update_digest), now)

    def commit(self, reservation_id: str, receipt_json: str, *, now: float) -> None:
        """Record the server's receipt for sealed bytes; the same one again changes nothing.

        Raises:
            StateError: the reservation is unknown, not sealed, or has another receipt.
            BudgetError: the clock ran backwards.
        """
        with storage("the ledger cannot be written"):
            self._append(lambda book: book.plan_commit(reservation_id, receipt_json), now)

    def abandon(self, reservation_id: str, reason: str, *, now: float) -> None:
        """Give up, on the record, on a reservation whose bytes are lost; it stays charged.

        Raises:
            StateError: the reservation is unknown or committed.
            BudgetError: the clock ran backwards.
        """
        with storage("the ledger cannot be written"):
            self._append(lambda book: book.plan_abandon(reservation_id, reason), now)

    def acknowledge_clock(self, *, by: str, reason: str, now: float) -> bool:
        """Accept, on the record, a clock that ran backwards: later times count from `now` on.

        Returns:
            Whether there was anything to accept; a clock that is not refused changes nothing.
        """
        new: list[NewEntry] = []

        def decide(book: LedgerBook) -> list[NewEntry]:
            if book.refuses_clock(round(now * 1000.0)):
                new.append(("clock_acknowledged", {"by": by, "reason": reason}))
            return new

        with storage("the ledger cannot be written"):
            self._append(decide, now, any_clock=True)
        return bool(new)

    def exclude(self, patient: str, *, reason: str, by: str, now: float) -> Exclusion:
        """Keep a patient out of every later round, on the record; again changes nothing.

        The entry holds a keyed fingerprint and no name: put none into `reason`.

        Raises:
            BudgetError: the clock ran backwards.
        """
        mark = fingerprint(self._key, patient)
        with storage("the ledger cannot be written"):
            self._append(lambda book: book.plan_exclusion(mark, reason=reason, by=by), now)
        return self._book.excluded[mark]

    def approve(self, run: str, plan_digest: str, *, by: str, now: float) -> Approval:
        """Consent, on the record, to the whole cost of one plan; again changes nothing.

        Raises:
            BudgetError: the clock ran backwards.
        """
        with storage("the ledger cannot be written"):
            self._append(lambda book: book.plan_approval(run, plan_digest, by=by), now)
        return self._book.approvals[plan_digest]

    def excluded_among(self, patients: Iterable[str]) -> frozenset[str]:
        """Which of these patients must take part in nothing."""
        with self._reading() as book:
            return frozenset(name for name in patients if fingerprint(self._key, name) in book.excluded)

    def exclusions(self) -> tuple[Exclusion, ...]:
        """Every exclusion, oldest first."""
        with self._reading() as book:
            return tuple(book.excluded.values())

    def approvals(self) -> tuple[Approval, ...]:
        """Every plan that a person approved, oldest first."""
        with self._reading() as book:
            return tuple(book.approvals.values())

    def terms(self, run: str) -> RunTerms | None:
        """What a run was declared to be when it first spent; None if it has spent nothing."""
        with self._reading() as book:
            return book.terms.get(run)

    def guarantee_of(self, run: str) -> Guarantee:
        """The honest figure of everything that was charged for one run, at its plan's delta.

        Raises:
            StateError: the run has spent nothing here.
        """
        with self._reading() as book:
            return book.guarantee_of(run)

    def reservations(self, run: str | None = None) -> tuple[Reservation, ...]:
        """Every reservation, oldest first; of one run where `run` is given."""
        with self._reading() as book:
            return tuple(book.reservations.values() if run is None else book.of_run(run))

    def spent(self, data_set_id: str, *, delta: float) -> Spent:
        """What a data set, with every set that shares a patient with it, has spent over all runs."""
        with self._reading() as book:
            return book.spent(data_set_id, delta=delta)

    def head(self) -> bytes:
        """The 32-byte MAC of the newest entry: what a push carries and the server's receipt returns."""
        with self._reading():
            return self._head

    def verify(self, remembered_head: bytes | None = None) -> Verification:
        """Recompute the whole chain and compare it with the head remembered beside the key.

        Args:
            remembered_head: another head that must stand in the chain, from a server's receipt.

        Raises:
            IntegrityError: it does not hold; the message names the first entry that does not fit.
        """
        with (
            self._lock,
            storage(f"{self._files.database}: the ledger cannot be read"),
            self._files.exclusive(),
        ):
            require_schema(self._connection)
            beside = self._files.remembered_head()
            entries = read_entries(self._connection, first=0)
            heads = [beside] if remembered_head is None else [beside, remembered_head]
            head = verify_chain(entries, self._key, remembered_heads=heads)
            self._book, self._entry_count, self._head = LedgerBook(), 0, GENESIS
            self._take(entries)
            self._catch_up_head()
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

    def _fingerprints(self, patients: Iterable[str]) -> frozenset[str]:
        return frozenset(fingerprint(self._key, patient) for patient in patients)

    def _append(
        self, decide: Callable[[LedgerBook], Sequence[NewEntry]], now: float, *, any_clock: bool = False
    ) -> None:
        """Decide and write under the ledger's lock, so that no two processes decide on the same state."""
        with self._lock, self._files.exclusive():
            self._require_same_file()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._append_locked(decide, round(now * 1000.0), any_clock=any_clock)
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _append_locked(
        self, decide: Callable[[LedgerBook], Sequence[NewEntry]], at_millis: int, *, any_clock: bool
    ) -> None:
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
        if not new:
            self._connection.execute("COMMIT")
            self._catch_up_head()
            return
        insert_entries(self._connection, new)
        with self._files.remembering(head):
            self._connection.execute("COMMIT")
            self._take(new)

    @contextmanager
    def _reading(self) -> Iterator[LedgerBook]:
        """The book, with what other processes appended since."""
        with self._lock:
            with storage(f"{self._files.database}: the ledger cannot be read"):
                self._catch_up()
            yield self._book

    def _catch_up(self) -> None:
        """Take what another process appended since; it must continue the chain from where we know it."""
        entries = read_entries(self._connection, first=self._entry_count)
        if self._entry_count:
            if not entries or (entries[0].sequence, entries[0].mac) != (self._entry_count, self._head):
                raise IntegrityError(
                    f"ledger entry {self._entry_count} is gone or was changed while the ledger was open"
                )
            entries = entries[1:]
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

    def _catch_up_head(self) -> None:
        """Mend a remembered head that a crash left behind the chain, lest the tail after it could be cut."""
        if self._files.remembered_head() != self._head:
            self._files.remember(self._head)

    def _require_same_file(self) -> None:
        """Refuse to spend into a file that no longer stands under the ledger's name."""
        if self._files.database.stat().st_ino != self._inode:
            raise IntegrityError(f"{self._files.database}: was replaced while the ledger was open")

    def _take(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._book.apply(entry)
            self._entry_count, self._head = entry.sequence, entry.mac
