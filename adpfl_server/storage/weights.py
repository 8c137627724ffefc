"""A run's weights files at the server: what may start a run, and what is exported of it.

The format is `adpfl.wire.safetensors_file`'s.
"""

import os
import tempfile
from pathlib import Path

from adpfl.errors import ConfigError, IntegrityError, ModelMismatchError
from adpfl.federated.aggregation import is_finite
from adpfl.federated.run_plan import RunPlan
from adpfl.security.private_files import sync_folder
from adpfl.wire.chunks import DEFAULT_CHUNK_SIZE, Manifest, sha256_hex
from adpfl.wire.safetensors_file import (
    METADATA_KEY,
    WeightsHeader,
    header_bytes,
    model_description,
    read_header,
    read_warm_start,
)
from adpfl_server.config import RunEntry
from adpfl_server.storage.blobs import BlobFolder

__all__ = [
    "METADATA_KEY",
    "WeightsHeader",
    "check_description",
    "export_weights",
    "import_weights",
    "plan_of",
    "read_header",
]


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


def plan_of(entry: RunEntry) -> RunPlan:
    """The plan that sites are offered: with what its initial weights are, where the entry names a file.

    Raises:
        ConfigError: the entry itself says another thing of the file.
        IntegrityError: the file is absent or damaged.
        ModelMismatchError: its weights are of another task or network.
    """
    if entry.initial_model is None:
        if entry.warm_start is not None:
            raise ConfigError(
                f"warm_start of run {entry.run} needs initial_model, the file that it describes"
            )
        return entry.plan
    header = read_header(entry.initial_model)
    check_description(entry.initial_model, header, entry.plan)
    found = read_warm_start(entry.initial_model)
    if entry.warm_start not in (None, found):
        raise ConfigError(
            f"warm_start of run {entry.run} describes another file than {entry.initial_model}, whose "
            f"model_digest is {found.model_digest}; leave warm_start out, and it is read from the file"
        )
    return entry.plan.model_copy(update={"warm_start": found})


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
    path: Path,
    manifest: Manifest,
    blobs: BlobFolder,
    *,
    plan: RunPlan,
    round_number: int,
    averaged: bool = False,
) -> None:
    """Write a stored model as a safetensors file: whole under its name, or not at all.

    The metadata is what the agent writes beside the models it receives, so the same tools read both.

    Raises:
        IntegrityError: a chunk is absent or damaged.
        OSError: the file cannot be written.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)
            description = model_description(manifest, plan, round_number=round_number, averaged=averaged)
            file.write(header_bytes(manifest, description))
            for digest in manifest.chunk_digests:
                file.write(blobs.get(digest))
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)
