"""Finished updates waiting to be pushed: one a run, round and base model.

The noise of an update is drawn once. Whatever happens to the link, the server or this process, a retry sends
the bytes that stand here, so that an update is released once and its budget spent once. An entry is a folder
that appears by a rename when all of it is on the disk (it is sealed then); what a crash leaves unsealed is
discarded and stays charged.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import StringConstraints, ValidationError

from adpfl.config import FrozenModel, Name, load_json
from adpfl.errors import IntegrityError, StateError
from adpfl.federated.records import StepRecord
from adpfl.kill_points import reach
from adpfl.security.private_files import sync_folder
from adpfl.wire.chunks import Manifest, read_chunk, write_payload
from adpfl_client.durable import (
    PARTIAL_SUFFIX,
    discard_partials,
    make_private_folder,
    new_file,
    new_folder,
    room,
    storing,
    write_bytes,
)

ENTRY_FILE = "entry.json"
MANIFEST_FILE = "manifest.json"
PAYLOAD_FILE = "update.payload"
MARGIN_BYTES = 4 * 2**20
"""Held beside an update's bytes: for its manifest, the ledger's rows and the run's record."""
_RUN_FOLDER_DIGITS = 16
_ROOM = "room"
_FORGOTTEN = ".sent"
_ROLE = "the spool of finished updates"

HexDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class SpoolKey:
    """What an update answers: the task of one round, from one base model."""

    run: str
    round: int
    base_digest: str

    def __str__(self) -> str:
        """As messages name it."""
        return f"run {self.run}, round {self.round}, base {self.base_digest[:12]}"


class SpoolEntry(FrozenModel):
    """What is kept beside an update's bytes. Private to the site."""

    schema_version: Literal[1] = 1
    run: Name
    round: int
    base_digest: HexDigest
    update_digest: HexDigest
    reservation: str
    """The ledger's reservation that pays for this update."""
    steps: tuple[StepRecord, ...]
    engine_state: dict[str, Any] | None
    """The privacy engine's state after this round: where the next round goes on."""


@dataclass(frozen=True)
class SpooledUpdate:
    """A sealed update."""

    folder: Path
    entry: SpoolEntry
    manifest: Manifest

    @property
    def key(self) -> SpoolKey:
        """Which task this update answers."""
        return SpoolKey(self.entry.run, self.entry.round, self.entry.base_digest)

    def chunk(self, digest: str) -> bytes:
        """Read one chunk and check it.

        Raises:
            IntegrityError: the update has no such chunk, or the bytes on disk have changed.
            StorageError: the disk refuses.
        """
        indices = self.manifest.indices_of.get(digest)
        if indices is None:
            raise IntegrityError(f"the spooled update of {self.key} has no chunk {digest[:12]}")
        with storing(_ROLE), (self.folder / PAYLOAD_FILE).open("rb") as file:
            return read_chunk(file, self.manifest, indices[0])


class Spool:
    """The spool folder of one site. One process at a time."""

    @storing(_ROLE)
    def __init__(self, folder: Path) -> None:
        self.folder = make_private_folder(folder)

    @storing(_ROLE)
    def discard_unsealed(self) -> list[str]:
        """Remove what a crash left half-written; returns a line for each update, to be said aloud.

        Room that was held, and an update that was being forgotten, go too and are no loss.
        """
        return [
            f"{path.parent.name}/{path.name.removesuffix(PARTIAL_SUFFIX)}"
            for run_folder in self._run_folders()
            for path in discard_partials(run_folder)
            if not path.name.startswith(_ROOM) and not path.name.endswith(_FORGOTTEN + PARTIAL_SUFFIX)
        ]

    @contextmanager
    def room(self, run: str, payload_bytes: int) -> Iterator[None]:
        """Hold the room that an update will need, so that no budget is reserved for one that finds none.

        Args:
            run: whose update.
            payload_bytes: of the update.

        Raises:
            DiskUnwritableError: there is not so much, or the disk is read-only.
        """
        with ExitStack() as held:
            with storing("room for the update"):
                folder = make_private_folder(self.folder / run)
                held.enter_context(room(folder / _ROOM, payload_bytes + MARGIN_BYTES))
            yield

    @storing(_ROLE)
    def seal(
        self,
        key: SpoolKey,
        arrays: Mapping[str, NDArray[np.float32]],
        *,
        chunk_size: int,
        reservation: str,
        steps: tuple[StepRecord, ...],
        engine_state: dict[str, Any] | None,
    ) -> SpooledUpdate:
        """Write a finished update so that it survives a power cut.

        Args:
            key: the task it answers.
            arrays: the update, float32, in the order of the base model's tensors.
            chunk_size: of the base model's manifest.
            reservation: the ledger's reservation that pays for it.
            steps: what the local steps did.
            engine_state: the privacy engine's state after the round.

        Raises:
            StateError: another update is sealed under this key: noise would be drawn twice for one task.
            ModelMismatchError: an array is not float32.
            StorageError: the disk refuses; nothing is sealed.
        """
        path = self._path(key)
        if path.exists():
            raise StateError(f"an update for {key} is already sealed in the spool; a task is answered once")
        make_private_folder(path.parent)
        with new_folder(path) as folder:
            with new_file(folder / PAYLOAD_FILE) as file:
                manifest = write_payload(file, arrays, chunk_size=chunk_size)
            entry = SpoolEntry(
                run=key.run,
                round=key.round,
                base_digest=key.base_digest,
                update_digest=manifest.digest,
                reservation=reservation,
                steps=steps,
                engine_state=engine_state,
            )
            write_bytes(folder / MANIFEST_FILE, manifest.canonical_json())
            write_bytes(folder / ENTRY_FILE, entry.model_dump_json(indent=1).encode())
            reach("client.spooling")
        return SpooledUpdate(path, entry, manifest)

    def find(self, key: SpoolKey) -> SpooledUpdate | None:
        """The sealed update for a task, or None.

        Raises:
            IntegrityError: the entry cannot be read or does not match itself.
        """
        path = self._path(key)
        if not path.exists():
            return None
        update = _load(path)
        if update.key != key:
            raise IntegrityError(f"{path} holds an update for {update.key}; its name says {key}")
        return update

    def sealed(self, run: str) -> list[SpooledUpdate]:
        """Every sealed update of a run, by round.

        Raises:
            IntegrityError: an entry cannot be read or does not match itself.
        """
        folder = self.folder / run
        if not folder.is_dir():
            return []
        found = [_load(path) for path in folder.iterdir() if (path / ENTRY_FILE).is_file()]
        return sorted(found, key=lambda update: update.entry.round)

    @storing(_ROLE)
    def remove(self, update: SpooledUpdate) -> None:
        """Forget an update whose receipt is stored.

        The folder first loses its sealed name, so that a crash in between leaves something to discard, never
        half an entry.
        """
        doomed = update.folder.with_name(update.folder.name + _FORGOTTEN + PARTIAL_SUFFIX)
        update.folder.rename(doomed)
        sync_folder(doomed.parent)
        shutil.rmtree(doomed)

    def _run_folders(self) -> Iterator[Path]:
        yield from sorted(path for path in self.folder.iterdir() if path.is_dir())

    def _path(self, key: SpoolKey) -> Path:
        return self.folder / key.run / f"round-{key.round:04d}-{key.base_digest[:_RUN_FOLDER_DIGITS]}"


def _load(path: Path) -> SpooledUpdate:
    try:
        entry = SpoolEntry.model_validate(load_json((path / ENTRY_FILE).read_text(encoding="utf-8")))
        manifest = Manifest.from_canonical_json((path / MANIFEST_FILE).read_bytes())
        size = (path / PAYLOAD_FILE).stat().st_size
    except (OSError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise IntegrityError(f"{path}: the spooled update cannot be read: {reason}") from error
    if manifest.digest != entry.update_digest:
        raise IntegrityError(f"{path}: the manifest is not that of update {entry.update_digest[:12]}")
    if size != manifest.payload_bytes:
        raise IntegrityError(
            f"{path}: the update has {size} bytes; its manifest says {manifest.payload_bytes}"
        )
    return SpooledUpdate(path, entry, manifest)
