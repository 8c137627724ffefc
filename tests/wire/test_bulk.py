"""Our own encoding of the bulk streams against protobuf's, message for message."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from adpfl.errors import ProtocolError
from adpfl.wire import limits
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire.bulk import decode_fetch, decode_push, encode_fetch, encode_push
from adpfl.wire.transfers import Chunk, PushHeader, push_part_from_wire

CHUNK = Chunk("ab" * 32, b"\x01\x02\x03\x04")
SIZES = [1, 91, 92, 127, 128, 16_383, 16_384, 2**20, limits.CHUNK_SIZE_MAX]


@pytest.mark.parametrize("size", SIZES)
def test_a_chunk_is_encoded_as_protobuf_does_and_read_as_a_view(size):
    chunk = Chunk("cd" * 32, bytes(size))
    pushed, fetched = encode_push(chunk), encode_fetch(chunk)
    assert pushed == chunk.to_push().SerializeToString()
    assert fetched == chunk.to_fetch().SerializeToString()
    for found in (decode_push(pushed), decode_fetch(fetched)):
        assert found == chunk
        assert isinstance(found.data, memoryview)


def test_a_header_is_read_back():
    header = PushHeader("demo", 3, "ef" * 32)
    assert encode_push(header) == header.to_wire().SerializeToString()
    assert decode_push(encode_push(header)) == header


def test_what_is_encoded_in_another_order_is_read_alike():
    digest, data = b"\x0a\x20" + bytes(32), b"\x12\x04abcd"
    assert decode_fetch(data + digest) == decode_fetch(digest + data) == Chunk("00" * 32, b"abcd")


def test_a_message_that_is_cut_short_is_refused():
    with pytest.raises(ProtocolError, match="cannot be read"):
        decode_fetch(encode_fetch(CHUNK)[:-1])
    with pytest.raises(DecodeError):
        decode_push(encode_push(CHUNK)[:-1])


def outcome(read, message):
    try:
        found = read(message)
    except (ProtocolError, DecodeError) as error:
        return type(error)
    return found


seeds = st.sampled_from(
    [encode_push(CHUNK), encode_fetch(CHUNK), encode_push(PushHeader("demo", 1, "00" * 32))]
)


@given(message=st.binary(max_size=80) | seeds, at=st.integers(0, 80), byte=st.integers(0, 255))
def test_any_bytes_are_read_as_protobuf_reads_them(message, at, byte):
    spoilt = bytearray(message)
    if at < len(spoilt):
        spoilt[at] = byte
    text = bytes(spoilt)
    by_protobuf = outcome(lambda raw: push_part_from_wire(pb.PushRequest.FromString(raw)), text)
    assert outcome(decode_push, text) == by_protobuf
    fetched = outcome(lambda raw: Chunk.from_fetch(pb.FetchResponse.FromString(raw)), text)
    assert outcome(decode_fetch, text) == (ProtocolError if fetched is DecodeError else fetched)
