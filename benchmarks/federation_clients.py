"""The product's own agent in the federation's benchmark: `adpfl_client`'s link, spool and model store.

Takes the same orders as a synthetic agent. What it sends lies sealed in a spool, what it receives ends as a
durable model file; only training and the ledger are left out.
"""

import asyncio
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from bare_stream import BareCaller
from federation_server import CHUNK_BYTES, tagged

from adpfl.wire import messages, transfers
from adpfl_client.connection import Connection
from adpfl_client.link.enrollment import load_site_identity
from adpfl_client.link.proxy import UNNAMED
from adpfl_client.link.running_identity import open_channel
from adpfl_client.rounds.local_run import read_plan
from adpfl_client.rounds.models import ModelStore
from adpfl_client.spool import Spool, SpoolKey

LONG_POLL_SECONDS = 20


class ClientAgent(BareCaller):
    """One site as `adpfl-client` moves its bytes."""

    def __init__(self, folder: Path, number: int, block: bytes) -> None:
        self.site = folder.name
        self._identity = load_site_identity(folder, self.site, now=datetime.now(UTC))
        self._connection = Connection(open_channel(self._identity, UNNAMED), threading.Event())
        self._spool = Spool(folder / "spool")
        self._models = ModelStore(folder / "models")
        self._number, self._block = number, block

    async def open(self, run: str, bare_address: str) -> None:
        """Dial both servers, join, and take the first task."""
        self._run = run
        await self.open_bare(self._identity, bare_address, self._block)
        request = messages.JoinRequest(
            site=self.site,
            instance_id=f"{self._number:032x}",
            software_version="benchmark",
            run=self._run,
            training_patients={"skin_lesion": 10},
        )
        answer = await asyncio.to_thread(self._connection.join, request)
        self._plan = read_plan(answer.runs[0])
        await asyncio.to_thread(
            self._connection.next_task, messages.NextTaskRequest(self._run, LONG_POLL_SECONDS)
        )

    async def take(self) -> None:
        """Wait for the next round's task."""
        kind = messages.TaskKind.WAIT
        while kind is messages.TaskKind.WAIT:
            request = messages.NextTaskRequest(self._run, LONG_POLL_SECONDS)
            task = await asyncio.to_thread(self._connection.next_task, request)
            kind = task.kind
        assert task.base_digest is not None
        self._key = SpoolKey(self._run, task.round, task.base_digest)

    async def fetch(self) -> tuple[float, float, int]:
        """Receive the round's base model into a durable file."""
        return await asyncio.to_thread(self._fetch)

    def _fetch(self) -> tuple[float, float, int]:
        started = time.monotonic()
        manifest = self._connection.have(transfers.HaveRequest(self._run, self._key.base_digest)).manifest
        incoming = self._models.receive(self._plan, self._key.round - 1, manifest)
        self._connection.fetch(self._run, incoming)
        model = self._models.finish(incoming)
        ended = time.monotonic()
        model.path.unlink()
        self._manifest = manifest
        return started, ended, manifest.payload_bytes

    async def prepare(self) -> None:
        """Seal an update of the model's size in the spool."""
        await asyncio.to_thread(self._seal)

    def _seal(self) -> None:
        model = self._manifest
        chunks = [
            np.frombuffer(
                tagged(self._block, model.chunk_bytes(index), self._number, self._key.round, index), "<f4"
            )
            for index in range(len(model.chunk_digests))
        ]
        arrays = {"weights": np.concatenate(chunks)}
        self._update = self._spool.seal(
            self._key, arrays, chunk_size=CHUNK_BYTES, reservation="none", steps=(), engine_state=None
        )

    async def push(self) -> tuple[float, float, int]:
        """Push the sealed update and commit it."""
        return await asyncio.to_thread(self._push)

    def _push(self) -> tuple[float, float, int]:
        started = time.monotonic()
        self._connection.push(self._update)
        digest = self._update.entry.update_digest
        key = self._key
        self._connection.commit(transfers.CommitUpdateRequest(self._run, key.round, key.base_digest, digest))
        ended = time.monotonic()
        self._spool.remove(self._update)
        return started, ended, self._update.manifest.payload_bytes

    async def rounds(self, count: int) -> list[float]:
        """Answer so many rounds without a pause; when each was committed."""
        committed = []
        for _ in range(count):
            await self.take()
            await self.fetch()
            await self.prepare()
            committed.append((await self.push())[1])
        return committed
