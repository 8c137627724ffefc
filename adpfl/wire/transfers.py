"""Bulk messages: manifests, chunks and commits, converted once at the edge into validated dataclasses.

The receiver of bulk data drives: it names what it lacks. Answers name at most `limits.DIGESTS_PER_REQUEST`
missing chunks; the caller asks again until none is missing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from adpfl.errors import ProtocolError
from adpfl.wire import limits
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire.chunks import Manifest, TensorSpec
from adpfl.wire.receipts import Receipt


def manifest_from_wire(message: pb.Manifest) -> Manifest:
    """Validate a received manifest, counts before contents."""
    limits.check_size("Manifest.tensors", message.tensors, limits.TENSORS_PER_OBJECT, least=1)
    limits.check_size("Manifest.chunk_digests", message.chunk_digests, limits.CHUNKS_PER_OBJECT, least=1)
    return Manifest(
        tensors=tuple(
            TensorSpec(name=tensor.name, shape=tuple(tensor.shape), dtype=tensor.dtype)
            for tensor in message.tensors
        ),
        chunk_size=message.chunk_size,
        chunk_digests=_digests_from_wire("Manifest.chunk_digests", message.chunk_digests),
    )


def manifest_to_wire(manifest: Manifest) -> pb.Manifest:
    """The manifest to send."""
    return pb.Manifest(
        tensors=[
            pb.TensorSpec(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape)
            for tensor in manifest.tensors
        ],
        chunk_size=manifest.chunk_size,
        chunk_digests=_digests_to_wire(manifest.chunk_digests),
    )


@dataclass(frozen=True, slots=True)
class HaveRequest:
    """Which chunks of an object are missing, given those held?"""

    run: str
    object_digest: str
    held_digests: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        limits.check_name("HaveRequest.run", self.run)
        limits.check_digest("HaveRequest.object_digest", self.object_digest)
        _check_digests("HaveRequest.held_digests", self.held_digests)

    @classmethod
    def from_wire(cls, message: pb.HaveRequest) -> "HaveRequest":
        """Validate a received message."""
        limits.check_size("HaveRequest.held_digests", message.held_digests, limits.DIGESTS_PER_REQUEST)
        return cls(
            run=message.run,
            object_digest=limits.digest_from_wire("HaveRequest.object_digest", message.object_digest),
            held_digests=_digests_from_wire("HaveRequest.held_digests", message.held_digests),
        )

    def to_wire(self) -> pb.HaveRequest:
        """The message to send."""
        return pb.HaveRequest(
            run=self.run,
            object_digest=bytes.fromhex(self.object_digest),
            held_digests=_digests_to_wire(self.held_digests),
        )


@dataclass(frozen=True, slots=True)
class HaveResponse:
    """An object's manifest, and the first missing chunks in payload order."""

    manifest: Manifest
    missing: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_digests("HaveResponse.missing", self.missing)

    @classmethod
    def from_wire(cls, message: pb.HaveResponse) -> "HaveResponse":
        """Validate a received message."""
        return cls(
            manifest=manifest_from_wire(message.manifest),
            missing=_digests_from_wire("HaveResponse.missing", message.missing),
        )

    def to_wire(self) -> pb.HaveResponse:
        """The message to send."""
        return pb.HaveResponse(
            manifest=manifest_to_wire(self.manifest), missing=_digests_to_wire(self.missing)
        )


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Stream these chunks of an object, in this order."""

    run: str
    object_digest: str
    digests: tuple[str, ...]

    def __post_init__(self) -> None:
        limits.check_name("FetchRequest.run", self.run)
        limits.check_digest("FetchRequest.object_digest", self.object_digest)
        limits.check_size("FetchRequest.digests", self.digests, limits.DIGESTS_PER_REQUEST, least=1)
        _check_digests("FetchRequest.digests", self.digests)
        if len(set(self.digests)) != len(self.digests):
            raise ProtocolError("FetchRequest.digests names a chunk twice; each may stand once")

    @classmethod
    def from_wire(cls, message: pb.FetchRequest) -> "FetchRequest":
        """Validate a received message."""
        limits.check_size("FetchRequest.digests", message.digests, limits.DIGESTS_PER_REQUEST, least=1)
        return cls(
            run=message.run,
            object_digest=limits.digest_from_wire("FetchRequest.object_digest", message.object_digest),
            digests=_digests_from_wire("FetchRequest.digests", message.digests),
        )

    def to_wire(self) -> pb.FetchRequest:
        """The message to send."""
        return pb.FetchRequest(
            run=self.run,
            object_digest=bytes.fromhex(self.object_digest),
            digests=_digests_to_wire(self.digests),
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """One whole chunk under its name. Whether the bytes match the name is checked by who stores them."""

    digest: str
    data: bytes | memoryview = field(repr=False)
    """A view where the chunk still lies in the message that brought it."""

    def __post_init__(self) -> None:
        limits.check_digest("Chunk.digest", self.digest)
        limits.check_size("Chunk.data", self.data, limits.CHUNK_SIZE_MAX, least=1)

    @classmethod
    def from_fetch(cls, message: pb.FetchResponse) -> "Chunk":
        """Validate a chunk that the server streamed."""
        return cls(limits.digest_from_wire("FetchResponse.digest", message.digest), message.data)

    @classmethod
    def from_push(cls, message: pb.PushRequest.Chunk) -> "Chunk":
        """Validate a chunk that a site streamed."""
        return cls(limits.digest_from_wire("PushRequest.chunk.digest", message.digest), message.data)

    def to_fetch(self) -> pb.FetchResponse:
        """The chunk as the server streams it."""
        return pb.FetchResponse(digest=bytes.fromhex(self.digest), data=bytes(self.data))

    def to_push(self) -> pb.PushRequest:
        """The chunk as a site streams it."""
        return pb.PushRequest(
            chunk=pb.PushRequest.Chunk(digest=bytes.fromhex(self.digest), data=bytes(self.data))
        )


@dataclass(frozen=True, slots=True)
class OfferRequest:
    """A site announces its update of a round, made from `base_digest`."""

    run: str
    round: int
    base_digest: str
    manifest: Manifest

    def __post_init__(self) -> None:
        limits.check_name("OfferRequest.run", self.run)
        limits.check_range("OfferRequest.round", self.round, 1, limits.ROUND_MAX)
        limits.check_digest("OfferRequest.base_digest", self.base_digest)

    @classmethod
    def from_wire(cls, message: pb.OfferRequest) -> "OfferRequest":
        """Validate a received message."""
        return cls(
            run=message.run,
            round=message.round,
            base_digest=limits.digest_from_wire("OfferRequest.base_digest", message.base_digest),
            manifest=manifest_from_wire(message.manifest),
        )

    def to_wire(self) -> pb.OfferRequest:
        """The message to send."""
        return pb.OfferRequest(
            run=self.run,
            round=self.round,
            base_digest=bytes.fromhex(self.base_digest),
            manifest=manifest_to_wire(self.manifest),
        )


@dataclass(frozen=True, slots=True)
class OfferResponse:
    """The first chunks of the offered update that the server lacks, in payload order."""

    missing: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_digests("OfferResponse.missing", self.missing)

    @classmethod
    def from_wire(cls, message: pb.OfferResponse) -> "OfferResponse":
        """Validate a received message."""
        return cls(_digests_from_wire("OfferResponse.missing", message.missing))

    def to_wire(self) -> pb.OfferResponse:
        """The message to send."""
        return pb.OfferResponse(missing=_digests_to_wire(self.missing))


@dataclass(frozen=True, slots=True)
class PushHeader:
    """First message of a push: which offered update the chunks belong to."""

    run: str
    round: int
    update_digest: str

    def __post_init__(self) -> None:
        limits.check_name("PushRequest.header.run", self.run)
        limits.check_range("PushRequest.header.round", self.round, 1, limits.ROUND_MAX)
        limits.check_digest("PushRequest.header.update_digest", self.update_digest)

    @classmethod
    def from_wire(cls, message: pb.PushRequest.Header) -> "PushHeader":
        """Validate a received message."""
        digest = limits.digest_from_wire("PushRequest.header.update_digest", message.update_digest)
        return cls(message.run, message.round, digest)

    def to_wire(self) -> pb.PushRequest:
        """The message to send."""
        return pb.PushRequest(
            header=pb.PushRequest.Header(
                run=self.run, round=self.round, update_digest=bytes.fromhex(self.update_digest)
            )
        )


def push_part_from_wire(message: pb.PushRequest) -> PushHeader | Chunk:
    """Validate one message of a push stream.

    Raises:
        ProtocolError: neither header nor chunk, or a field breaks the contract.
    """
    match message.WhichOneof("part"):
        case "header":
            return PushHeader.from_wire(message.header)
        case "chunk":
            return Chunk.from_push(message.chunk)
    raise ProtocolError("PushRequest.part is absent; must be header or chunk")


@dataclass(frozen=True, slots=True)
class PushResponse:
    """What the server still lacks; empty when the update may be committed."""

    missing: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_digests("PushResponse.missing", self.missing)

    @classmethod
    def from_wire(cls, message: pb.PushResponse) -> "PushResponse":
        """Validate a received message."""
        return cls(_digests_from_wire("PushResponse.missing", message.missing))

    def to_wire(self) -> pb.PushResponse:
        """The message to send."""
        return pb.PushResponse(missing=_digests_to_wire(self.missing))


@dataclass(frozen=True, slots=True)
class CommitUpdateRequest:
    """Make an update count. `ledger_head` is empty for a run that spends nothing."""

    run: str
    round: int
    base_digest: str
    update_digest: str
    ledger_head: str = ""

    def __post_init__(self) -> None:
        limits.check_name("CommitUpdateRequest.run", self.run)
        limits.check_range("CommitUpdateRequest.round", self.round, 1, limits.ROUND_MAX)
        limits.check_digest("CommitUpdateRequest.base_digest", self.base_digest)
        limits.check_digest("CommitUpdateRequest.update_digest", self.update_digest)
        if self.ledger_head:
            limits.check_digest("CommitUpdateRequest.ledger_head", self.ledger_head)

    @classmethod
    def from_wire(cls, message: pb.CommitUpdateRequest) -> "CommitUpdateRequest":
        """Validate a received message."""
        head = message.ledger_head
        return cls(
            run=message.run,
            round=message.round,
            base_digest=limits.digest_from_wire("CommitUpdateRequest.base_digest", message.base_digest),
            update_digest=limits.digest_from_wire("CommitUpdateRequest.update_digest", message.update_digest),
            ledger_head=limits.digest_from_wire("CommitUpdateRequest.ledger_head", head) if head else "",
        )

    def to_wire(self) -> pb.CommitUpdateRequest:
        """The message to send."""
        return pb.CommitUpdateRequest(
            run=self.run,
            round=self.round,
            base_digest=bytes.fromhex(self.base_digest),
            update_digest=bytes.fromhex(self.update_digest),
            ledger_head=bytes.fromhex(self.ledger_head),
        )


@dataclass(frozen=True, slots=True)
class CommitUpdateResponse:
    """The receipt and its signature; `receipts.verify_receipt` checks it."""

    receipt: Receipt
    signature: bytes

    def __post_init__(self) -> None:
        limits.check_size("CommitUpdateResponse.signature", self.signature, limits.SIGNATURE_BYTES, least=1)

    @classmethod
    def from_wire(cls, message: pb.CommitUpdateResponse) -> "CommitUpdateResponse":
        """Validate a received message."""
        return cls(Receipt.from_wire(message.receipt), message.signature)

    def to_wire(self) -> pb.CommitUpdateResponse:
        """The message to send."""
        return pb.CommitUpdateResponse(receipt=self.receipt.to_wire(), signature=self.signature)


def _check_digests(name: str, digests: tuple[str, ...]) -> None:
    limits.check_size(name, digests, limits.DIGESTS_PER_REQUEST)
    for digest in digests:
        limits.check_digest(name, digest)


def _digests_from_wire(name: str, raw: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(limits.digest_from_wire(name, digest) for digest in raw)


def _digests_to_wire(digests: Iterable[str]) -> list[bytes]:
    return [bytes.fromhex(digest) for digest in digests]
