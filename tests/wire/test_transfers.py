"""Bulk messages: round trips, and limits that are checked before contents."""

import numpy as np
import pytest

from adpfl.errors import ProtocolError
from adpfl.wire import limits, transfers
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire.chunks import manifest_of_arrays
from adpfl.wire.receipts import CommitOutcome, Receipt

HEX = "cd" * 32
RAW = b"\xcd" * 32
MANIFEST = manifest_of_arrays({"w": np.zeros((3, 4), np.float32), "b": np.ones((), np.float32)})
RECEIPT = Receipt("demo", 1, "hospital1", HEX, HEX, "", CommitOutcome.LATE, 5)

GOOD = [
    transfers.HaveRequest("demo", HEX, (HEX,)),
    transfers.HaveResponse(MANIFEST, MANIFEST.chunk_digests),
    transfers.FetchRequest("demo", HEX, (HEX,)),
    transfers.OfferRequest("demo", 1, HEX, MANIFEST),
    transfers.OfferResponse((HEX,)),
    transfers.PushResponse(()),
    transfers.CommitUpdateRequest("demo", 1, HEX, HEX),
    transfers.CommitUpdateRequest("demo", 1, HEX, HEX, HEX),
    transfers.CommitUpdateResponse(RECEIPT, b"signature"),
]


@pytest.mark.parametrize("message", GOOD, ids=lambda message: type(message).__name__)
def test_what_is_sent_arrives(message):
    wire = message.to_wire()
    assert type(message).from_wire(type(wire).FromString(wire.SerializeToString())) == message


def test_push_parts_arrive():
    for part in (transfers.PushHeader("demo", 1, HEX), transfers.Chunk(HEX, b"data")):
        wire = part.to_wire() if isinstance(part, transfers.PushHeader) else part.to_push()
        assert transfers.push_part_from_wire(wire) == part
    assert transfers.Chunk.from_fetch(transfers.Chunk(HEX, b"data").to_fetch()) == transfers.Chunk(
        HEX, b"data"
    )


TOO_MANY = [RAW] * (limits.DIGESTS_PER_REQUEST + 1)


@pytest.mark.parametrize(
    ("read", "wire", "words"),
    [
        (
            transfers.HaveRequest.from_wire,
            pb.HaveRequest(run="a", object_digest=b"1"),
            "object_digest has 1 bytes",
        ),
        (
            transfers.HaveRequest.from_wire,
            pb.HaveRequest(run="a", object_digest=RAW, held_digests=TOO_MANY),
            "held_digests has length 4097",
        ),
        (
            transfers.FetchRequest.from_wire,
            pb.FetchRequest(run="a", object_digest=RAW),
            "digests has length 0",
        ),
        (
            transfers.FetchRequest.from_wire,
            pb.FetchRequest(run="a", object_digest=RAW, digests=TOO_MANY),
            "digests has length 4097",
        ),
        (
            transfers.OfferRequest.from_wire,
            pb.OfferRequest(run="a", round=1, base_digest=RAW),
            "Manifest.tensors",
        ),
        (
            transfers.OfferRequest.from_wire,
            pb.OfferRequest(run="a", round=0, base_digest=RAW, manifest=transfers.manifest_to_wire(MANIFEST)),
            "round is 0",
        ),
        (transfers.push_part_from_wire, pb.PushRequest(), "header or chunk"),
        (
            transfers.push_part_from_wire,
            pb.PushRequest(chunk=pb.PushRequest.Chunk(digest=RAW)),
            "Chunk.data has length 0",
        ),
        (
            transfers.push_part_from_wire,
            pb.PushRequest(chunk=pb.PushRequest.Chunk(digest=RAW, data=b"x" * (limits.CHUNK_SIZE_MAX + 1))),
            "Chunk.data has length",
        ),
        (
            transfers.CommitUpdateRequest.from_wire,
            pb.CommitUpdateRequest(
                run="a", round=1, base_digest=RAW, update_digest=RAW, ledger_head=b"short"
            ),
            "ledger_head has 5 bytes",
        ),
        (
            transfers.CommitUpdateResponse.from_wire,
            pb.CommitUpdateResponse(receipt=RECEIPT.to_wire()),
            "signature has length 0",
        ),
        (
            transfers.manifest_from_wire,
            pb.Manifest(
                tensors=[pb.TensorSpec(name="w", dtype="F32", shape=[2])],
                chunk_size=65_536,
                chunk_digests=[RAW] * (limits.CHUNKS_PER_OBJECT + 1),
            ),
            "chunk_digests has length 65537",
        ),
    ],
)
def test_what_breaks_a_limit_is_refused(read, wire, words):
    with pytest.raises(ProtocolError, match=words):
        read(wire)


def test_a_chunks_bytes_do_not_flood_a_log():
    assert len(repr(transfers.Chunk(HEX, b"x" * 10_000))) < 200


def test_the_largest_object_fits_one_message():
    name = "n" * limits.TENSOR_NAME_BYTES
    tensors = [
        pb.TensorSpec(name=f"{n:05d}{name}"[: limits.TENSOR_NAME_BYTES], dtype="F32", shape=[1] * 8)
        for n in range(limits.TENSORS_PER_OBJECT)
    ]
    manifest = pb.Manifest(tensors=tensors, chunk_size=65_536, chunk_digests=[RAW] * limits.CHUNKS_PER_OBJECT)
    answer = pb.HaveResponse(manifest=manifest, missing=TOO_MANY[:-1])
    assert answer.ByteSize() < limits.MESSAGE_BYTES
