"""Every message that a peer can send, from its bytes to our validated class and back."""

import hashlib
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from adpfl.errors import ProtocolError
from adpfl.wire import messages, operations, receipts, transfers
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire.chunks import Manifest, TensorSpec
from tests.fuzz.target import Target

HEX = "ab" * 32
INSTANCE = "0f" * 16
PLAN = b'{"run":"demo"}'
MANIFEST = Manifest((TensorSpec("conv.weight", (20_000,)), TensorSpec("scale", ())), 65_536, (HEX, "cd" * 32))
RECEIPT = receipts.Receipt("demo", 1, "hospital1", HEX, HEX, HEX, receipts.CommitOutcome.ACCEPTED, 5)
SIGNED = receipts.SignedReceipt(RECEIPT, b"signature")

SENT = (
    messages.EnrollRequest("site", "hospital1", "token", b"csr"),
    messages.EnrollResponse(b"-----BEGIN"),
    messages.JoinRequest("hospital1", INSTANCE, "1.0", "demo", {"skin_lesion": 12, "other": 3}),
    messages.RunOffer("demo", PLAN, hashlib.sha256(PLAN).hexdigest(), messages.RunStatus.RUNNING),
    messages.JoinResponse((), "1.0", INSTANCE, SIGNED),
    messages.NextTaskRequest("demo", 30),
    messages.NextTaskResponse(messages.TaskKind.TRAIN, 3, HEX, 1, "détail"),
    messages.ReportMetricsRequest("demo", 2, {"dice": 0.5, "loss": -1.0}),
    messages.HeartbeatRequest("demo", 1, messages.SiteActivity.TRAINING, 3, 10, "ε"),
    messages.HeartbeatResponse(obsolete=True),
    operations.RenewRequest(b"csr"),
    operations.RenewResponse(b"-----BEGIN"),
    operations.GetStatusRequest("demo"),
    operations.ControlRunRequest("demo", operations.RunControl.CANCEL, "enough"),
    operations.ControlRunResponse(messages.RunStatus.CANCELLED),
    operations.RevokeRequest("operator", "bob"),
    operations.ReadAuditLogRequest(7),
    receipts.Receipt("demo", 1, "hospital1", HEX, HEX, "", receipts.CommitOutcome.LATE, 5),
    SIGNED,
    transfers.HaveRequest("demo", HEX, (HEX,)),
    transfers.HaveResponse(MANIFEST, (HEX,)),
    transfers.FetchRequest("demo", HEX, (HEX, "cd" * 32)),
    transfers.OfferRequest("demo", 1, HEX, MANIFEST),
    transfers.OfferResponse((HEX,)),
    transfers.PushResponse((HEX,)),
    transfers.CommitUpdateRequest("demo", 1, HEX, HEX, HEX),
    transfers.CommitUpdateResponse(RECEIPT, b"signature"),
)
"""One of each message with a class of its own; what is received as such a class is read by `from_wire`."""


def sha256(data: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _read(parse: Callable[[bytes], Any], check: Callable[[Any], None]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        try:
            message = parse(data)
        except DecodeError:  # `adpfl_server.limits.incoming` refuses it; so does gRPC at the agent
            return
        check(message)

    return run


def _of(example: Any) -> Target:
    kind, wire = type(example), example.to_wire()

    def check(message: Any) -> None:
        value = kind.from_wire(message)
        assert kind.from_wire(type(wire).FromString(value.to_wire().SerializeToString())) == value

    return Target(
        kind.__name__, _read(type(wire).FromString, check), (wire.SerializeToString(),), (ProtocolError,)
    )


def _manifest(message: Any) -> None:
    manifest = transfers.manifest_from_wire(message)
    assert transfers.manifest_from_wire(transfers.manifest_to_wire(manifest)) == manifest
    assert Manifest.from_canonical_json(manifest.canonical_json()) == manifest


def _fetched(message: Any) -> None:
    chunk = transfers.Chunk.from_fetch(message)
    assert transfers.Chunk.from_fetch(chunk.to_fetch()) == chunk


def _pushed(message: Any) -> None:
    part = transfers.push_part_from_wire(message)
    sent = part.to_push() if isinstance(part, transfers.Chunk) else part.to_wire()
    assert transfers.push_part_from_wire(sent) == part


_CHUNK = transfers.Chunk(HEX, b"bytes")
_HEADER = transfers.PushHeader("demo", 1, HEX)

WIRE_TARGETS = (
    *(_of(example) for example in SENT),
    Target(
        "Manifest",
        _read(pb.Manifest.FromString, _manifest),
        (transfers.manifest_to_wire(MANIFEST).SerializeToString(),),
        (ProtocolError,),
    ),
    Target(
        "FetchResponse",
        _read(pb.FetchResponse.FromString, _fetched),
        (_CHUNK.to_fetch().SerializeToString(),),
        (ProtocolError,),
    ),
    Target(
        "PushRequest",
        _read(pb.PushRequest.FromString, _pushed),
        (_CHUNK.to_push().SerializeToString(), _HEADER.to_wire().SerializeToString()),
        (ProtocolError,),
    ),
)
