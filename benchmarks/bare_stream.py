"""The yardstick of the federation's benchmark: a gRPC stream over the same TLS that drops its bytes.

As a script it is the server: `python benchmarks/bare_stream.py STATE_DIR` prints its port and serves until
its standard input ends. Messages are plain bytes; credentials and message size are the federation's.
"""

import asyncio
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import bare_generated

from adpfl.security.tls import MESSAGE_LIMIT_BYTES, channel_credentials, server_credentials

UPLOAD, STORE, DOWNLOAD = "/bare.Stream/Upload", "/bare.Stream/Store", "/bare.Stream/Download"
NUMBER_BYTES = 8
OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
)
"""Beyond these, gRPC's defaults: its own flow control, tuned by nobody."""


def open_channel(identity: Any, address: str) -> Any:
    """A site's channel to the yardstick."""
    credentials = channel_credentials(identity)
    import grpc  # noqa: PLC0415 - after the policy of `adpfl.security.tls`

    return grpc.aio.secure_channel(address, credentials, OPTIONS)


async def upload(channel: Any, chunk: bytes, count: int, *, method: str = UPLOAD) -> None:
    """Send a chunk so many times and wait for the answer."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield chunk

    await channel.stream_unary(method)(parts())


async def download(channel: Any, count: int) -> int:
    """Receive so many chunks; returns the bytes."""
    received = 0
    async for chunk in channel.unary_stream(DOWNLOAD)(count.to_bytes(NUMBER_BYTES)):
        received += len(chunk)
    return received


class BareCaller:
    """The yardstick's side of an agent of any kind."""

    async def open_bare(self, identity: Any, address: str, block: bytes) -> None:
        """Dial the yardstick; the connection stands on return."""
        self._bare, self._bare_block, self._bare_identity = open_channel(identity, address), block, identity
        await upload(self._bare, b"", 0)

    async def bare_upload(self, chunks: int) -> tuple[float, float, int]:
        """Send so many chunks; start, end and bytes."""
        started = time.monotonic()
        await upload(self._bare, self._bare_block, chunks)
        return started, time.monotonic(), chunks * len(self._bare_block)

    async def stored_upload(self, chunks: int) -> tuple[float, float, int]:
        """Send so many chunks to a server that hashes and stores them; start, end and bytes."""
        started = time.monotonic()
        await upload(self._bare, self._bare_block, chunks, method=STORE)
        return started, time.monotonic(), chunks * len(self._bare_block)

    async def bare_download(self, chunks: int) -> tuple[float, float, int]:
        """Receive so many chunks; start, end and bytes."""
        started = time.monotonic()
        received = await download(self._bare, chunks)
        return started, time.monotonic(), received

    async def open_generated(self, address: str) -> None:
        """Dial the second yardstick; the connection stands on return."""
        self._generated = bare_generated.open_channel(self._bare_identity, address)
        await self.generated_upload(0)

    async def generated_upload(self, chunks: int) -> tuple[float, float, int]:
        """Send so many chunks as generated stubs do; start, end and bytes."""
        started = time.monotonic()
        sent = await asyncio.to_thread(bare_generated.upload, self._generated, self._bare_block, chunks)
        return started, time.monotonic(), sent

    async def generated_download(self, chunks: int) -> tuple[float, float, int]:
        """Receive so many chunks as generated stubs do; start, end and bytes."""
        started = time.monotonic()
        received = await asyncio.to_thread(bare_generated.download, self._generated, chunks)
        return started, time.monotonic(), received


def _hash_and_write(part: bytes, file: IO[bytes]) -> int:
    hashlib.sha256(part).digest()
    return os.write(file.fileno(), part)


async def _serve(state_dir: Path, chunk: bytes) -> None:
    import grpc  # noqa: PLC0415 - after the policy of `adpfl.security.tls`

    from adpfl_server.identity.pki import load_server_identity  # noqa: PLC0415

    async def take(requests: AsyncIterator[bytes], _context: Any) -> bytes:
        total = 0
        async for part in requests:
            total += len(part)
        return total.to_bytes(NUMBER_BYTES)

    async def store(requests: AsyncIterator[bytes], _context: Any) -> bytes:
        total, storing = 0, None
        with tempfile.TemporaryFile(dir=state_dir) as file:
            async for part in requests:
                if storing is not None:
                    total += await storing
                storing = asyncio.ensure_future(asyncio.to_thread(_hash_and_write, part, file))
            if storing is not None:
                total += await storing
            await asyncio.to_thread(os.fsync, file.fileno())
        return total.to_bytes(NUMBER_BYTES)

    async def give(request: bytes, _context: Any) -> AsyncIterator[bytes]:
        for _ in range(int.from_bytes(request)):
            yield chunk

    handlers = {
        "Upload": grpc.stream_unary_rpc_method_handler(take),
        "Store": grpc.stream_unary_rpc_method_handler(store),
        "Download": grpc.unary_stream_rpc_method_handler(give),
    }
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Stream", handlers),))
    identity = load_server_identity(state_dir, now=datetime.now(UTC))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(identity))
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    from adpfl.security.tls import require_tls13

    require_tls13()
    from federation_server import chunk_block

    asyncio.run(_serve(Path(sys.argv[1]), chunk_block()))
