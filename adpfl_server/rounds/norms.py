"""Norms of committed updates: each measured once, and one of a site at a time.

Measuring reads the whole update. It goes on when the call that asked for it ends, and the next call for the
same update waits for it: a site whose calls are cut off, or that cuts them off, keeps one thread busy.
"""

import asyncio
from typing import Final

from adpfl.federated.update_norm import update_norm
from adpfl.wire.chunks import Manifest
from adpfl_server.runner import Runner

NORMS_KEPT: Final = 4096
"""Norms that are known at a time; the one that was measured longest ago is forgotten."""


class UpdateNorms:
    """Measures stored updates in the file pool."""

    def __init__(self, runner: Runner) -> None:
        """Measure what a runner stores."""
        self._runner = runner
        self._known: dict[str, float] = {}
        self._under_way: dict[str, tuple[str, asyncio.Task[float]]] = {}

    async def of(self, site: str, update: Manifest) -> float:
        """The norm of a site's update, of which every chunk is stored.

        Raises:
            IntegrityError: a chunk has the wrong size or a value that is not finite.
            OSError, DamagedChunkError: the disk refuses, or has lost or changed a chunk.
        """
        while update.digest not in self._known:
            digest, task = self._under_way.get(site, ("", None))
            if task is None or digest == update.digest:
                return await asyncio.shield(task or self._begin(site, update))
            await asyncio.wait([task])
        return self._known[update.digest]

    def _begin(self, site: str, update: Manifest) -> "asyncio.Task[float]":
        task = asyncio.create_task(self._measure(site, update))
        task.add_done_callback(_heard)
        self._under_way[site] = (update.digest, task)
        return task

    async def _measure(self, site: str, update: Manifest) -> float:
        """Measure and remember; nothing is under way any more by the time that the task is done."""
        try:
            norm = await self._runner.in_files(update_norm, update, self._runner.store.blobs.get)
        finally:
            del self._under_way[site]
        self._known[update.digest] = norm
        if len(self._known) > NORMS_KEPT:
            del self._known[next(iter(self._known))]
        return norm


def _heard(task: "asyncio.Task[float]") -> None:
    """Take note of a failure that no call waits for any more; asyncio would print it."""
    if not task.cancelled():
        task.exception()
