"""Chunks of models on their way out: read, checked and encoded once for all that fetch them together."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from adpfl.wire.bulk import encode_fetch
from adpfl.wire.transfers import Chunk
from adpfl_server.runner import Runner
from adpfl_server.storage.trouble import DamagedChunkError
from adpfl_server.transfer.turns import Patience, Turns

KEPT_BYTES: Final = 8 * 2**20
"""Of the chunks that were sent last: a round's sites fetch the same model at about the same time."""
READ_AHEAD: Final = 3
"""Chunks that are read while a stream's present one is sent ..."""
READ_AT_ONCE: Final = 6
"""... but not beyond so many readings under way."""


class Outbox:
    """The server's chunks on their way to sites."""

    def __init__(self, runner: Runner, turns: Turns) -> None:
        """Send from the runner's blobs."""
        self._runner = runner
        self._turns = turns
        self._kept: dict[str, asyncio.Task[bytes | None]] = {}
        self._kept_bytes = 0
        self._reading = 0

    async def messages(self, digests: Sequence[str]) -> AsyncIterator[bytes | None]:
        """The chunks as messages of a fetch stream, in this order; None for one that is absent or damaged.

        Raises:
            OSError: the disk refuses.
        """
        patience = Patience()
        for place, digest in enumerate(digests):
            turn = await self._turns.take(patience)
            try:
                reading = self._begin(digest)
                for following in digests[place + 1 : place + 1 + READ_AHEAD]:
                    if self._reading < READ_AT_ONCE:
                        self._begin(following)
                message = await asyncio.shield(reading)  # others may wait for the same one
                turn.wait_for_peer()
                yield message
                turn.peer_is_done()
            finally:
                turn.end()

    def _begin(self, digest: str) -> asyncio.Task[bytes | None]:
        """The reading of a chunk, under way or done."""
        reading = self._kept.pop(digest, None)
        if reading is None:
            self._reading += 1
            reading = asyncio.get_running_loop().create_task(self._runner.in_files(self._read, digest))
            reading.add_done_callback(lambda done: self._ended(digest, done))
        self._kept[digest] = reading  # last in the order: the first is the one to let go
        return reading

    def _ended(self, digest: str, reading: asyncio.Task[bytes | None]) -> None:
        self._reading -= 1
        if not _size(reading):
            self._kept.pop(digest, None)
            return
        self._kept_bytes += _size(reading)
        for name, known in list(self._kept.items()):
            if self._kept_bytes <= KEPT_BYTES:
                return
            if known.done():
                self._kept_bytes -= _size(known)
                del self._kept[name]

    def _read(self, digest: str) -> bytes | None:
        try:
            return encode_fetch(Chunk(digest, self._runner.store.blobs.get(digest)))
        except DamagedChunkError:  # no trouble if nothing names it any more; the stream looks
            return None


def _size(reading: asyncio.Task[bytes | None]) -> int:
    """Of what a reading gave; 0 where it gave nothing, also where it failed and nobody was told yet."""
    failed = reading.cancelled() or reading.exception() is not None
    return 0 if failed else len(reading.result() or b"")
