"""The two bulk streams' messages as bytes, without protobuf's copies.

Protobuf copies a chunk when a message is made, again when it is read, and again at each access of the field:
on a fast link that is much of what a transfer costs. The contract's encoding of a chunk is a few tags and
lengths around a digest and the data, so it is written by one join and read as a view of what arrived.
Whatever is encoded otherwise (protobuf allows many ways) is left to protobuf, and gives the same result.
"""

from google.protobuf.message import DecodeError

from adpfl.errors import ProtocolError
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire.transfers import Chunk, PushHeader, push_part_from_wire

FEDERATION = "adpfl.v1.Federation"
PUSH_METHOD = f"/{FEDERATION}/Push"
FETCH_METHOD = f"/{FEDERATION}/Fetch"

_DIGEST_BYTES = 32
_FIELD_1, _FIELD_2 = 0x0A, 0x12
"""Tags of a length-delimited field 1 and 2."""
_DIGEST_END = 2 + _DIGEST_BYTES
_VARINT_BYTES = 5
"""Of a length below 2**35: more than any message has."""


def encode_push(part: PushHeader | Chunk) -> bytes:
    """One message of a push stream."""
    if isinstance(part, PushHeader):
        encoded: bytes = part.to_wire().SerializeToString()
        return encoded
    body = _chunk_prefix(part)
    return b"".join((bytes((_FIELD_2,)), _varint(len(body) + len(part.data)), body, part.data))


def decode_push(message: bytes) -> PushHeader | Chunk:
    """Validate one message of a push stream; a chunk's data are a view of `message`.

    Raises:
        DecodeError: no such message.
        ProtocolError: neither header nor chunk, or a field breaks the contract.
    """
    view = memoryview(message)
    if view and view[0] == _FIELD_2:
        body = _last_field(view, 1)
        chunk = None if body is None else _read_chunk(body)
        if chunk is not None:
            return chunk
    return push_part_from_wire(pb.PushRequest.FromString(message))


def encode_fetch(chunk: Chunk) -> bytes:
    """One message of a fetch stream."""
    return b"".join((_chunk_prefix(chunk), chunk.data))


def decode_fetch(message: bytes) -> Chunk:
    """Validate one message of a fetch stream; the data are a view of `message`.

    Raises:
        ProtocolError: no such message, or a field breaks the contract.
    """
    chunk = _read_chunk(memoryview(message))
    if chunk is not None:
        return chunk
    try:
        return Chunk.from_fetch(pb.FetchResponse.FromString(message))
    except DecodeError as error:
        raise ProtocolError("FetchResponse: the message cannot be read") from error


def _chunk_prefix(chunk: Chunk) -> bytes:
    digest = bytes.fromhex(chunk.digest)
    return b"".join((bytes((_FIELD_1, _DIGEST_BYTES)), digest, bytes((_FIELD_2,)), _varint(len(chunk.data))))


def _read_chunk(view: memoryview) -> Chunk | None:
    """A chunk encoded as `encode_fetch` does; None where it is not."""
    if len(view) <= _DIGEST_END or (view[0], view[1], view[_DIGEST_END]) != (
        _FIELD_1,
        _DIGEST_BYTES,
        _FIELD_2,
    ):
        return None
    data = _last_field(view, _DIGEST_END + 1)
    return None if data is None else Chunk(bytes(view[2:_DIGEST_END]).hex(), data)


def _last_field(view: memoryview, start: int) -> memoryview | None:
    """What a length at `start` announces, if it is exactly the rest of the message."""
    length = 0
    for place in range(start, min(start + _VARINT_BYTES, len(view))):
        byte = view[place]
        length |= (byte & 0x7F) << (7 * (place - start))
        if byte < 0x80:
            rest = view[place + 1 :]
            return rest if len(rest) == length else None
    return None


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
