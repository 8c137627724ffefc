"""Content-addressed objects: what a model or an update is on the wire and on disk, without gRPC.

An object is a manifest plus chunks. Its payload is the concatenation, in manifest order, of the tensors' raw
little-endian bytes; chunk i is `payload[i * chunk_size : (i + 1) * chunk_size]`. A chunk is named by the
SHA-256 of its bytes, an object by the SHA-256 of its manifest's canonical JSON. The rules are those of
`federation.proto`.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from adpfl.errors import IntegrityError, ModelMismatchError, ProtocolError
from adpfl.wire import limits

DEFAULT_CHUNK_SIZE = 2**20
ELEMENT_BYTES = 4
FLOAT32 = np.dtype("<f4")


def sha256_hex(data: bytes | memoryview) -> str:
    """SHA-256 as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and element type of one tensor.

    Raises:
        ProtocolError: a field breaks the contract's limits.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "F32"

    def __post_init__(self) -> None:
        name = self.name
        if not (0 < len(name) <= limits.TENSOR_NAME_BYTES and name.isascii() and name.isprintable()):
            raise ProtocolError(
                f"tensors.name is {name[:60]!r}; "
                f"must be 1 to {limits.TENSOR_NAME_BYTES} printable ASCII characters"
            )
        if self.dtype != "F32":
            raise ProtocolError(f"tensors.dtype of {name} is {self.dtype[:60]!r}; must be F32")
        limits.check_size(f"tensors.shape of {name}", self.shape, limits.TENSOR_DIMENSIONS)
        for size in self.shape:
            limits.check_range(f"tensors.shape of {name}", size, 1, 2**40)

    @property
    def elements(self) -> int:
        """Number of values; 1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Manifest:
    """What an object consists of; two objects with the same digest have the same bytes.

    Raises:
        ProtocolError: a field breaks the contract's limits, a tensor's name stands twice, or the number of
            chunks is not the one that tensors and chunk size require.
    """

    tensors: tuple[TensorSpec, ...]
    chunk_size: int
    chunk_digests: tuple[str, ...]

    def __post_init__(self) -> None:
        limits.check_size("manifest.tensors", self.tensors, limits.TENSORS_PER_OBJECT, least=1)
        limits.check_size("manifest.chunk_digests", self.chunk_digests, limits.CHUNKS_PER_OBJECT, least=1)
        check_chunk_size(self.chunk_size)
        names: set[str] = set()
        for tensor in self.tensors:
            if tensor.name in names:
                raise ProtocolError(f"manifest.tensors names {tensor.name} twice; each name may stand once")
            names.add(tensor.name)
        for digest in self.chunk_digests:
            limits.check_digest("manifest.chunk_digests", digest)
        expected = chunk_count(self.payload_bytes, self.chunk_size)
        if len(self.chunk_digests) != expected:
            raise ProtocolError(
                f"manifest.chunk_digests has {len(self.chunk_digests)} entries; "
                f"{self.payload_bytes} bytes in chunks of {self.chunk_size} need {expected}"
            )

    @cached_property
    def payload_bytes(self) -> int:
        """Size of the whole payload."""
        return ELEMENT_BYTES * sum(tensor.elements for tensor in self.tensors)

    @cached_property
    def digest(self) -> str:
        """The object's name: SHA-256 of the canonical JSON, hexadecimal."""
        return sha256_hex(self.canonical_json())

    @cached_property
    def indices_of(self) -> dict[str, tuple[int, ...]]:
        """Where each distinct chunk stands, in order of first appearance; equal chunks share one digest."""
        places: dict[str, list[int]] = {}
        for index, digest in enumerate(self.chunk_digests):
            places.setdefault(digest, []).append(index)
        return {digest: tuple(indices) for digest, indices in places.items()}

    def chunk_bytes(self, index: int) -> int:
        """Size of chunk `index`: `chunk_size`, or what is left for the last one."""
        return min(self.chunk_size, self.payload_bytes - index * self.chunk_size)

    def canonical_json(self) -> bytes:
        """Sorted, compact ASCII JSON: the same manifest always gives the same bytes."""
        document = {
            "chunk_size": self.chunk_size,
            "chunks": list(self.chunk_digests),
            "tensors": [
                {"dtype": tensor.dtype, "name": tensor.name, "shape": list(tensor.shape)}
                for tensor in self.tensors
            ],
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")

    @classmethod
    def from_canonical_json(cls, text: bytes) -> "Manifest":
        """Read back what `canonical_json` wrote.

        Raises:
            IntegrityError: not the canonical JSON of a manifest.
            ProtocolError: a field breaks the contract's limits, or the text is nested too deeply to be read.
        """
        try:
            document: Any = json.loads(text)
            manifest = cls(
                tensors=tuple(
                    TensorSpec(name=entry["name"], shape=tuple(entry["shape"]), dtype=entry["dtype"])
                    for entry in document["tensors"]
                ),
                chunk_size=document["chunk_size"],
                chunk_digests=tuple(document["chunks"]),
            )
        except RecursionError as error:
            raise ProtocolError("manifest is nested too deeply to be read") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"stored manifest cannot be read: {type(error).__name__}: {error}"
            ) from error
        if manifest.canonical_json() != text:
            raise IntegrityError("stored manifest is not in canonical form")
        return manifest

    def check_same_tensors(self, base: "Manifest") -> None:
        """Refuse a manifest whose tensors or chunk size differ from those of the round's base model.

        Raises:
            ModelMismatchError: names the first tensor that differs.
        """
        if self.chunk_size != base.chunk_size:
            raise ModelMismatchError(f"chunk_size is {self.chunk_size}; the base model has {base.chunk_size}")
        check_same_tensors(self.tensors, base.tensors)


def check_same_tensors(found: Sequence[TensorSpec], expected: Sequence[TensorSpec]) -> None:
    """Refuse another list of tensors than the expected one; order counts.

    Raises:
        ModelMismatchError: names the first tensor that differs.
    """
    for ours, theirs in zip(found, expected, strict=False):
        if ours != theirs:
            raise ModelMismatchError(
                f"tensor {ours.name} {ours.dtype}{list(ours.shape)} stands where the model has "
                f"{theirs.name} {theirs.dtype}{list(theirs.shape)}"
            )
    if len(found) != len(expected):
        raise ModelMismatchError(f"{len(found)} tensors; the model has {len(expected)}")


def check_chunk_size(chunk_size: int) -> None:
    """Refuse a chunk size that is not a power of two from 64 KiB to 4 MiB.

    Raises:
        ProtocolError: the size breaks the rule.
    """
    limits.check_range("manifest.chunk_size", chunk_size, limits.CHUNK_SIZE_MIN, limits.CHUNK_SIZE_MAX)
    if chunk_size & (chunk_size - 1):
        raise ProtocolError(f"manifest.chunk_size is {chunk_size}; must be a power of two")


def chunk_count(payload_bytes: int, chunk_size: int) -> int:
    """Number of chunks that a payload needs."""
    return -(-payload_bytes // chunk_size)


def iter_chunks(arrays: Mapping[str, NDArray[np.float32]], chunk_size: int) -> Iterator[bytes]:
    """Cut named float32 arrays into chunks, in the mapping's order, holding one chunk at a time.

    Raises:
        ModelMismatchError: an array is not float32.
    """
    pending = bytearray()
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise ModelMismatchError(f"tensor {name} is {array.dtype}; must be float32")
        raw = np.ascontiguousarray(array, dtype=FLOAT32).reshape(-1).view(np.uint8).data
        start = 0
        while start < len(raw):
            taken = min(chunk_size - len(pending), len(raw) - start)
            pending += raw[start : start + taken]
            start += taken
            if len(pending) == chunk_size:
                yield bytes(pending)
                pending.clear()
    if pending:
        yield bytes(pending)


def manifest_of_arrays(
    arrays: Mapping[str, NDArray[np.float32]], *, chunk_size: int = DEFAULT_CHUNK_SIZE
) -> Manifest:
    """The manifest of named float32 arrays, in the mapping's order. Hashes; stores nothing.

    Raises:
        ModelMismatchError: an array is not float32.
        ProtocolError: names, shapes or sizes break the contract's limits.
    """
    check_chunk_size(chunk_size)
    return Manifest(
        tensors=tuple(TensorSpec(name=name, shape=tuple(array.shape)) for name, array in arrays.items()),
        chunk_size=chunk_size,
        chunk_digests=tuple(sha256_hex(chunk) for chunk in iter_chunks(arrays, chunk_size)),
    )


def write_payload(file: BinaryIO, arrays: Mapping[str, NDArray[np.float32]], *, chunk_size: int) -> Manifest:
    """Write the payload of named arrays and return its manifest; the caller makes the file durable.

    Raises:
        ModelMismatchError: an array is not float32.
        ProtocolError: names, shapes or sizes break the contract's limits.
    """
    check_chunk_size(chunk_size)
    digests = []
    for chunk in iter_chunks(arrays, chunk_size):
        file.write(chunk)
        digests.append(sha256_hex(chunk))
    return Manifest(
        tensors=tuple(TensorSpec(name=name, shape=tuple(array.shape)) for name, array in arrays.items()),
        chunk_size=chunk_size,
        chunk_digests=tuple(digests),
    )


def read_chunk(file: BinaryIO, manifest: Manifest, index: int) -> bytes:
    """Read chunk `index` of a payload file and check it against the manifest.

    Raises:
        IntegrityError: the bytes are not those that the manifest names.
    """
    file.seek(index * manifest.chunk_size)
    data = file.read(manifest.chunk_bytes(index))
    check_chunk(manifest.chunk_digests[index], data)
    return data


def check_chunk(digest: str, data: bytes | memoryview) -> None:
    """Refuse bytes that are not the chunk of that name.

    Raises:
        IntegrityError: SHA-256 differs.
    """
    found = sha256_hex(data)
    if found != digest:
        raise IntegrityError(
            f"chunk {digest[:12]} holds {len(data)} bytes with SHA-256 {found[:12]}; they do not match"
        )
