"""Content-addressed chunks on disk: a name exists only if all of its bytes are safely there."""

import errno
import os
import tempfile
from collections.abc import Set as AbstractSet
from pathlib import Path

from adpfl.errors import IntegrityError
from adpfl.kill_points import reach
from adpfl.security.private_files import make_folder, sync_folder
from adpfl.wire.chunks import check_chunk
from adpfl_server.storage import DamagedChunkError

_INCOMING = "incoming"


class BlobFolder:
    """Chunks by SHA-256, in 256 folders by their first two digits. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        """Make the folders where absent."""
        self._root = root
        self._incoming = root / _INCOMING
        make_folder(root)
        for name in (*(f"{prefix:02x}" for prefix in range(256)), _INCOMING):
            (root / name).mkdir(mode=0o700, exist_ok=True)
        sync_folder(root)

    def has(self, digest: str) -> bool:
        """Whether the chunk is stored."""
        return self._path(digest).exists()

    def put(self, digest: str, data: bytes) -> None:
        """Store a chunk durably: on return it survives a power cut. Storing it again mends a damaged one.

        Raises:
            IntegrityError: the bytes do not match the digest; nothing was stored.
            OSError: the disk refuses; nothing was stored.
        """
        check_chunk(digest, data)
        path = self._path(digest)
        if path.exists() and self._is_whole(digest):
            return
        descriptor, name = tempfile.mkstemp(dir=self._incoming)
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            reach("server.chunk_storing")
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)

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
        """Remove half-written chunks and every chunk not in `kept`; only while nothing else writes."""
        for path in self._root.glob("*/*"):
            if path.parent.name == _INCOMING or path.name not in kept:
                reach("server.sweeping")
                path.unlink()

    def _is_whole(self, digest: str) -> bool:
        try:
            self.get(digest)
        except DamagedChunkError:
            return False
        return True

    def _path(self, digest: str) -> Path:
        return self._root / digest[:2] / digest
