"""The global models that this site received: safetensors files, one a round, that outlive the run.

    <folder>/<run>/round-0000.safetensors    the initial model; round N is the result of round N
    <folder>/<run>/incoming/<digest>.payload  what is being received, chunk by checked chunk

A model file carries its run's plan in its metadata, so that it can be used without the server, the run or the
agent. Torch-free.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from adpfl.config import parse
from adpfl.errors import ConfigError, DataError, IntegrityError, ModelMismatchError
from adpfl.federated.run_plan import RunPlan
from adpfl.kill_points import reach
from adpfl.wire.chunks import Manifest, PartialPayload, read_chunk
from adpfl.wire.safetensors_file import (
    WeightsHeader,
    header_bytes,
    model_description,
    read_header,
    read_manifest,
)
from adpfl_client.durable import make_private_folder, new_file, storing

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
    """A model that is being received; survives a restart at any chunk."""

    @storing(_ROLE)
    def __init__(self, folder: Path, manifest: Manifest) -> None:
        make_private_folder(folder)
        self.manifest = manifest
        self._payload = PartialPayload(folder / f"{manifest.digest}.payload", manifest)

    @property
    def missing(self) -> tuple[str, ...]:
        """Digests of the chunks still to be received, in payload order."""
        return self._payload.missing

    @storing(_ROLE)
    def write(self, digest: str, data: bytes | memoryview) -> None:
        """Check one chunk and keep it.

        Raises:
            ProtocolError: the chunk was not missing.
            IntegrityError: the bytes do not match the digest.
            StorageError: the disk refuses.
        """
        self._payload.write(digest, data)
        reach("client.receiving")

    def chunks(self) -> Iterator[bytes]:
        """The payload's chunks in order, each checked once more as it is read.

        Raises:
            IntegrityError: the file changed since the chunk was received.
        """
        with self._payload.path.open("rb") as file:
            for index in range(len(self.manifest.chunk_digests)):
                yield read_chunk(file, self.manifest, index)

    def forget(self) -> None:
        """Remove the received payload: it stands in the store now."""
        self._payload.path.unlink(missing_ok=True)


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

    def receive(self, run: str, manifest: Manifest) -> IncomingModel:
        """Begin to receive an object, or go on where an earlier attempt ended."""
        return IncomingModel(self.folder / run / INCOMING_FOLDER, manifest)

    @storing(_ROLE)
    def finish(
        self, incoming: IncomingModel, plan: RunPlan, round_number: int, *, averaged: bool = False
    ) -> StoredModel:
        """Turn a completely received object into a model file, atomically.

        A model of the same round from another history (a server restored from a backup) is kept beside it
        under its digest.

        Raises:
            IntegrityError: chunks are missing, or the received file changed on disk.
            StorageError: the disk refuses.
        """
        manifest = incoming.manifest
        if incoming.missing:
            raise IntegrityError(f"model {manifest.digest[:12]} still lacks {len(incoming.missing)} chunks")
        path = self.path(plan.run, round_number)
        if path.exists():
            self._set_aside(path, manifest.digest)
        with new_file(path) as file:
            description = model_description(manifest, plan, round_number=round_number, averaged=averaged)
            file.write(header_bytes(manifest, description))
            for chunk in incoming.chunks():
                file.write(chunk)
            reach("client.model_saving")
        reach("client.model_saved")
        incoming.forget()
        return StoredModel(path, plan, round_number, manifest.digest, manifest.chunk_size)

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
