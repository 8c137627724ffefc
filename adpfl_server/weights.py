"""Models as safetensors files, without torch: a JSON header, then the very bytes that travel on the wire.

Format: https://huggingface.co/docs/safetensors (8 bytes little-endian header length, JSON header, tensor
bytes).
"""

import json
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adpfl.errors import IntegrityError, ModelMismatchError, ProtocolError
from adpfl.federated.aggregation import is_finite
from adpfl.federated.run_plan import RunPlan
from adpfl.security.private_files import sync_folder
from adpfl.wire.chunks import DEFAULT_CHUNK_SIZE, ELEMENT_BYTES, Manifest, TensorSpec, sha256_hex
from adpfl_server.blobs import BlobFolder

METADATA_KEY = "adpfl"
"""Holds JSON that says which plan the weights are for."""
_HEADER_LIMIT_BYTES = 8 * 2**20


@dataclass(frozen=True)
class WeightsHeader:
    """What a weights file says of itself."""

    tensors: tuple[TensorSpec, ...]
    """In the order of their bytes."""
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
        tensors = tuple(TensorSpec(name, tuple(entry["shape"]), entry["dtype"]) for name, entry in entries)
        offsets = [tuple(entry["data_offsets"]) for _, entry in entries]
        description = json.loads(metadata[METADATA_KEY]) if METADATA_KEY in metadata else None
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ProtocolError as error:
        raise ModelMismatchError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error) as error:
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


def check_description(path: Path, header: WeightsHeader, plan: RunPlan) -> None:
    """Refuse weights that say they are for another task or network; a file from elsewhere says nothing.

    Raises:
        ModelMismatchError: names what differs.
    """
    found = header.description
    if found is None:
        return
    of_plan = found.get("plan")
    if isinstance(of_plan, dict):  # a model that a run made
        network = of_plan.get("network") or {}
        found = {"task": of_plan.get("task"), **network}
    expected = {
        "task": plan.task,
        "architecture": plan.network.architecture,
        "size": plan.network.size,
    }
    for key, value in expected.items():
        if found.get(key) != value:
            raise ModelMismatchError(f"{path}: its {key} is {found.get(key)!r}; run {plan.run} has {value!r}")


def import_weights(path: Path, blobs: BlobFolder) -> Manifest:
    """Store a weights file's payload as chunks, one in memory at a time.

    Raises:
        IntegrityError: the file is damaged or has a value that is not finite.
        ModelMismatchError: a tensor is not float32.
    """
    header = read_header(path)
    digests = []
    with path.open("rb") as file:
        file.seek(header.payload_offset)
        while chunk := file.read(DEFAULT_CHUNK_SIZE):
            if not is_finite(chunk):
                raise IntegrityError(f"{path}: has a value that is not finite")
            digest = sha256_hex(chunk)
            blobs.put(digest, chunk)
            digests.append(digest)
    return Manifest(tensors=header.tensors, chunk_size=DEFAULT_CHUNK_SIZE, chunk_digests=tuple(digests))


def export_weights(
    path: Path, manifest: Manifest, blobs: BlobFolder, *, plan: RunPlan, round_number: int
) -> None:
    """Write a stored model as a safetensors file: whole under its name, or not at all.

    The metadata is what the agent writes beside the models it receives, so the same tools read both.

    Raises:
        IntegrityError: a chunk is absent or damaged.
        OSError: the file cannot be written.
    """
    described = {
        "chunk_size": manifest.chunk_size,
        "object_digest": manifest.digest,
        "plan": plan.model_dump(mode="json"),
        "round": round_number,
    }
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)
            file.write(_header_bytes(manifest, {METADATA_KEY: json.dumps(described, sort_keys=True)}))
            for digest in manifest.chunk_digests:
                file.write(blobs.get(digest))
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _header_bytes(manifest: Manifest, metadata: dict[str, str]) -> bytes:
    document: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for tensor in manifest.tensors:
        end = start + ELEMENT_BYTES * tensor.elements
        document[tensor.name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    text += b" " * (-len(text) % 8)  # the payload starts at a multiple of eight
    return struct.pack("<Q", len(text)) + text
