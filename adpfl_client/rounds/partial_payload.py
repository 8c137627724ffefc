"""A payload on its way to this site's disk: resumes after a crash with what is really there. Torch-free."""

import os
from pathlib import Path
from typing import BinaryIO

from adpfl.errors import IntegrityError, ProtocolError
from adpfl.security.private_files import PRIVATE_FILE_MODE
from adpfl.wire.chunks import Manifest, check_chunk, sha256_hex


class PartialPayload:
    """A payload that is being received into a file: chunks come in any order, are checked, and land in place.

    Opening an existing file hashes it, so a transfer cut off anywhere goes on with what is really on disk.
    """

    def __init__(self, path: Path, manifest: Manifest, *, header: bytes = b"") -> None:
        """Begin, or go on where an earlier attempt ended.

        Args:
            path: the file, readable by the owner alone; one of another size is begun anew.
            manifest: of the payload.
            header: what stands before the payload in the file; written at every opening.

        Raises:
            OSError: the disk refuses.
        """
        self.path = path
        self.manifest = manifest
        self._start = len(header)
        self._missing = dict.fromkeys(manifest.indices_of)
        size = self._start + manifest.payload_bytes
        if path.exists() and path.stat().st_size == size:
            self._forget_held()
        else:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE_MODE)
            with os.fdopen(descriptor, "wb") as file:
                file.truncate(size)
        with path.open("r+b") as file:
            file.write(header)

    def _forget_held(self) -> None:
        with self.path.open("rb") as file:
            for digest, indices in self.manifest.indices_of.items():
                if all(self._stands(file, digest, index) for index in indices):
                    del self._missing[digest]

    def _stands(self, file: BinaryIO, digest: str, index: int) -> bool:
        file.seek(self._place(index))
        return sha256_hex(file.read(self.manifest.chunk_bytes(index))) == digest

    def _place(self, index: int) -> int:
        return self._start + index * self.manifest.chunk_size

    @property
    def missing(self) -> tuple[str, ...]:
        """Digests still to be received, in payload order."""
        return tuple(self._missing)

    def write(self, digest: str, data: bytes | memoryview) -> None:
        """Check one chunk and put it wherever the manifest has it.

        Raises:
            ProtocolError: the chunk was not missing.
            IntegrityError: the bytes do not match the digest, or their number is not the manifest's.
            OSError: the disk refuses.
        """
        if digest not in self._missing:
            raise ProtocolError(f"chunk {digest[:12]} was not asked for")
        indices = self.manifest.indices_of[digest]
        for index in indices:
            # A manifest may name a longer chunk than has room there; it would run over its neighbour.
            if len(data) != self.manifest.chunk_bytes(index):
                raise IntegrityError(
                    f"chunk {digest[:12]} has {len(data)} bytes; the manifest has room for "
                    f"{self.manifest.chunk_bytes(index)}"
                )
        check_chunk(digest, data)
        with self.path.open("r+b") as file:
            for index in indices:
                place = self._place(index)
                file.seek(place)
                file.write(data)
                file.flush()
                # Linux begins to write such a range to the disk, without a wait: the sync at the end, which
                # would have to write everything, finds it done. What is unwritten stays in memory.
                os.posix_fadvise(file.fileno(), place, len(data), os.POSIX_FADV_DONTNEED)
        del self._missing[digest]
