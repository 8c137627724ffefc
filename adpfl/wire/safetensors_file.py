"""Models as safetensors files, without torch: a JSON header, then the very bytes that travel on the wire.

Format: https://huggingface.co/docs/safetensors (8 bytes little-endian header length, JSON header padded with
spaces to a multiple of eight, tensor bytes). Both daemons write the same description into a model's metadata,
so that the same tools read a site's received models and a server's exports.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adpfl.errors import IntegrityError, ModelMismatchError, ProtocolError
from adpfl.federated.run_plan import RunPlan
from adpfl.federated.warm_start import WarmStart, warm_start_of
from adpfl.wire import limits
from adpfl.wire.chunks import DEFAULT_CHUNK_SIZE, ELEMENT_BYTES, Manifest, TensorSpec, sha256_hex

METADATA_KEY = "adpfl"
"""One key that holds JSON; see `model_description`."""
_HEADER_LIMIT_BYTES = 8 * 2**20


@dataclass(frozen=True)
class WeightsHeader:
    """What a weights file says of itself."""

    tensors: tuple[TensorSpec, ...]
    """In the order of their bytes: the order of the wire's manifest."""
    payload_offset: int
    description: dict[str, Any] | None
    """What adpfl wrote about the weights; None in a file from elsewhere."""


def read_header(path: Path) -> WeightsHeader:
    """Read and check the header of a weights file.

    Raises:
        IntegrityError: the file is absent, cut short or no safetensors file.
        ModelMismatchError: a tensor is not float32, or the file holds more or less than its tensors.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            document = json.loads(file.read(min(length, _HEADER_LIMIT_BYTES)))
        metadata = document.pop("__metadata__", {})
        entries = sorted(document.items(), key=lambda item: item[1]["data_offsets"][0])
        tensors = tuple(_tensor(name, **entry) for name, entry in entries)
        offsets = [tuple(entry["data_offsets"]) for _, entry in entries]
        description = _description(metadata[METADATA_KEY]) if METADATA_KEY in metadata else None
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ProtocolError as error:
        raise ModelMismatchError(f"{path}: {error}") from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
        struct.error,
    ) as error:
        raise IntegrityError(f"{path}: is no safetensors file ({error})") from error
    start = 0
    for tensor, found in zip(tensors, offsets, strict=True):
        end = start + ELEMENT_BYTES * tensor.elements
        if found != (start, end):
            raise IntegrityError(
                f"{path}: tensor {tensor.name} stands at {found}; must stand at {(start, end)}"
            )
        start = end
    if path.stat().st_size != 8 + length + start:
        raise IntegrityError(f"{path}: has {path.stat().st_size} bytes; must have {8 + length + start}")
    return WeightsHeader(tensors, 8 + length, description)


def _tensor(name: str, *, dtype: str, shape: list[int], data_offsets: list[int]) -> TensorSpec:
    """One entry of the header; another key than these is a `TypeError`."""
    for offset in data_offsets:
        limits.check_range(f"data_offsets of {name[:60]}", offset, 0, 2**63 - 1)
    return TensorSpec(name, tuple(shape), dtype)


def _description(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise TypeError(f"what it says of itself is a {type(found).__name__}")
    return found


def read_manifest(path: Path, header: WeightsHeader, *, chunk_size: int = DEFAULT_CHUNK_SIZE) -> Manifest:
    """The manifest under which a weights file travels; hashes the file, one chunk in memory at a time.

    Raises:
        IntegrityError: the file cannot be read.
    """
    digests = []
    try:
        with path.open("rb") as file:
            file.seek(header.payload_offset)
            while chunk := file.read(chunk_size):
                digests.append(sha256_hex(chunk))
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror or error}") from error
    return Manifest(tensors=header.tensors, chunk_size=chunk_size, chunk_digests=tuple(digests))


def read_warm_start(path: Path) -> WarmStart:
    """What a plan says of a weights file that a run starts from.

    Raises:
        IntegrityError: the file is absent, cut short or no safetensors file.
        ModelMismatchError: a tensor is not float32.
    """
    header = read_header(path)
    return warm_start_of(read_manifest(path, header).digest, header.description)


def model_description(
    manifest: Manifest, plan: RunPlan, *, round_number: int, averaged: bool = False
) -> dict[str, Any]:
    """What adpfl writes about a global model: enough to use the file without the run that made it.

    Args:
        manifest: the model's.
        plan: of the run that made it.
        round_number: whose result it is; 0 is the initial model.
        averaged: whether it is the average of the models up to that round, and not the last of them.
    """
    return {
        "averaged": averaged,
        "chunk_size": manifest.chunk_size,
        "object_digest": manifest.digest,
        "plan": plan.model_dump(mode="json"),
        "round": round_number,
    }


def header_bytes(manifest: Manifest, description: Mapping[str, Any]) -> bytes:
    """The header that stands before the manifest's payload."""
    document: dict[str, Any] = {
        "__metadata__": {METADATA_KEY: json.dumps(dict(description), sort_keys=True)},
    }
    start = 0
    for tensor in manifest.tensors:
        end = start + ELEMENT_BYTES * tensor.elements
        document[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    text += b" " * (-len(text) % 8)  # the payload starts at a multiple of eight
    return struct.pack("<Q", len(text)) + text
