"""What operators do to a running server: pause, resume and cancel runs, shut callers out.

A command on the server's own machine writes what it wants into the database, and the daemon finds it there
within `LOOK_SECONDS`; a remote operator's call comes here directly. Both take the same way from here on, and
stand in the audit log with whoever asked.
"""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import structlog

from adpfl.errors import AdpflError, StateError
from adpfl.federated.run_events import RunCancelled, RunPaused, RunResumed
from adpfl.federated.run_state import RunState
from adpfl.security.certificates import Holder
from adpfl.security.identity import time_text
from adpfl.wire.operations import RunControl
from adpfl_server.enrollment import revoke
from adpfl_server.identity.audit_log import LOCAL, record
from adpfl_server.identity.certificate_table import expiring, revoked_certificates
from adpfl_server.runner import Runner
from adpfl_server.storage.database import transaction
from adpfl_server.storage.trouble import STORAGE_ERRORS, storage_reason

LOOK_SECONDS: Final = 0.5
"""Between two looks for commands and for callers who were shut out."""
WARNINGS_APART: Final = timedelta(days=1)
APPLY_SECONDS: Final = 10.0
"""How long a command waits for the daemon before it says that none answered."""

_EVENTS: Final[dict[RunControl, type[RunPaused | RunResumed | RunCancelled]]] = {
    RunControl.PAUSE: RunPaused,
    RunControl.RESUME: RunResumed,
    RunControl.CANCEL: RunCancelled,
}
_AUDITED: Final = {
    RunControl.PAUSE: "run_paused",
    RunControl.RESUME: "run_resumed",
    RunControl.CANCEL: "run_cancelled",
}
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WantedControl:
    """A command that waits for the daemon."""

    sequence: int
    run: str
    control: RunControl
    reason: str


def want(database: sqlite3.Connection, run: str, control: RunControl, reason: str, now: float) -> int:
    """Leave a command for the daemon; returns its number."""
    with transaction(database):
        row = database.execute(
            "INSERT INTO controls (run, control, reason, asked_at) VALUES (?, ?, ?, ?) RETURNING sequence",
            (run, control.name, reason, now),
        ).fetchone()
    return int(row["sequence"])


def outcome(
    database: sqlite3.Connection,
    sequence: int,
    *,
    seconds: float = APPLY_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> str | None:
    """What became of a command: a line from the daemon, or None where none answered in time.

    Raises:
        StateError: the daemon refused it; the message says why.
    """
    for _ in range(max(round(seconds / LOOK_SECONDS), 1)):
        row = database.execute("SELECT * FROM controls WHERE sequence = ?", (sequence,)).fetchone()
        if row["refusal"] is not None:
            raise StateError(row["refusal"])
        if row["settled_at"] is not None:
            return str(row["outcome"])
        sleep(LOOK_SECONDS)
    return None


class Steering:
    """The daemon's side of what operators want."""

    def __init__(
        self,
        runner: Runner,
        drop: Callable[[Collection[str]], int],
        own_ends: Callable[[datetime], Iterable[str]],
    ) -> None:
        """Steer a runner's runs.

        Args:
            runner: whose runs.
            drop: ends the calls under way of certificates, by serial, and returns how many.
            own_ends: what to say of the server's own certificates that end soon.
        """
        self._runner = runner
        self._drop = drop
        self._own_ends = own_ends
        self._revoked: dict[str, Holder] | None = None
        self._warned_at: datetime | None = None

    async def control(self, run: str, control: RunControl, *, actor: Holder | None, reason: str) -> RunState:
        """Pause, resume or cancel a run; stored when this returns.

        Args:
            run: its name.
            control: what to do; again what stands already changes nothing.
            actor: the remote operator; None for a command on the server's machine.
            reason: why.

        Raises:
            StateError: there is no such run, or it is over.
        """
        if run not in self._runner.states:
            raise StateError(f"there is no run {run}")
        event = _EVENTS[control](str(actor) if actor else "a command on the server", reason)

        def note(database: sqlite3.Connection) -> None:
            record(
                database, _now(self._runner), _AUDITED[control], actor=actor or LOCAL, run=run, detail=reason
            )

        moved = await self._runner.in_database(partial(self._runner.book.advance, run, event, note))
        return moved.state

    async def revoke(self, holder: Holder, *, actor: Holder) -> tuple[str, ...]:
        """Shut a holder out at a remote operator's wish; its calls under way end at once.

        Raises:
            IdentityError: the server knows no such holder.
        """
        database = self._runner.store.connection
        now = _now(self._runner)
        serials: tuple[str, ...] = await self._runner.in_database(
            partial(revoke, database, holder, now=now, actor=actor)
        )
        await self._drop_revoked()
        return serials

    async def watch(self) -> None:
        """Until the server stops: apply waiting commands, and end the calls of whoever is shut out."""
        while not self._runner.stopping.is_set():
            for look in (self._apply_wanted, self._drop_revoked, self._warn_of_ends):
                await self._unless_storage_fails(look)
            try:
                await asyncio.wait_for(self._runner.stopping.wait(), LOOK_SECONDS)
            except TimeoutError:
                continue

    async def _unless_storage_fails(self, look: Callable[[], Awaitable[None]]) -> None:
        try:
            await look()
        except (*STORAGE_ERRORS, AdpflError) as error:  # a file of the authority may be damaged, too
            _log.error("operators' commands cannot be looked up now", reason=storage_reason(error))

    async def _apply_wanted(self) -> None:
        for wanted in await self._runner.in_database(_waiting, self._runner.store.connection):
            told: str | None = None
            refusal: str | None = None
            try:
                state = await self.control(wanted.run, wanted.control, actor=None, reason=wanted.reason)
                told = f"{wanted.run} is {state.shown_status}"
            except AdpflError as error:
                refusal = str(error)
            await self._runner.in_database(
                _settle, self._runner.store.connection, wanted.sequence, told, refusal, self._runner.clock()
            )

    async def _warn_of_ends(self) -> None:
        """Once a day, name the certificates that end soon."""
        now = _now(self._runner)
        if self._warned_at is not None and now - self._warned_at < WARNINGS_APART:
            return
        self._warned_at = now
        found = await self._runner.in_database(expiring, self._runner.store.connection, now)
        for row in found:
            ends = time_text(datetime.fromtimestamp(row.not_after, UTC))
            _log.warning("a certificate ends soon and was not renewed", holder=str(row.holder), ends=ends)
        for words in await self._runner.in_files(lambda: list(self._own_ends(now))):
            _log.warning(words)

    async def _drop_revoked(self) -> None:
        revoked: dict[str, Holder] = await self._runner.in_database(
            revoked_certificates, self._runner.store.connection
        )
        fresh = (
            {}
            if self._revoked is None
            else {serial: holder for serial, holder in revoked.items() if serial not in self._revoked}
        )
        if fresh:
            dropped = self._drop(fresh.keys())
            holders = sorted(map(str, set(fresh.values())))
            _log.warning("callers shut out", holders=holders, calls_ended=dropped)
        self._revoked = revoked


def _waiting(database: sqlite3.Connection) -> list[WantedControl]:
    rows = database.execute("SELECT * FROM controls WHERE settled_at IS NULL ORDER BY sequence").fetchall()
    return [
        WantedControl(row["sequence"], row["run"], RunControl[row["control"]], row["reason"]) for row in rows
    ]


def _settle(
    database: sqlite3.Connection, sequence: int, told: str | None, refusal: str | None, now: float
) -> None:
    with transaction(database):
        database.execute(
            "UPDATE controls SET settled_at = ?, outcome = ?, refusal = ? WHERE sequence = ?",
            (now, told, refusal, sequence),
        )


def _now(runner: Runner) -> datetime:
    return datetime.fromtimestamp(runner.clock(), UTC)
