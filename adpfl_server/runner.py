"""Drives the runs: the event loop's side of the coordinator.

Transitions are made in the one database thread (`RunBook`); here their actions are carried out: sites that
wait are woken, updates are added up in the bounded file pool, records are written, deadlines and silent sites
are noticed.
"""

import asyncio
import contextvars
import functools
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import structlog

from adpfl.errors import IntegrityError, ModelMismatchError, StateError
from adpfl.federated.coordinator import actions_on_resume
from adpfl.federated.round_models import RoundModels, make_models, needed_objects
from adpfl.federated.run_events import (
    Aggregate,
    AggregationFailed,
    Event,
    RoundClosed,
    SiteFellSilent,
    SiteHeard,
    TasksChanged,
    TimePassed,
    Transition,
)
from adpfl.federated.run_state import RunState
from adpfl.kill_points import reach
from adpfl.wire.chunks import Manifest, sha256_hex
from adpfl_server.rounds.housekeeping import Housekeeping
from adpfl_server.rounds.intake import RunBook
from adpfl_server.rounds.silence import Silence
from adpfl_server.storage.records import write_record
from adpfl_server.storage.trouble import STORAGE_ERRORS, DamagedChunkError, storage_reason
from adpfl_server.store import Store

FILE_THREADS = 4
"""Threads that hash, read and write chunks; what bounds the server's memory for bulk data."""
TICK_SECONDS = 0.5
RETRY_SECONDS = 10.0
RECORD_SECONDS = 0.5
"""Between two writings of the records: a busy run's events share one."""

Result = TypeVar("Result")
_log = structlog.get_logger()


class Runner:
    """All runs of one server, in one event loop."""

    def __init__(
        self,
        store: Store,
        runs_folder: Path,
        *,
        clock: Callable[[], float],
        site_silence_seconds: float,
        keep_models: int,
    ) -> None:
        """Prepare; `start` begins the work.

        Args:
            store: the server's state; its rows are used by the runner's database thread alone from now on.
            runs_folder: where `<run>/run.json` is written.
            clock: Unix seconds.
            site_silence_seconds: a site unheard for so long is no longer waited for.
            keep_models: newest models of each run that stay on disk.
        """
        self.store = store
        self.clock = clock
        self.book = RunBook(store, clock, self._stored)
        self.stopping = asyncio.Event()
        self.broken = asyncio.Event()
        """Work failed that no run can do without; the daemon ends, and says so."""
        self._runs_folder = runs_folder
        self.site_silence_seconds = site_silence_seconds
        """A site unheard for so long is no longer waited for."""
        self.sign_of_life_seconds = site_silence_seconds / 2
        """How often a site that is waited for must be noted as alive."""
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # log lines from the database thread keep their bindings
        self._database = ThreadPoolExecutor(1, thread_name_prefix="database")
        self.files = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="files")
        self._changed: dict[str, asyncio.Event] = {}
        self._heard_at: dict[str, float] = {}
        self._silence = Silence(site_silence_seconds)
        self.storage_trouble: str | None = None
        """What is wrong with the disk, as the health check found it; None where nothing is."""
        self.housekeeping = Housekeeping(self, keep_models)
        self._unwritten: set[str] = set()
        self._record_due = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def states(self) -> dict[str, RunState]:
        """The newest stored state of every served run."""
        return self.book.states

    # --- the two pools --------------------------------------------------------------------------------

    async def in_database(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a function in the database thread."""
        return await self._in(self._database, function, *arguments)

    async def in_files(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a function that hashes, reads or writes bulk data."""
        return await self._in(self.files, function, *arguments)

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., Result], *arguments: Any) -> Result:
        try:
            return await self._loop.run_in_executor(pool, functools.partial(function, *arguments))
        except STORAGE_ERRORS as error:
            self.book.tally.storage_failed()
            if isinstance(error, DamagedChunkError):
                self.housekeeping.suspect()
            raise

    # --- life -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Go on with what was under way, and begin to watch the clock."""
        for run, state in self.states.items():
            self._unwritten.add(run)
            for action in actions_on_resume(state):
                self._perform(run, action)
        self._record_due.set()
        self.housekeeping.start()
        self.spawn(self._watch_clock(), vital=True)
        self.spawn(self._write_records(), vital=True)

    async def stop(self) -> None:
        """Finish what is under way, write the records, end the threads."""
        self.stopping.set()
        self._record_due.set()
        self.wake_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.in_database(self._write_unwritten)
        self.files.shutdown()
        self._database.shutdown()

    async def advance(self, run: str, event: Event) -> Transition:
        """Let an event happen; it is stored when this returns."""
        return await self.in_database(self.book.advance, run, event)

    def heard(self, site: str) -> None:
        """Note a sign of life; a silent site's return is recorded."""
        self._heard_at[site] = self.clock()
        self._silence.heard(site)
        for run, state in self.states.items():
            if any(known.site == site and known.silent for known in state.sites):
                self.spawn(self._note_heard(run, site))

    def last_heard(self) -> dict[str, float]:
        """When each site that was heard since the start was heard last, in Unix seconds."""
        return dict(self._heard_at)

    async def changed(self, run: str, seconds: float) -> None:
        """Wait until tasks of a run may have changed, the time is over, or the server stops."""
        event = self._changed.setdefault(run, asyncio.Event())
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return

    async def _note_heard(self, run: str, site: str) -> None:
        try:
            await self.advance(run, SiteHeard(site))
        except STORAGE_ERRORS as error:
            _log.error(
                "a site's return cannot be noted now", run=run, site=site, reason=storage_reason(error)
            )

    # --- actions --------------------------------------------------------------------------------------

    def _stored(self, run: str, moved: Transition) -> None:
        """Called in the database thread after each stored transition."""
        self._loop.call_soon_threadsafe(self._carry_out, run, moved, context=self._context)

    def _carry_out(self, run: str, moved: Transition) -> None:
        for entry in moved.timeline:
            _log.info(
                "run event", run=run, kind=entry.kind, site=entry.site, round=entry.round, detail=entry.detail
            )
        for action in moved.actions:
            self._perform(run, action)
        if moved.state.over:
            self.housekeeping.collect_soon()
        self._unwritten.add(run)
        self._record_due.set()

    def _perform(self, run: str, action: Aggregate | RoundClosed | TasksChanged) -> None:
        match action:
            case Aggregate():
                self.spawn(self._aggregate(run, action))
            case RoundClosed(record):
                _log.info(
                    "round closed", run=run, round=record.round, sites=record.sites, missing=record.missing
                )
                self.housekeeping.collect_soon()
            case TasksChanged():
                self._wake(run)

    def wake_all(self) -> None:
        """Let every long poll look again; when stopping, they all answer."""
        for run in tuple(self._changed):
            self._wake(run)

    def _wake(self, run: str) -> None:
        event = self._changed.pop(run, None)
        if event is not None:
            event.set()

    async def _aggregate(self, run: str, action: Aggregate) -> None:
        """Add a round up and publish it.

        A disk in trouble is waited for, and a damaged update asked for again; a sum that cannot be made fails
        the run.
        """
        while actions_on_resume(self.states[run]) == (action,) and not self.stopping.is_set():
            try:
                if await self._close_round(run, action):
                    return
                continue
            except STORAGE_ERRORS as error:
                _log.error(
                    "round cannot be added up now", run=run, round=action.round, reason=storage_reason(error)
                )
                if isinstance(error, DamagedChunkError) and await self._asked_again(run, action):
                    return
            await self.sleep(RETRY_SECONDS)

    async def _asked_again(self, run: str, action: Aggregate) -> bool:
        """Look for damaged updates; True where the round waits for them now, or goes on without them."""
        try:
            await self.housekeeping.examine(run, updates=True)
        except STORAGE_ERRORS as error:
            _log.error("stored updates cannot be read", run=run, reason=storage_reason(error))
        return actions_on_resume(self.states[run]) != (action,)

    async def _close_round(self, run: str, action: Aggregate) -> bool:
        """Publish a round's sum or the reason why there is none; False where it must be made again."""
        try:
            started = time.monotonic()
            models = await self._sum(action)
            self.book.tally.added_up(run, time.monotonic() - started)
            return await self.in_database(self.book.close_round, run, action.round, models)
        except DamagedChunkError:
            raise
        except (IntegrityError, ModelMismatchError, StateError) as error:
            await self.advance(run, AggregationFailed(action.round, str(error)))
            return True

    async def _sum(self, action: Aggregate) -> RoundModels:
        manifests = await self.in_database(self._inputs, action)
        blobs = self.store.blobs

        def write(chunk: bytes) -> str:
            digest = sha256_hex(chunk)
            blobs.put(digest, chunk)
            reach("server.aggregating")
            return digest

        return await self.in_files(
            lambda: make_models(action, manifest=manifests.__getitem__, read=blobs.get, write=write)
        )

    def _inputs(self, action: Aggregate) -> dict[str, Manifest]:
        found: dict[str, Manifest] = {}
        for digest in needed_objects(action):
            manifest = self.store.manifest(digest)
            if manifest is None:
                raise StateError(f"object {digest[:12]} of round {action.round} is not stored")
            found[digest] = manifest
        return found

    # --- background -----------------------------------------------------------------------------------

    async def _watch_clock(self) -> None:
        while not self.stopping.is_set():
            self._silence.look()
            for run, state in list(self.states.items()):
                try:
                    await self._tick(run, state)
                except STORAGE_ERRORS as error:
                    _log.error("deadline cannot be noted now", run=run, reason=storage_reason(error))
            await self.sleep(TICK_SECONDS)

    async def _tick(self, run: str, state: RunState) -> None:
        """Notice a passed deadline and sites that fell silent."""
        if state.deadline_at is not None and self.clock() >= state.deadline_at:
            await self.advance(run, TimePassed())
        if state.over:
            return
        number = state.open_round.round if state.open_round else None
        for site in state.sites:
            if not site.silent and self._silence.lasts_too_long(site.site, run, number):
                await self.advance(run, SiteFellSilent(site.site))

    async def _write_records(self) -> None:
        while not self.stopping.is_set():
            await self._record_due.wait()
            self._record_due.clear()
            await self.in_database(self._write_unwritten)
            await self.sleep(RECORD_SECONDS)
            if self._unwritten and not self._record_due.is_set():  # the disk refused: not before it may work
                self._loop.call_later(RETRY_SECONDS, self._record_due.set)

    def _write_unwritten(self) -> None:
        failed = set()
        while self._unwritten:
            run = self._unwritten.pop()
            try:
                reach("server.recording")
                write_record(self._runs_folder / run / "run.json", self.store.record(run))
            except STORAGE_ERRORS as error:
                failed.add(run)
                self.book.tally.storage_failed()
                _log.error("record cannot be written", run=run, reason=storage_reason(error))
        self._unwritten.update(failed)  # tried again a little later, and at the stop

    async def sleep(self, seconds: float) -> None:
        """Wait, or until the server stops."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return

    def spawn(self, work: Coroutine[Any, Any, None], *, vital: bool = False) -> None:
        """Run background work that ends soon after `stopping` is set; its failure is logged.

        Args:
            work: to do.
            vital: whether the server is `broken` without it: one whose deadlines no longer pass, or whose
                damage nobody looks for, would look alive for days.
        """
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._ended, vital=vital))

    def _ended(self, task: asyncio.Task[None], *, vital: bool) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("background work failed", exc_info=error)
            if vital:
                self.broken.set()
