"""File descriptors: each connection takes one; a process that has none left can neither accept nor store.

The daemon takes as many as the system lets it have, holds no more connections than leave it room for its own
files, and says so where that is fewer than the operator asked for, or where they run out all the same.
"""

import asyncio
import resource
from pathlib import Path
from typing import Final

import structlog

RESERVED: Final = 256
"""Descriptors for the database, chunks, logs and libraries."""
PORTS: Final = 2
"""Ports among which the rest is shared."""
CHECK_SECONDS: Final = 5.0
"""Between two counts of the descriptors in use."""
NEARLY: Final = 0.9
"""Share of the descriptors in use from which on the log says so."""

_OPEN: Final = Path("/proc/self/fd")
_log = structlog.get_logger()


def take_descriptors() -> int:
    """Raise this process's limit as far as the system lets it; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # a container may forbid it
            return soft
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connections_within(wanted: int, descriptors: int) -> int:
    """How many connections a port may hold.

    Args:
        wanted: as configured.
        descriptors: the process's limit; negative for none.
    """
    if descriptors < 0:  # RLIM_INFINITY
        return wanted
    room = max(1, (descriptors - RESERVED) // PORTS)
    if room < wanted:
        _log.warning(
            "fewer connections than configured: the process may not open more files",
            connections=room,
            configured=wanted,
            descriptors=descriptors,
            mend="LimitNOFILE= of the unit, or ulimit -n",
        )
    return min(wanted, room)


class DescriptorWatch:
    """Says when descriptors run out, and when there are some again."""

    def __init__(self, limit: int) -> None:
        """Watch this process.

        Args:
            limit: how many it may have; negative for any number.
        """
        self._limit = limit
        self._scarce = False

    async def watch(self, stopping: asyncio.Event) -> None:
        """Look until the server stops."""
        while self._limit > 0 and not stopping.is_set():
            self.look()
            try:
                await asyncio.wait_for(stopping.wait(), CHECK_SECONDS)
            except TimeoutError:
                continue

    def look(self) -> None:
        """Look once, and say what has changed."""
        try:
            in_use = sum(1 for _ in _OPEN.iterdir())
        except FileNotFoundError:  # not Linux
            return
        except OSError:  # not one is left to look with
            in_use = self._limit
        scarce = in_use >= NEARLY * self._limit
        if scarce != self._scarce:
            self._scarce = scarce
            say = _log.error if scarce else _log.info
            found = "run out: connections are refused" if scarce else "suffice again"
            say(f"file descriptors {found}", in_use=in_use, limit=self._limit)
