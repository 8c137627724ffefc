"""One push: chunks are checked and written while the next ones arrive, and made durable several at a time.

A chunk counts as stored, under its name, only when it would survive a power cut; until then it lies among
the incoming files, which the next start sweeps away. A stream that breaks off first makes durable what it
brought, so that the next one goes on there.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

from adpfl.errors import IntegrityError, ProtocolError
from adpfl.federated.aggregation import is_finite
from adpfl.kill_points import reach
from adpfl.wire.chunks import Manifest
from adpfl.wire.transfers import Chunk, PushHeader
from adpfl_server.runner import Runner
from adpfl_server.storage.blobs import StagedChunk
from adpfl_server.transfer.turns import Patience, Turn, Turns

WRITTEN_AT_ONCE: Final = 4
"""Chunks of one stream that are being checked and written."""
SETTLED_TOGETHER: Final = 32
"""Chunks that are made durable by one go; at most twice as many of a stream are lost with the power."""


class Reception:
    """The chunks of one stream; `async with`, so that what came is settled however the stream ends."""

    def __init__(self, runner: Runner, turns: Turns, manifest: Manifest, missing: tuple[str, ...]) -> None:
        """Receive what is missing of an update.

        Args:
            runner: whose file pool works and whose blobs are filled.
            turns: the server's.
            manifest: the offered update's.
            missing: chunks that may come, each once.
        """
        self._runner = runner
        self._turns = turns
        self._patience = Patience()
        self._manifest = manifest
        self._missing = dict.fromkeys(missing)
        self._writing: deque[asyncio.Task[None]] = deque()
        self._written: list[StagedChunk] = []
        self._settling: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[Any] | None = None
        """Done when nothing of the stream is being written any more; None until it ends."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Digests that have not come."""
        return tuple(self._missing)

    async def take_in(
        self, parts: AsyncIterator[PushHeader | Chunk], arrived: Callable[[int], Awaitable[None]]
    ) -> None:
        """Take in the stream to its end.

        Args:
            parts: what comes after the header.
            arrived: told the size of each chunk before it is looked at; may refuse the rest.

        Raises:
            ProtocolError: a chunk that was not asked for, or whose bytes break a rule.
            OSError: the disk refuses.
        """
        while await self._take_one(parts, arrived):
            if len(self._writing) >= WRITTEN_AT_ONCE:
                await self._oldest_written()
            if len(self._written) >= SETTLED_TOGETHER:
                await self._settle_next()
        while self._writing:
            await self._oldest_written()

    async def _oldest_written(self) -> None:
        """Wait for it; where the call is cancelled meanwhile, `__aexit__` does."""
        await asyncio.shield(self._writing[0])
        self._writing.popleft()

    async def _take_one(
        self, parts: AsyncIterator[PushHeader | Chunk], arrived: Callable[[int], Awaitable[None]]
    ) -> bool:
        """Wait for a chunk and begin to write it; False at the end of the stream."""
        turn = await self._turns.take(self._patience)
        begun = False
        try:
            turn.wait_for_peer()
            part = await anext(parts, None)
            await turn.go_on()
            if part is None:
                return False
            if isinstance(part, PushHeader):
                raise ProtocolError("PushRequest.header stands twice; only the first message may be one")
            await arrived(len(part.data))
            self._begin(part, turn)
            begun = True
            return True
        finally:
            if not begun:
                turn.end()

    def _begin(self, chunk: Chunk, turn: Turn) -> None:
        if chunk.digest not in self._missing:
            raise ProtocolError(f"chunk {chunk.digest[:12]} was not asked for")
        del self._missing[chunk.digest]
        self._writing.append(asyncio.get_running_loop().create_task(self._write(chunk, turn)))

    async def _write(self, chunk: Chunk, turn: Turn) -> None:
        try:
            staged = await self._runner.in_files(self._check_and_stage, chunk)
            self._written.append(staged)  # looked up now: another list may stand there since
        finally:
            turn.end()

    def _check_and_stage(self, chunk: Chunk) -> StagedChunk:
        """Check one pushed chunk whole, then write it."""
        for index in self._manifest.indices_of[chunk.digest]:
            if len(chunk.data) != self._manifest.chunk_bytes(index):
                raise ProtocolError(
                    f"chunk {chunk.digest[:12]} has {len(chunk.data)} bytes; "
                    f"must be {self._manifest.chunk_bytes(index)}"
                )
        if not is_finite(chunk.data):
            raise ProtocolError(f"chunk {chunk.digest[:12]} has a value that is not finite")
        try:
            return self._runner.store.blobs.stage(chunk.digest, chunk.data)
        except IntegrityError as error:
            raise ProtocolError(str(error)) from error

    async def _settle_next(self) -> None:
        """Make durable what is written, beside the stream; the batch before must have been."""
        if self._settling is not None:
            await asyncio.shield(self._settling)
        written, self._written = self._written, []
        self._settling = asyncio.get_running_loop().create_task(self._settle(written))

    async def _settle(self, written: list[StagedChunk]) -> None:
        await self._runner.in_files(self._runner.store.blobs.settle, written)
        reach("server.chunk_stored")

    async def __aenter__(self) -> Self:
        """Begin."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Settle what came; a failure to do so is raised where the stream itself did not fail."""
        ending = asyncio.get_running_loop().create_task(self._end())
        self.ended = asyncio.gather(ending, return_exceptions=True)
        failures = await asyncio.shield(ending)
        if failures and error is None:
            raise failures[0]

    async def _end(self) -> list[BaseException]:
        """Settle everything; in a task of its own, because a stream may be cancelled more than once."""
        under_way = (*self._writing, *filter(None, (self._settling,)))
        results: list[Any] = await asyncio.gather(*under_way, return_exceptions=True)
        self._settling = None
        await self._settle_next()
        results += await asyncio.gather(*filter(None, (self._settling,)), return_exceptions=True)
        return [found for found in results if isinstance(found, BaseException)]
