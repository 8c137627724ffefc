"""How many chunks the server holds at a time, whatever the number of streams.

A stream takes a turn for each chunk: to receive and store one, or to read and send one. Turns are given in
the order in which they are asked for, so no stream starves. A slow link would keep a turn for seconds: one
that lasts is given up, and that stream's next ones sooner, so that sites on fast links do not wait for sites
on slow ones. A server that is merely busy keeps them: then all chunks take long, and giving up fills memory.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

TURNS: Final = 12
"""Chunks under way at full speed."""
LONGEST_PATIENCE_SECONDS: Final = 0.5
"""A fast link moves a chunk in less, also beside two hundred others."""
SHORTEST_PATIENCE_SECONDS: Final = 0.03
"""With a stream that has been slow again and again."""
_LOST_BY: Final = 4.0
_WON_BY: Final = 2.0


@dataclass
class Patience:
    """How long one stream may keep a turn while its peer's link takes time."""

    seconds: float = LONGEST_PATIENCE_SECONDS

    def lasted(self) -> None:
        """A turn was given up."""
        self.seconds = max(SHORTEST_PATIENCE_SECONDS, self.seconds / _LOST_BY)

    def was_quick(self) -> None:
        """The peer was done in time."""
        self.seconds = min(LONGEST_PATIENCE_SECONDS, self.seconds * _WON_BY)


class Turns:
    """The turns of one server, in one event loop."""

    def __init__(self, count: int = TURNS) -> None:
        """Give so many turns at a time."""
        self._free = asyncio.Semaphore(count)

    async def take(self, patience: Patience) -> "Turn":
        """Wait for a turn of the stream that has this patience."""
        await self._free.acquire()
        return Turn(self._free, patience)


class Turn:
    """One chunk's leave to be in memory."""

    def __init__(self, free: asyncio.Semaphore, patience: Patience) -> None:
        """Begin; the semaphore has been acquired."""
        self._free = free
        self._patience = patience
        self._held = True
        self._timer: asyncio.TimerHandle | None = None

    def wait_for_peer(self) -> None:
        """From now on it is the peer's link that takes time: the turn is given up when that lasts."""
        self._timer = asyncio.get_running_loop().call_later(self._patience.seconds, self._give_up)

    def peer_is_done(self) -> None:
        """The peer has read or sent what was waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if self._held:
                self._patience.was_quick()

    async def go_on(self) -> None:
        """The peer is done: keep the turn, or wait for another where it was given up."""
        self.peer_is_done()
        if not self._held:
            await self._free.acquire()
            self._held = True

    def end(self) -> None:
        """Give the turn back; again does nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held:
            self._held = False
            self._free.release()

    def _give_up(self) -> None:
        self._patience.lasted()
        self.end()
