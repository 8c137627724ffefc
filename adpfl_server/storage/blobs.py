"""Content-addressed chunks on disk: a name exists only if all of its bytes are safely there."""

import errno
import itertools
import os
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adpfl.errors import IntegrityError
from adpfl.kill_points import reach
from adpfl.security.private_files import make_folder, sync_folder
from adpfl.wire.chunks import check_chunk
from adpfl_server.storage.direct_file import write_new
from adpfl_server.storage.trouble import DamagedChunkError

SYNCS_AT_ONCE: Final = 4
"""A disk takes several requests at a time, and each waits for it alone."""

_INCOMING = "incoming"


@dataclass(frozen=True, slots=True)
class StagedChunk:
    """A chunk that is written and checked, and not yet safe."""

    digest: str
    partial: Path | None
    """Where it lies; None where the chunk was stored already."""


class BlobFolder:
    """Chunks by SHA-256, in 256 folders by their first two digits. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        """Make the folders where absent."""
        self._root = root
        self._incoming = root / _INCOMING
        self._syncing = ThreadPoolExecutor(SYNCS_AT_ONCE, thread_name_prefix="syncing")
        self._unsafe: set[str] = set()  # they have their names, which may not be on the disk yet
        self._numbers = itertools.count()  # two sites may send the same chunk at once
        make_folder(root)
        for name in (*(f"{prefix:02x}" for prefix in range(256)), _INCOMING):
            (root / name).mkdir(mode=0o700, exist_ok=True)
        sync_folder(root)

    def has(self, digest: str) -> bool:
        """Whether the chunk is stored, so that it survives a power cut."""
        return digest not in self._unsafe and self._path(digest).exists()

    def put(self, digest: str, data: bytes) -> None:
        """Store a chunk durably: on return it survives a power cut. Storing it again mends a damaged one.

        Raises:
            IntegrityError: the bytes do not match the digest; nothing was stored.
            OSError: the disk refuses; nothing was stored.
        """
        self.settle([self.stage(digest, data, read_soon=True)])

    def stage(self, digest: str, data: bytes | memoryview, *, read_soon: bool = False) -> StagedChunk:
        """Check a chunk and write it; `settle` then makes it durable and gives it its name.

        Args:
            digest: its name.
            data: its bytes.
            read_soon: whether it had better stay in memory, as a chunk of a model that every site fetches.

        Raises:
            IntegrityError: the bytes do not match the digest; nothing was written.
            OSError: the disk refuses; nothing was written.
        """
        check_chunk(digest, data)
        if self.has(digest) and self._is_whole(digest):
            return StagedChunk(digest, None)
        partial = self._incoming / f"{digest}.{next(self._numbers)}"
        write_new(str(partial), data, direct=not read_soon)
        return StagedChunk(digest, partial)

    def settle(self, staged: Sequence[StagedChunk]) -> None:
        """Make staged chunks durable: on return they have their names and survive a power cut.

        Raises:
            OSError: the disk refuses; chunks that did not get their names are gone, and none of the others
                counts as stored.
        """
        named = [(chunk.partial, self._path(chunk.digest)) for chunk in staged if chunk.partial is not None]
        try:
            list(self._syncing.map(sync_file, [partial for partial, _ in named]))
            for partial, path in named:
                reach("server.chunk_storing")
                self._unsafe.add(path.name)
                partial.rename(path)
        finally:
            for partial, _ in named:
                partial.unlink(missing_ok=True)
        # The first of these makes the disk write all the names down; the others find it done.
        list(self._syncing.map(sync_folder, {path.parent for _, path in named}))
        self._unsafe.difference_update(path.name for _, path in named)

    def get(self, digest: str) -> bytes:
        """Read a chunk and check it.

        Raises:
            DamagedChunkError: the chunk is absent or unreadable, or its bytes have changed on disk.
        """
        try:
            data = self._path(digest).read_bytes()
            check_chunk(digest, data)
        except FileNotFoundError as error:
            raise DamagedChunkError(f"chunk {digest[:12]} is not stored") from error
        except IntegrityError as error:
            raise DamagedChunkError(str(error)) from error
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise DamagedChunkError(f"chunk {digest[:12]} cannot be read: {error.strerror}") from error
        return data

    def drop(self, digest: str) -> None:
        """Forget a chunk; absent is fine."""
        self._path(digest).unlink(missing_ok=True)

    def sweep(self, kept: AbstractSet[str]) -> None:
        """Remove half-written chunks and every chunk not in `kept`; only while nothing else writes.

        Those that stay count as stored from now on, whoever was killed before it had synced their folders.
        """
        for path in self._root.glob("*/*"):
            if path.parent.name == _INCOMING or path.name not in kept:
                reach("server.sweeping")
                path.unlink()
        list(self._syncing.map(sync_folder, self._root.iterdir()))

    def _is_whole(self, digest: str) -> bool:
        try:
            self.get(digest)
        except DamagedChunkError:
            return False
        return True

    def _path(self, digest: str) -> Path:
        return self._root / digest[:2] / digest


def sync_file(path: Path) -> None:
    """Put a file's bytes on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
