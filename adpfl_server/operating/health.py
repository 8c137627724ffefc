"""What the gRPC health check answers: NOT_SERVING while the disk refuses, and once the server stops.

Every `CHECK_SECONDS` a small file is written, synced and removed; a server that cannot do that acknowledges
nothing, and whoever balances or watches it should know before a site does.
"""

import asyncio
from pathlib import Path
from typing import Any

import structlog
from grpc_health.v1 import health_pb2

from adpfl_server.runner import Runner
from adpfl_server.storage.trouble import STORAGE_ERRORS, probe, storage_reason

CHECK_SECONDS = 5.0
"""Between two looks at the disk; trouble is told at most so long after it came or went."""

_log = structlog.get_logger()


class StorageHealth:
    """Keeps the health service's answer true."""

    def __init__(self, runner: Runner, servicer: Any, folder: Path, services: tuple[str, ...]) -> None:
        """Answer for these services.

        Args:
            runner: whose storage; its tally says whether disk or database have refused anything.
            servicer: gRPC's health servicer.
            folder: where the server keeps its state.
            services: names that clients may ask for; `""` is the server as a whole.
        """
        self._runner = runner
        self._servicer = servicer
        self._folder = folder
        self._services = services
        self._errors_seen = 0
        self.serving = False

    async def watch(self) -> None:
        """Look at the storage until the server stops."""
        while not self._runner.stopping.is_set():
            await self.look()
            try:
                await asyncio.wait_for(self._runner.stopping.wait(), CHECK_SECONDS)
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Look once, and say what was found where it has changed."""
        reason = self._runner.storage_trouble = await self._trouble()
        if (reason is None) != self.serving:
            self.serving = reason is None
            await self._tell()
            if reason is None:
                _log.info("storage works")
            else:
                _log.error("storage is in trouble; the health check says so", reason=reason)

    async def _trouble(self) -> str | None:
        try:
            await self._runner.in_files(probe, self._folder)
        except STORAGE_ERRORS as error:
            return storage_reason(error)
        if self._runner.housekeeping.damage:
            return self._runner.housekeeping.damage
        errors = self._runner.book.tally.storage_errors
        refused = errors - self._errors_seen
        self._errors_seen = errors
        return f"{refused} refusals since the last look" if refused else None

    async def _tell(self) -> None:
        answer = health_pb2.HealthCheckResponse
        for service in self._services:
            await self._servicer.set(service, answer.SERVING if self.serving else answer.NOT_SERVING)
