"""How many chunks the server holds at a time, whatever the number of streams.

A stream takes a turn for each chunk: to receive and store one, or to read and send one. Turns are given in
the order in which they are asked for, so no stream starves. A slow link would keep a turn for seconds: one
that lasts is given up, so that sites on fast links never wait for a site on a slow one.
"""

import asyncio
from typing import Final

TURNS: Final = 12
"""Chunks under way at full speed."""
PATIENCE_SECONDS: Final = 0.05
"""A fast link moves a chunk in less; who takes longer goes on without a turn."""


class Turns:
    """The turns of one server, in one event loop."""

    def __init__(self, count: int = TURNS, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Give so many turns at a time."""
        self._free = asyncio.Semaphore(count)
        self._patience_seconds = patience_seconds

    async def take(self) -> "Turn":
        """Wait for a turn."""
        await self._free.acquire()
        return Turn(self._free, self._patience_seconds)


class Turn:
    """One chunk's leave to be in memory."""

    def __init__(self, free: asyncio.Semaphore, patience_seconds: float) -> None:
        """Begin; the semaphore has been acquired."""
        self._free = free
        self._patience_seconds = patience_seconds
        self._held = True
        self._timer: asyncio.TimerHandle | None = None

    def wait_for_peer(self) -> None:
        """From now on it is the peer's link that takes time: the turn is given up when that lasts."""
        self._timer = asyncio.get_running_loop().call_later(self._patience_seconds, self.end)

    async def go_on(self) -> None:
        """The peer is done: keep the turn, or wait for another where it was given up."""
        self._stop_timer()
        if not self._held:
            await self._free.acquire()
            self._held = True

    def end(self) -> None:
        """Give the turn back; again does nothing."""
        self._stop_timer()
        if self._held:
            self._held = False
            self._free.release()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
