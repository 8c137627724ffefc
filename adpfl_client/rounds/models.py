"""The global models that this site received: safetensors files, one a round, that outlive the run.

    <folder>/<run>/round-0000.safetensors    the initial model; round N is the result of round N
    <folder>/<run>/incoming/<digest>.partial  what is being received, chunk by checked chunk; when all of it
                                              is on the disk, it takes the name above

A model file carries its run's plan in its metadata, so that it can be used without the server, the run or the
agent. Torch-free.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from adpfl.config import parse
from adpfl.errors import ConfigError, DataError, IntegrityError, ModelMismatchError
from adpfl.federated.run_plan import RunPlan
from adpfl.kill_points import reach
from adpfl.wire.chunks import Manifest
from adpfl.wire.safetensors_file import (
    WeightsHeader,
    header_bytes,
    model_description,
    read_header,
    read_manifest,
)
from adpfl_client.durable import PARTIAL_SUFFIX, make_private_folder, put_in_place, remove, storing
from adpfl_client.rounds.partial_payload import PartialPayload

log = structlog.get_logger()
INCOMING_FOLDER = "incoming"
_ROLE = "the received model"


@dataclass(frozen=True)
class StoredModel:
    """A model on disk, as its metadata describes it."""

    path: Path
    plan: RunPlan
    round: int
    digest: str
    """SHA-256 of the manifest under which it was received."""
    chunk_size: int

    @property
    def run(self) -> str:
        """Name of the run that trained it."""
        return self.plan.run

    @classmethod
    def read(cls, path: Path) -> "StoredModel":
        """Read a model file's metadata.

        Raises:
            DataError: the file is absent or no safetensors file, or lacks the metadata that this agent
                writes.
        """
        described = _read_header(path).description or {}
        try:
            plan = parse(described["plan"], RunPlan, source=f"{path}: plan")
            return cls(
                path,
                plan,
                int(described["round"]),
                str(described["object_digest"]),
                int(described["chunk_size"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: carries no plan of its run; must be a model that this agent received"
            ) from error
        except ConfigError as error:
            raise DataError(str(error)) from error


class IncomingModel:
    """A model that is being received, in the very file that stays; survives a restart at any chunk."""

    @storing(_ROLE)
    def __init__(self, model: StoredModel, manifest: Manifest, description: Mapping[str, Any]) -> None:
        """Begin, or go on where an earlier attempt ended: what it left is hashed.

        Args:
            model: what is being received, and where it will stand.
            manifest: of its payload.
            description: what the file will say of itself.

        Raises:
            StorageError: the disk refuses.
        """
        self.model = model
        self.manifest = manifest
        folder = make_private_folder(model.path.parent / INCOMING_FOLDER)
        self.path = folder / f"{manifest.digest}{PARTIAL_SUFFIX}"
        for left in folder.iterdir():  # of a model that this site no longer waits for: one at a time comes
            if left != self.path or left.is_symlink() or not left.is_file():
                remove(left)
        # A header of another length, as of another plan, makes another size: such a file is begun anew.
        self._payload = PartialPayload(self.path, manifest, header=header_bytes(manifest, description))

    @property
    def missing(self) -> tuple[str, ...]:
        """Digests of the chunks still to be received, in payload order."""
        return self._payload.missing

    @storing(_ROLE)
    def write(self, digest: str, data: bytes | memoryview) -> None:
        """Check one chunk and keep it.

        Raises:
            ProtocolError: the chunk was not missing.
            IntegrityError: the bytes do not match the digest or have no room.
            StorageError: the disk refuses.
        """
        self._payload.write(digest, data)
        reach("client.receiving")


class ModelStore:
    """The models of one site."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, run: str, round_number: int) -> Path:
        """Where the model after a round stands; round 0 is the initial one."""
        return self.folder / run / f"round-{round_number:04d}.safetensors"

    def find(self, run: str, round_number: int, digest: str) -> StoredModel | None:
        """The stored model of a round; None where there is none that is, byte for byte, of that digest."""
        path = self.path(run, round_number)
        if not path.is_file():
            return None
        try:
            model = StoredModel.read(path)
            if model.digest != digest:
                return None
            found = read_manifest(path, read_header(path), chunk_size=model.chunk_size)
        except (DataError, IntegrityError) as error:
            log.warning("stored model cannot be read; it will be fetched again", reason=str(error))
            return None
        if found.digest != digest:
            log.warning("stored model has changed on disk; it will be fetched again", path=str(path))
            return None
        return model

    @storing(_ROLE)
    def let_go(self, run: str, *, keep: int) -> None:
        """Remove a run's models but those of the newest rounds that are here.

        Raises:
            StorageError: the disk refuses.
        """
        files = {path: _round_of(path) for path in (self.folder / run).glob("round-*.safetensors")}
        kept = sorted(set(files.values()))[-keep:]
        for path, number in files.items():
            if number not in kept:
                path.unlink()

    def stop_receiving(self, run: str) -> None:
        """Remove what was received of a model for a run that is over, if it can be."""
        shutil.rmtree(self.folder / run / INCOMING_FOLDER, ignore_errors=True)

    def receive(
        self, plan: RunPlan, round_number: int, manifest: Manifest, *, averaged: bool = False
    ) -> IncomingModel:
        """Begin to receive a round's model, or go on where an earlier attempt ended.

        Args:
            plan: of its run.
            round_number: whose result it is; 0 is the initial model.
            manifest: the model's.
            averaged: whether it is the average of the models up to that round.

        Raises:
            StorageError: the disk refuses.
        """
        path = self.path(plan.run, round_number)
        model = StoredModel(path, plan, round_number, manifest.digest, manifest.chunk_size)
        description = model_description(manifest, plan, round_number=round_number, averaged=averaged)
        return IncomingModel(model, manifest, description)

    @storing(_ROLE)
    def finish(self, incoming: IncomingModel) -> StoredModel:
        """Let a completely received model stand under its name, durably.

        Every chunk was checked as this process wrote it, or when it found what an earlier one had left; the
        bytes are not read again. A model of the same round from another history (a server restored from a
        backup) is kept beside it under its digest.

        Raises:
            IntegrityError: chunks are missing.
            StorageError: the disk refuses. What it did not sync is received anew, the rest gone on with.
        """
        model = incoming.model
        if incoming.missing:
            raise IntegrityError(f"model {model.digest[:12]} still lacks {len(incoming.missing)} chunks")
        if model.path.exists():
            self._set_aside(model.path, model.digest)
        reach("client.model_saving")
        put_in_place(incoming.path, model.path)
        reach("client.model_saved")
        return model

    def _set_aside(self, path: Path, digest: str) -> None:
        """Keep another history's model under its digest; one that is damaged is replaced."""
        try:
            old = StoredModel.read(path).digest
        except DataError:
            return
        if old != digest:
            path.rename(path.with_name(f"{path.stem}-{old[:12]}{path.suffix}"))

    def models(self) -> list[StoredModel]:
        """Every stored model, by run and round.

        Raises:
            DataError: a file in the store is not a model.
        """
        found = [StoredModel.read(path) for path in sorted(self.folder.glob("*/round-*.safetensors"))]
        return sorted(found, key=lambda model: (model.run, model.round, model.path.name))


def _round_of(path: Path) -> int:
    return int(path.stem.split("-")[1])


def tensor_names(path: Path) -> tuple[str, ...]:
    """A model file's tensors in the order of their bytes: the order of the wire's manifest.

    Raises:
        DataError: the file is absent or no safetensors file.
    """
    return tuple(tensor.name for tensor in _read_header(path).tensors)


def _read_header(path: Path) -> WeightsHeader:
    try:
        return read_header(path)
    except (IntegrityError, ModelMismatchError) as error:
        raise DataError(str(error)) from error
