"""What the daemon does for its disk beside its work: past objects are collected, damaged ones found and told.

A chunk is checked against its digest whenever it is read, so nothing damaged is ever aggregated or sent. What
follows depends on what it belongs to. The bytes of a committed update are asked for again: the site keeps
them. A model, an average or the optimizer's state stands nowhere else at the server: the run says what is
damaged and waits, looking again every `LOOK_SECONDS`, until somebody has put it back
(`adpfl-server verify-store --restore FILE`).
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Final, Protocol, TypeVar

import structlog

from adpfl.errors import AdpflError
from adpfl.federated.run_events import Event, StorageDamaged, StorageMended, UpdateDamaged
from adpfl.federated.run_state import RunState
from adpfl.wire.chunks import Manifest
from adpfl_server.storage.blobs import BlobFolder
from adpfl_server.storage.trouble import STORAGE_ERRORS, DamagedChunkError, storage_reason
from adpfl_server.store import Store

LOOK_SECONDS: Final = 10.0
"""Between two looks at what is damaged, and between two attempts to collect."""

Result = TypeVar("Result")
_log = structlog.get_logger()


class Household(Protocol):
    """What is kept in order: a runner, as far as its housekeeping has to do with it."""

    store: Store
    stopping: asyncio.Event

    @property
    def states(self) -> Mapping[str, RunState]:
        """The newest stored state of every served run."""

    async def advance(self, run: str, event: Event) -> Any:
        """Tell the coordinator."""

    async def in_database(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a function in the database thread."""

    async def in_files(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a function that hashes, reads or writes bulk data."""

    def spawn(self, work: Coroutine[Any, Any, None], *, vital: bool = False) -> Any:
        """Begin a task; the server ends where a vital one fails."""

    async def sleep(self, seconds: float) -> None:
        """Wait, not beyond the stop."""


class Housekeeping:
    """Of one runner's runs."""

    def __init__(self, runner: Household, keep_models: int) -> None:
        """Prepare; `start` begins the work.

        Args:
            runner: whose store, threads and runs.
            keep_models: newest models of each run that stay.
        """
        self._runner = runner
        self._keep_models = keep_models
        self._suspects: set[str] = set()
        self._wanted = asyncio.Event()
        self._past = False
        self._collecting = False

    def start(self) -> None:
        """Look at every run's newest model once, and at damaged ones until they are whole."""
        self._runner.spawn(self._watch(), vital=True)

    def suspect(self) -> None:
        """Something that a run needs may be damaged: look soon."""
        self._suspects.update(self._runner.states)
        self._wanted.set()

    def collect_soon(self) -> None:
        """Something is past: let it go when nobody reads it."""
        self._past = True
        if not self._collecting:
            self._collecting = True
            self._runner.spawn(self._collect())

    @property
    def damage(self) -> str:
        """What is damaged that a run cannot go on without; empty where nothing is."""
        states = self._runner.states.values()
        return "; ".join(
            f"{state.plan.run}: {state.damage}" for state in states if state.damage and not state.over
        )

    async def examine(self, run: str, *, updates: bool) -> None:
        """Read what a run needs now, or publishes, and tell the coordinator what is damaged or whole again.

        Args:
            run: its name.
            updates: also those of the open round, which are read before they are added up anyway.

        Raises:
            OSError, sqlite3.Error: the disk refuses.
        """
        state = self._runner.states[run]
        if not state.needs_storage:
            return
        await self._examine_models(run, state)
        if updates and state.open_round is not None:
            await self._examine_updates(run, state)

    async def _examine_models(self, run: str, state: RunState) -> None:
        found = []
        for digest, what in _needed(state):
            bad = await self._damaged(digest)
            if bad:
                found.append(f"{what}: {_told(bad)}")
        if _needed(self._runner.states[run]) != _needed(state):
            self._suspects.add(run)  # it has gone on meanwhile, and what was looked at may be collected
            return
        words = "; ".join(found)
        if words and words != state.damage:
            _log.error("damaged on disk; restore it by verify-store", run=run, damage=words)
            await self._runner.advance(run, StorageDamaged(words))
        elif not words and state.damage:
            _log.info("what was damaged is whole again", run=run)
            await self._runner.advance(run, StorageMended())

    async def _examine_updates(self, run: str, state: RunState) -> None:
        current = state.open_round
        assert current is not None, "only asked of a run with an open round"
        for update in current.updates:
            bad = await self._damaged(update.update_digest)
            if bad:
                _log.error("committed update damaged on disk", run=run, site=update.site, chunks=sorted(bad))
                await self._runner.in_files(_drop, self._runner.store.blobs, bad)
                event = UpdateDamaged(current.round, (update.site,), _told(bad))
                await self._runner.advance(run, event)

    async def _damaged(self, digest: str) -> frozenset[str]:
        manifest = await self._runner.in_database(self._runner.store.manifest, digest)
        if manifest is None:
            return frozenset({digest})
        return await self._runner.in_files(damaged_chunks, self._runner.store.blobs, manifest)

    async def _watch(self) -> None:
        self.suspect()
        while not self._runner.stopping.is_set():
            self._wanted.clear()
            due = self._suspects | {run for run, state in self._runner.states.items() if state.damage}
            self._suspects = set()
            for run in sorted(due):
                try:
                    await self.examine(run, updates=False)
                except (*STORAGE_ERRORS, AdpflError) as error:  # a row may be damaged as well as a chunk
                    _log.error("stored models cannot be read", run=run, reason=storage_reason(error))
                    self._suspects.add(run)
            if due:  # a fetch that fails again and again must not have everything read again and again
                await self._runner.sleep(LOOK_SECONDS)
            else:
                await self._until_wanted()

    async def _until_wanted(self) -> None:
        stop = asyncio.ensure_future(self._runner.stopping.wait())
        wanted = asyncio.ensure_future(self._wanted.wait())
        await asyncio.wait({stop, wanted}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        wanted.cancel()

    async def _collect(self) -> None:
        while self._past and not self._runner.stopping.is_set():
            self._past = False  # what is past from here on asks for another turn
            try:
                if await self._runner.in_database(self._runner.store.collect, self._keep_models):
                    continue
            except STORAGE_ERRORS as error:
                _log.error("past objects cannot be collected now", reason=storage_reason(error))
            self._past = True
            await self._runner.sleep(LOOK_SECONDS)
        self._collecting = False


def damaged_chunks(blobs: BlobFolder, manifest: Manifest) -> frozenset[str]:
    """Chunks of an object that are gone or whose bytes have changed.

    Raises:
        OSError: the disk refuses.
    """
    found = set()
    for digest in manifest.indices_of:
        try:
            blobs.get(digest)
        except DamagedChunkError:
            found.add(digest)
    return frozenset(found)


def _needed(state: RunState) -> list[tuple[str, str]]:
    """The objects that a run cannot go on without, or publishes when it is finished, with what they are."""
    number = state.rounds_closed
    if state.over:
        return [(state.published_digest, f"the model of the finished run, of round {number}")]
    needed = [(state.model_digest, f"the model of round {number}")]
    if state.averaged_digest is not None:
        needed.append((state.averaged_digest, f"the average of the models up to round {number}"))
    if state.moments is not None:
        what = f"the optimizer's state after round {number}"
        needed += [(state.moments.first_digest, what), (state.moments.second_digest, what)]
    return needed


def _told(chunks: Collection[str]) -> str:
    first = min(chunks)[:12]
    return (
        f"chunk {first} is damaged"
        if len(chunks) == 1
        else f"{len(chunks)} chunks are damaged, {first} first"
    )


def _drop(blobs: BlobFolder, chunks: Collection[str]) -> None:
    for digest in chunks:
        blobs.drop(digest)
