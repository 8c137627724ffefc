"""How long nothing has been heard of a site, measured by the time in which the server could have heard it.

A jump of the wall clock is no silence, and neither is a pause of the server's own machine, a suspended
virtual one for example: on waking it would take every site for lost before it had read what they sent.
"""

import time
from collections.abc import Callable
from typing import Final

LONGEST_STEP_SECONDS: Final = 2.0
"""What passes between two looks counts for no more than this; looks come several times a second."""


class Silence:
    """Whether sites have been silent for longer than the server waits."""

    def __init__(self, limit_seconds: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Begin to listen.

        Args:
            limit_seconds: a site unheard for longer is silent.
            monotonic: a clock in seconds that never runs backwards.
        """
        self._limit = limit_seconds
        self._monotonic = monotonic
        self._looked_at = monotonic()
        self._listened = 0.0
        self._heard: dict[str, float] = {}
        self._opened: dict[str, tuple[int, float]] = {}

    def look(self) -> None:
        """Let the time since the last look count."""
        now = self._monotonic()
        self._listened += min(now - self._looked_at, LONGEST_STEP_SECONDS)
        self._looked_at = now

    def heard(self, site: str) -> None:
        """Note a sign of life."""
        self._heard[site] = self._listened

    def lasts_too_long(self, site: str, run: str, round_number: int | None) -> bool:
        """Whether a site that the open round waits for is silent.

        A site that was never heard is given its time from the round's opening, or from the server's start;
        while no round is open, it is not waited for.
        """
        since = self._listened
        if round_number is not None:
            known, opened = self._opened.get(run, (None, 0.0))
            if known != round_number:
                self._opened[run] = (round_number, since)
            else:
                since = opened
        return self._listened - self._heard.get(site, since) > self._limit
