"""Wall time by what it was spent on."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

TOTAL = "total"


class Stopwatch:
    """Runs from its making; time inside no `measure` block is whatever is left of the total."""

    def __init__(self) -> None:
        self._parts: dict[str, float] = {}
        self._before = 0.0
        self._start = time.monotonic()

    def add(self, spent: Mapping[str, float]) -> None:
        """Add what was spent before, as `seconds` gave it."""
        for part, seconds in spent.items():
            if part == TOTAL:
                self._before += seconds
            else:
                self._parts[part] = self._parts.get(part, 0.0) + seconds

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the block's time towards a part."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.add({part: time.monotonic() - start})

    def seconds(self) -> dict[str, float]:
        """The parts, and the `total` that they are parts of."""
        return {**self._parts, TOTAL: self._before + time.monotonic() - self._start}
