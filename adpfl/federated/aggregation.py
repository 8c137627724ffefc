"""FedAvg over spooled chunks: the next model without ever holding an update.

new = base + sum_k w_k * update_k  with  sum_k w_k = 1     (McMahan et al. 2017, algorithm 1, on differences)

The sum is made chunk by chunk in double precision and rounded once to float32. Sites are added in the order
given, so the same updates give the same bytes on every machine. Memory: a few chunks, whatever the number of
sites.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from adpfl.errors import IntegrityError
from adpfl.wire.chunks import FLOAT32, Manifest


@dataclass(frozen=True, slots=True)
class WeightedUpdate:
    """One site's update and its share of the sum."""

    site: str
    weight: float
    manifest: Manifest


def is_finite(chunk: bytes) -> bool:
    """Whether every float32 of a chunk is finite; the chunk's size must be a multiple of four."""
    return bool(np.isfinite(np.frombuffer(chunk, dtype=FLOAT32)).all())


def aggregate(
    base: Manifest,
    updates: Sequence[WeightedUpdate],
    *,
    read: Callable[[str], bytes],
    write: Callable[[bytes], str],
) -> Manifest:
    """Add weighted updates to a model.

    Args:
        base: the model that every update was made from.
        updates: at least one, in the order in which they are added.
        read: returns a chunk by its digest, verified.
        write: stores a chunk and returns its digest.

    Returns:
        The new model's manifest.

    Raises:
        ModelMismatchError: an update's tensors differ from the base model's.
        IntegrityError: a chunk has the wrong size or a value that is not finite, in an update or in the
        result. ValueError: no update, or weights that do not add up to one.
    """
    if not updates:
        raise ValueError("updates is empty; a round needs at least one")
    total = sum(update.weight for update in updates)
    if abs(total - 1.0) > 1e-9:
        raise ValueError(f"weights add up to {total}; must be 1")
    for update in updates:
        update.manifest.check_same_tensors(base)
    digests = tuple(_sum_chunk(base, updates, index, read, write) for index in range(len(base.chunk_digests)))
    return Manifest(tensors=base.tensors, chunk_size=base.chunk_size, chunk_digests=digests)


def _sum_chunk(
    base: Manifest,
    updates: Sequence[WeightedUpdate],
    index: int,
    read: Callable[[str], bytes],
    write: Callable[[bytes], str],
) -> str:
    size = base.chunk_bytes(index)
    total = _values(read(base.chunk_digests[index]), size, "the base model", index).astype(np.float64)
    for update in updates:
        values = _values(
            read(update.manifest.chunk_digests[index]), size, f"the update of {update.site}", index
        )
        total += update.weight * values.astype(np.float64)
    with np.errstate(over="ignore"):
        result = total.astype(FLOAT32)
    if not np.isfinite(result).all():
        raise IntegrityError(f"the sum of chunk {index} leaves the range of float32")
    return write(result.tobytes())


def _values(chunk: bytes, size: int, what: str, index: int) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    if len(chunk) != size:
        raise IntegrityError(f"chunk {index} of {what} has {len(chunk)} bytes; must be {size}")
    values = np.frombuffer(chunk, dtype=FLOAT32)
    if not np.isfinite(values).all():
        raise IntegrityError(f"chunk {index} of {what} has a value that is not finite")
    return values
