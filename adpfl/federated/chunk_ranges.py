"""Stretches of an object's float32 coordinates, read and written through chunks, a few of them in memory."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from adpfl.errors import IntegrityError
from adpfl.wire.chunks import ELEMENT_BYTES, FLOAT32, Manifest, TensorSpec

Values = np.ndarray[tuple[int], np.dtype[np.float32]]
Doubles = np.ndarray[tuple[int], np.dtype[np.float64]]


def checked_values(chunk: bytes, size: int, what: str, index: int) -> Values:
    """A chunk's values.

    Raises:
        IntegrityError: the chunk has another size, or a value that is not finite.
    """
    if len(chunk) != size:
        raise IntegrityError(f"chunk {index} of {what} has {len(chunk)} bytes; must be {size}")
    values = np.frombuffer(chunk, dtype=FLOAT32)
    if not np.isfinite(values).all():
        raise IntegrityError(f"chunk {index} of {what} has a value that is not finite")
    return values


def read_range(manifest: Manifest, what: str, start: int, end: int, read: Callable[[str], bytes]) -> Values:
    """Coordinates [start, end) of an object, from the whole chunks that hold them.

    Args:
        manifest: the object's.
        what: names the object in errors.
        start: first coordinate.
        end: one past the last; above `start`.
        read: returns a chunk by its digest, verified.

    Raises:
        IntegrityError: a chunk has the wrong size or a value that is not finite.
    """
    a_chunk = manifest.chunk_size // ELEMENT_BYTES
    pieces = []
    for index in range(start // a_chunk, (end - 1) // a_chunk + 1):
        chunk = read(manifest.chunk_digests[index])
        values = checked_values(chunk, manifest.chunk_bytes(index), what, index)
        pieces.append(values[max(0, start - index * a_chunk) : end - index * a_chunk])
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def rounded(values: NDArray[np.float64], what: str) -> NDArray[np.float32]:
    """Doubles rounded once to float32.

    Raises:
        IntegrityError: a value is beyond the range of float32.
    """
    with np.errstate(over="ignore"):
        result: NDArray[np.float32] = values.astype(FLOAT32)
    if not np.isfinite(result).all():
        raise IntegrityError(f"{what} leaves the range of float32")
    return result


class RangeWriter:
    """An object that is written from its first coordinate to its last, one chunk in memory."""

    def __init__(
        self, tensors: Sequence[TensorSpec], chunk_size: int, write: Callable[[bytes], str], what: str
    ) -> None:
        """Begin an object.

        Args:
            tensors: what it consists of.
            chunk_size: in bytes.
            write: stores a chunk and returns its digest.
            what: names the object in errors.
        """
        self._tensors = tuple(tensors)
        self._chunk_size = chunk_size
        self._write = write
        self._what = what
        self._pending = bytearray()
        self._digests: list[str] = []

    def add(self, values: NDArray[np.float64]) -> None:
        """Append values, each rounded once.

        Raises:
            IntegrityError: a value is beyond the range of float32.
        """
        self._pending += rounded(values, self._what).tobytes()
        while len(self._pending) >= self._chunk_size:
            self._store(self._chunk_size)

    def close(self) -> Manifest:
        """The whole object; every coordinate must have been added."""
        if self._pending:
            self._store(len(self._pending))
        return Manifest(self._tensors, self._chunk_size, tuple(self._digests))

    def _store(self, size: int) -> None:
        self._digests.append(self._write(bytes(self._pending[:size])))
        del self._pending[:size]
