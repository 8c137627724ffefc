"""What has happened since the daemon started, counted: what the metrics port shows and the health check asks.

Plain numbers without a library behind them, so that counting costs nothing where nobody looks. Safe to use
from the event loop, the database thread and the file pool at once.
"""

from collections import Counter
from threading import Lock
from typing import Literal

from adpfl.federated.run_events import Verdict

Direction = Literal["received", "sent"]


class Tally:
    """Counters of one daemon; they start at zero with it."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._lock = Lock()
        self._updates: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[tuple[str, Direction]] = Counter()
        self._sums: Counter[str] = Counter()
        self._sum_seconds: dict[str, float] = {}
        self._storage_errors = 0

    def update(self, run: str, verdict: Verdict) -> None:
        """Count an update that a site announced or committed, by what it was found to be."""
        with self._lock:
            self._updates[run, verdict.value] += 1

    def transferred(self, site: str, direction: Direction, size: int) -> None:
        """Count chunk bytes, as seen from the server."""
        with self._lock:
            self._bytes[site, direction] += size

    def added_up(self, run: str, seconds: float) -> None:
        """Count a round's aggregation and its duration."""
        with self._lock:
            self._sums[run] += 1
            self._sum_seconds[run] = self._sum_seconds.get(run, 0.0) + seconds

    def storage_failed(self) -> None:
        """Count a refusal of the disk or the database."""
        with self._lock:
            self._storage_errors += 1

    @property
    def updates(self) -> dict[tuple[str, str], int]:
        """Updates by (run, verdict)."""
        with self._lock:
            return dict(self._updates)

    @property
    def chunk_bytes(self) -> dict[tuple[str, Direction], int]:
        """Bytes of chunks by (site, direction)."""
        with self._lock:
            return dict(self._bytes)

    @property
    def aggregations(self) -> dict[str, tuple[int, float]]:
        """Number and total seconds of aggregations by run."""
        with self._lock:
            return {run: (count, self._sum_seconds[run]) for run, count in self._sums.items()}

    @property
    def storage_errors(self) -> int:
        """How often disk or database have refused."""
        with self._lock:
            return self._storage_errors
