"""Log lines that others cause: one now and then, with the number of those left out meanwhile."""

import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

import structlog

EVERY_SECONDS: Final = 10.0
"""Between two lines of one kind."""
KINDS_KEPT: Final = 4096
"""Kinds that are counted at a time; beyond, the one that was told longest ago is forgotten."""

_log = structlog.get_logger()


@dataclass
class _Told:
    at: float
    meanwhile: int = 0


class SparseLog:
    """Lines by kind."""

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, *, level: int = logging.WARNING
    ) -> None:
        """Start with nothing told.

        Args:
            monotonic: seconds that never run backwards.
            level: of the lines, as `logging` has it.
        """
        self._level = level
        self._monotonic = monotonic
        self._told: dict[Hashable, _Told] = {}

    def tell(self, kind: Hashable, event: str, **details: Any) -> None:
        """Log a line, unless one of its kind was logged a moment ago.

        Args:
            kind: what is alike.
            event: the line's event.
            details: its other keys.
        """
        now = self._monotonic()
        told = self._told.get(kind)
        if told is not None and now - told.at < EVERY_SECONDS:
            told.meanwhile += 1
            return
        meanwhile = told.meanwhile if told else 0
        self._told.pop(kind, None)
        self._told[kind] = _Told(now)
        if len(self._told) > KINDS_KEPT:
            del self._told[next(iter(self._told))]
        _log.log(self._level, event, **details, **({"more_meanwhile": meanwhile} if meanwhile else {}))
