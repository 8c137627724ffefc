"""Structured logs: readable on a terminal, one JSON object a line elsewhere.

A log line names sites, runs, rounds, sizes and digests. It never holds patient data, file contents or key
material.
"""

import logging
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog


class _StandardError:
    """stderr as it stands at each line: a live display takes its place for a while, to print above itself.

    Where the disk under it is full, lines are lost: whoever logs must go on with the work.
    """

    def write(self, text: str) -> int:
        """Write what can be written."""
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with suppress(OSError):
            sys.stderr.flush()


def configure_logs(*, level: str = "info", service: str, site: str | None = None) -> None:
    """Send this process's logs to stderr; call once at the start of a command."""
    console = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _StandardError())),
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(service=service, **({"site": site} if site else {}))
