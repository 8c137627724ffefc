"""Synthetic agents of the federation's benchmark: the true protocol, without training. Torch-free.

A script that takes orders on its standard input, one JSON document a line, and answers each with a line. All
agents of a process share its event loop; several processes make a cohort. An agent checks every chunk that it
receives and makes each update's chunks anew, so none is a repeat that the server has already; hashing an
update is part of no timed order, as it is part of training.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adpfl.security.tls import CHANNEL_OPTIONS, channel_credentials, require_tls13

require_tls13()  # before anything loads grpc

import grpc  # noqa: E402
from bare_stream import BareCaller  # noqa: E402
from federation_clients import ClientAgent  # noqa: E402
from federation_server import chunk_block, tagged  # noqa: E402

from adpfl.wire import limits, messages, transfers  # noqa: E402
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb  # noqa: E402
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc  # noqa: E402
from adpfl.wire.bulk import FETCH_METHOD, PUSH_METHOD, decode_fetch, encode_push  # noqa: E402
from adpfl.wire.chunks import Manifest, check_chunk, sha256_hex  # noqa: E402
from adpfl_client.link.enrollment import load_site_identity  # noqa: E402

CALL_SECONDS = 600.0
LONG_POLL_SECONDS = 20
Timed = tuple[float, float, int]
"""Start and end on the system's monotonic clock, and bytes moved."""


class SyntheticAgent(BareCaller):
    """One site: joins, fetches each round's model, answers it with an update of the same size."""

    def __init__(self, folder: Path, number: int, block: bytes) -> None:
        self.site = folder.name
        self.identity = load_site_identity(folder, self.site, now=datetime.now(UTC))
        self._number = number
        self._block = block
        self._chunks: dict[str, bytes | int] = {}

    async def open(self, run: str, bare_address: str) -> None:
        """Dial both servers, join, and take the first task."""
        self._run = run
        credentials = channel_credentials(self.identity)
        channel = grpc.aio.secure_channel(self.identity.address, credentials, CHANNEL_OPTIONS)
        self._stub = rpc.FederationStub(channel)
        self._fetching = channel.unary_stream(
            FETCH_METHOD, request_serializer=pb.FetchRequest.SerializeToString
        )
        self._pushing = channel.stream_unary(PUSH_METHOD)
        await self.open_bare(self.identity, bare_address, self._block)
        request = messages.JoinRequest(
            site=self.site,
            instance_id=f"{self._number:032x}",
            software_version="benchmark",
            run=self._run,
            training_patients={"skin_lesion": 10},
        )
        await self._stub.Join(request.to_wire(), timeout=CALL_SECONDS)
        await self._next()

    async def _next(self) -> messages.NextTaskResponse:
        request = messages.NextTaskRequest(self._run, LONG_POLL_SECONDS).to_wire()
        return messages.NextTaskResponse.from_wire(await self._stub.NextTask(request, timeout=CALL_SECONDS))

    async def take(self) -> None:
        """Wait for the next round's task."""
        while True:
            task = await self._next()
            if task.kind is messages.TaskKind.TRAIN:
                self._round, self._base = task.round, task.base_digest
                return
            if task.kind is not messages.TaskKind.WAIT:
                raise RuntimeError(f"{self.site}: {task.kind.name}: {task.detail}")

    async def fetch(self) -> Timed:
        """Receive and check the round's base model."""
        started, received = time.monotonic(), 0
        have = transfers.HaveRequest(self._run, self._base).to_wire()
        self.manifest = transfers.HaveResponse.from_wire(
            await self._stub.Have(have, timeout=CALL_SECONDS)
        ).manifest
        missing = list(self.manifest.indices_of)
        while missing:
            wanted = tuple(missing[: limits.DIGESTS_PER_REQUEST])
            request = transfers.FetchRequest(self._run, self._base, wanted).to_wire()
            checking: asyncio.Future[int] | None = None
            async for message in self._fetching(request):
                if checking is not None:
                    received += await checking
                checking = asyncio.get_running_loop().run_in_executor(None, _checked, message)
            if checking is not None:
                received += await checking
            missing = missing[len(wanted) :]
        return started, time.monotonic(), received

    async def prepare(self) -> None:
        """Make this round's update: what training would leave in the spool."""
        model = self.manifest
        sizes = [model.chunk_bytes(index) for index in range(len(model.chunk_digests))]
        self._chunks = {
            sha256_hex(tagged(self._block, size, self._number, self._round, index)): index
            for index, size in enumerate(sizes)
        }
        self._update = Manifest(model.tensors, model.chunk_size, tuple(self._chunks))

    def _chunk(self, digest: str) -> bytes:
        index = self._chunks[digest]
        size = self._update.chunk_bytes(index)
        return tagged(self._block, size, self._number, self._round, index)

    async def push(self) -> Timed:
        """Offer, push what is missing, commit; ends with the server's receipt."""
        started, sent = time.monotonic(), 0
        offer = transfers.OfferRequest(self._run, self._round, self._base, self._update).to_wire()
        while missing := transfers.OfferResponse.from_wire(
            await self._stub.Offer(offer, timeout=CALL_SECONDS)
        ).missing:

            async def parts(digests: tuple[str, ...] = missing) -> AsyncIterator[bytes]:
                yield encode_push(transfers.PushHeader(self._run, self._round, self._update.digest))
                for digest in digests:
                    yield encode_push(transfers.Chunk(digest, self._chunk(digest)))

            await self._pushing(parts())
            sent += sum(self._update.chunk_bytes(self._chunks[digest]) for digest in missing)
        commit = transfers.CommitUpdateRequest(self._run, self._round, self._base, self._update.digest)
        answer = await self._stub.CommitUpdate(commit.to_wire(), timeout=CALL_SECONDS)
        transfers.CommitUpdateResponse.from_wire(answer)
        return started, time.monotonic(), sent

    async def rounds(self, count: int) -> list[float]:
        """Answer so many rounds without a pause; when each was committed."""
        committed = []
        for _ in range(count):
            await self.take()
            await self.fetch()
            await self.prepare()
            committed.append((await self.push())[1])
        return committed


def _checked(message: bytes) -> int:
    """Check a received chunk; its size."""
    chunk = decode_fetch(message)
    check_chunk(chunk.digest, chunk.data)
    return len(chunk.data)


async def _obey(kind: type[SyntheticAgent | ClientAgent], folders: list[Path], first_number: int) -> None:
    block = chunk_block()
    agents = [kind(folder, first_number + place, block) for place, folder in enumerate(folders)]
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        name = order.pop("order")
        work: list[Callable[..., Awaitable[Any]]] = [getattr(agent, name) for agent in agents]
        answers = await asyncio.gather(*(each(**order) for each in work))
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    kinds = {"synthetic": SyntheticAgent, "adpfl_client": ClientAgent}
    asyncio.run(_obey(kinds[sys.argv[1]], [Path(folder) for folder in sys.argv[3:]], int(sys.argv[2])))
