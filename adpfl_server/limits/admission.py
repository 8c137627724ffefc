"""How much of the server one caller, and all together, may take: rate, calls at once, streams at once.

A caller is who its certificate names, whatever connections it comes over. A call over the rate waits for its
turn, so that an honest burst is slowed and not refused; one that would wait long, or that would be one call
too many, is refused with RESOURCE_EXHAUSTED and the time after which to try again. Everything here runs in
the event loop.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from adpfl_server.limits.limits_config import LONGEST_TURN_SECONDS, SERVED_AHEAD_SECONDS, LimitsConfig
from adpfl_server.limits.refusals import CallRefusedError, Code

TRANSFERS: Final = frozenset({"/adpfl.v1.Federation/Fetch", "/adpfl.v1.Federation/Push"})
"""Calls that stream chunks."""
TRY_AGAIN_SECONDS: Final = 1.0
"""What a caller is told to wait that has too many calls under way."""
PACES_KEPT: Final = 4096
"""Callers, or addresses, whose rate is known at a time; those that were heard longest ago are forgotten."""

Key = TypeVar("Key", bound=Hashable)


class Pace:
    """A token bucket as one moment: when the next call would be due if all came evenly (GCRA)."""

    def __init__(self, per_second: float, burst: float, now: float) -> None:
        """Begin with a full bucket.

        Args:
            per_second: calls that are let through in the long run.
            burst: calls that may come at once; at least 1.
            now: seconds of a clock that never runs backwards.
        """
        self._interval = 1.0 / per_second
        self._slack = (burst - 1.0) * self._interval
        self._due = now

    def wait_seconds(self, now: float) -> float:
        """How long a call that comes now would wait for its turn; takes nothing."""
        return max(0.0, max(self._due, now) - self._slack - now)

    def take(self, now: float) -> None:
        """Count a call."""
        self._due = max(self._due, now) + self._interval


class Paces(Generic[Key]):
    """A `Pace` for each of the callers heard last."""

    def __init__(self, per_second: float, burst: float, kept: int = PACES_KEPT) -> None:
        """Give each caller the same rate; `kept` of them are known at a time."""
        self._per_second = per_second
        self._burst = burst
        self._kept = kept
        self._paces: dict[Key, Pace] = {}

    def __getitem__(self, key: Key) -> Pace:
        """The caller's pace, and it was heard now."""
        pace = self._paces.pop(key, None) or Pace(self._per_second, self._burst, -float("inf"))
        self._paces[key] = pace  # last in the order: the first is the one to forget
        if len(self._paces) > self._kept:
            del self._paces[next(iter(self._paces))]
        return pace


class Admission(Generic[Key]):
    """Lets the calls of the main port in; messages name a caller by its key."""

    def __init__(self, limits: LimitsConfig, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Count from nothing.

        Args:
            limits: the operator's.
            monotonic: seconds that never run backwards.
        """
        self._limits = limits
        self._monotonic = monotonic
        rate = limits.calls_per_second
        self._paces: Paces[Key] = Paces(rate, max(1.0, rate * SERVED_AHEAD_SECONDS))
        self._calls: Counter[Key] = Counter()
        self._transfers: Counter[Key] = Counter()

    @contextmanager
    def counted(self, caller: Key, method: str = "") -> Iterator[None]:
        """Count a call as under way.

        Raises:
            CallRefusedError: the caller, or all callers, have as many under way as they may.
        """
        limits, transfer = self._limits, method in TRANSFERS
        _require_room("calls_at_once", limits.calls_at_once, self._calls[caller], f"{caller} has")
        if transfer:
            mine = self._transfers[caller]
            _require_room("transfers_at_once", limits.transfers_at_once, mine, f"{caller} has")
            everybodys = self._transfers.total()
            _require_room("transfers_in_all", limits.transfers_in_all, everybodys, "all sites together have")
        counters = (self._calls, self._transfers) if transfer else (self._calls,)
        for counter in counters:
            counter[caller] += 1
        try:
            yield
        finally:
            for counter in counters:
                counter[caller] -= 1
                if not counter[caller]:
                    del counter[caller]

    async def turn(self, caller: Key) -> None:
        """Wait for the turn of a call.

        Raises:
            CallRefusedError: it would wait longer than `LONGEST_TURN_SECONDS`.
        """
        pace, now = self._paces[caller], self._monotonic()
        wait = pace.wait_seconds(now)
        if wait > LONGEST_TURN_SECONDS:
            raise CallRefusedError(
                Code.RESOURCE_EXHAUSTED,
                f"{caller} calls faster than limits.calls_per_second, {self._limits.calls_per_second:g}",
                retry_after_seconds=wait,
            )
        pace.take(now)
        if wait:
            await asyncio.sleep(wait)


def _require_room(key: str, limit: int, under_way: int, who: str) -> None:
    if under_way >= limit:
        raise CallRefusedError(
            Code.RESOURCE_EXHAUSTED,
            f"{who} {under_way} calls of this kind under way; limits.{key} is {limit}",
            retry_after_seconds=TRY_AGAIN_SECONDS,
        )
