"""The second yardstick of the federation's benchmark: the same bytes as generated stubs move them.

Protobuf messages of a chunk each over grpc's synchronous server and stubs, with the same TLS: what a service
has that is written in the plainest way. The message is protobuf's own `BytesValue`. As a script it is the
server: `python benchmarks/bare_generated.py STATE_DIR`, as `bare_stream.py` is.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adpfl.security.tls import channel_credentials, require_tls13, server_credentials

require_tls13()  # before anything loads grpc

import grpc  # noqa: E402
from google.protobuf.wrappers_pb2 import BytesValue, UInt64Value  # noqa: E402

SERVICE = "bare.Generated"
THREADS = 10


def open_channel(identity: Any, address: str) -> Any:
    """A site's channel to this yardstick."""
    return grpc.secure_channel(address, channel_credentials(identity))


def upload(channel: Any, chunk: bytes, count: int) -> int:
    """Send a chunk so many times and wait for the answer; returns the bytes that arrived."""
    call = channel.stream_unary(
        f"/{SERVICE}/Upload",
        request_serializer=BytesValue.SerializeToString,
        response_deserializer=UInt64Value.FromString,
    )
    return int(call(BytesValue(value=chunk) for _ in range(count)).value)


def download(channel: Any, count: int) -> int:
    """Receive so many chunks; returns the bytes."""
    call = channel.unary_stream(
        f"/{SERVICE}/Download",
        request_serializer=UInt64Value.SerializeToString,
        response_deserializer=BytesValue.FromString,
    )
    return sum(len(part.value) for part in call(UInt64Value(value=count)))


def _serve(state_dir: Path, chunk: bytes) -> None:
    from adpfl_server.identity.pki import load_server_identity  # noqa: PLC0415 - agents need nothing of the server

    def take(requests: Iterator[BytesValue], _context: Any) -> UInt64Value:
        return UInt64Value(value=sum(len(part.value) for part in requests))

    def give(request: UInt64Value, _context: Any) -> Iterator[BytesValue]:
        for _ in range(request.value):
            yield BytesValue(value=chunk)

    handlers = {
        "Upload": grpc.stream_unary_rpc_method_handler(
            take,
            request_deserializer=BytesValue.FromString,
            response_serializer=UInt64Value.SerializeToString,
        ),
        "Download": grpc.unary_stream_rpc_method_handler(
            give,
            request_deserializer=UInt64Value.FromString,
            response_serializer=BytesValue.SerializeToString,
        ),
    }
    server = grpc.server(ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    identity = load_server_identity(state_dir, now=datetime.now(UTC))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(identity))
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    from federation_server import chunk_block

    _serve(Path(sys.argv[1]), chunk_block())
