"""FedAvg over spooled chunks: the next model without ever holding an update.

new = base + sum_k w_k * update_k  with  sum_k w_k = 1     (McMahan et al. 2017, algorithm 1, on differences)

An update holds the trainable tensors alone; every other coordinate of the base goes over to the new model bit
by bit. The sum is made chunk by chunk of the base in double precision and rounded once to float32. Sites are
added in the order given, so the same updates give the same bytes on every machine. Memory: a few chunks,
whatever the number of sites.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from adpfl.errors import IntegrityError, ModelMismatchError
from adpfl.learning.plan import NetworkPlan
from adpfl.learning.trainable import trainable_names
from adpfl.wire.chunks import ELEMENT_BYTES, FLOAT32, Manifest, TensorSpec, check_same_tensors

_Values = np.ndarray[tuple[int], np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class WeightedUpdate:
    """One site's update and its share of the sum."""

    site: str
    weight: float
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Neighbouring tensors of an update that are neighbours in the base too; positions in coordinates."""

    start: int
    update_start: int
    elements: int


def is_finite(chunk: bytes) -> bool:
    """Whether every float32 of a chunk is finite; the chunk's size must be a multiple of four."""
    return bool(np.isfinite(np.frombuffer(chunk, dtype=FLOAT32)).all())


def check_update_tensors(update: Manifest, base: Manifest, network: NetworkPlan) -> None:
    """Refuse an update that does not hold the plan's trainable tensors, in the base model's order.

    Raises:
        ModelMismatchError: names the first tensor that differs, or the chunk size.
    """
    if update.chunk_size != base.chunk_size:
        raise ModelMismatchError(f"chunk_size is {update.chunk_size}; the base model has {base.chunk_size}")
    trained = frozenset(trainable_names(network, [tensor.name for tensor in base.tensors]))
    check_same_tensors(update.tensors, [tensor for tensor in base.tensors if tensor.name in trained])


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
        updates: at least one, in the order in which they are added; all of the same tensors, which are some
            or all of the base's, in its order.
        read: returns a chunk by its digest, verified.
        write: stores a chunk and returns its digest.

    Returns:
        The new model's manifest.

    Raises:
        ModelMismatchError: an update's tensors are not the base model's, or not those of the others.
        IntegrityError: a chunk has the wrong size or a value that is not finite, in an update or in the
        result. ValueError: no update, or weights that do not add up to one.
    """
    if not updates:
        raise ValueError("updates is empty; a round needs at least one")
    total = sum(update.weight for update in updates)
    if abs(total - 1.0) > 1e-9:
        raise ValueError(f"weights add up to {total}; must be 1")
    first = updates[0].manifest
    for update in updates[1:]:
        update.manifest.check_same_tensors(first)
    stretches = _stretches(base, first)
    digests = tuple(
        _sum_chunk(base, updates, stretches, index, read, write) for index in range(len(base.chunk_digests))
    )
    return Manifest(tensors=base.tensors, chunk_size=base.chunk_size, chunk_digests=digests)


def _stretches(base: Manifest, update: Manifest) -> tuple[_Stretch, ...]:
    """Where an update's coordinates stand in the base."""
    if update.chunk_size != base.chunk_size:
        raise ModelMismatchError(f"chunk_size is {update.chunk_size}; the base model has {base.chunk_size}")
    pending: list[TensorSpec] = list(update.tensors)
    found: list[_Stretch] = []
    start = update_start = 0
    for tensor in base.tensors:
        if pending and pending[0] == tensor:
            pending.pop(0)
            last = found[-1] if found else None
            if last is not None and last.start + last.elements == start:
                found[-1] = _Stretch(last.start, last.update_start, last.elements + tensor.elements)
            else:
                found.append(_Stretch(start, update_start, tensor.elements))
            update_start += tensor.elements
        start += tensor.elements
    if pending:
        odd = pending[0]
        raise ModelMismatchError(
            f"tensor {odd.name} {odd.dtype}{list(odd.shape)} of an update is not among the model's, or not "
            "in its place"
        )
    return tuple(found)


def _sum_chunk(  # noqa: PLR0917 - reading and writing are the caller's, each of one chunk
    base: Manifest,
    updates: Sequence[WeightedUpdate],
    stretches: Sequence[_Stretch],
    index: int,
    read: Callable[[str], bytes],
    write: Callable[[bytes], str],
) -> str:
    size = base.chunk_bytes(index)
    first = index * (base.chunk_size // ELEMENT_BYTES)
    places = _places(stretches, first, first + size // ELEMENT_BYTES)
    if not places:
        return base.chunk_digests[index]  # frozen, every coordinate of it
    total = _values(read(base.chunk_digests[index]), size, "the base model", index).astype(np.float64)
    start, end = places[0].update_start, places[-1].update_start + places[-1].elements
    for update in updates:
        values = _read_range(update, start, end, read)
        for place in places:
            into = slice(place.start, place.start + place.elements)
            taken = slice(place.update_start - start, place.update_start - start + place.elements)
            total[into] += update.weight * values[taken].astype(np.float64)
    with np.errstate(over="ignore"):
        result = total.astype(FLOAT32)
    if not np.isfinite(result).all():
        raise IntegrityError(f"the sum of chunk {index} leaves the range of float32")
    return write(result.tobytes())


def _places(stretches: Sequence[_Stretch], first: int, end: int) -> list[_Stretch]:
    """The parts of stretches that lie in coordinates [first, end) of the base, counted from `first`."""
    places = []
    for stretch in stretches:
        low, high = max(stretch.start, first), min(stretch.start + stretch.elements, end)
        if low < high:
            moved = stretch.update_start + low - stretch.start
            places.append(_Stretch(low - first, moved, high - low))
    return places


def _read_range(update: WeightedUpdate, start: int, end: int, read: Callable[[str], bytes]) -> _Values:
    """Coordinates [start, end) of an update; no more of them than a chunk holds."""
    manifest = update.manifest
    a_chunk = manifest.chunk_size // ELEMENT_BYTES
    pieces = []
    for index in range(start // a_chunk, (end - 1) // a_chunk + 1):
        chunk = read(manifest.chunk_digests[index])
        values = _values(chunk, manifest.chunk_bytes(index), f"the update of {update.site}", index)
        pieces.append(values[max(0, start - index * a_chunk) : end - index * a_chunk])
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _values(chunk: bytes, size: int, what: str, index: int) -> _Values:
    if len(chunk) != size:
        raise IntegrityError(f"chunk {index} of {what} has {len(chunk)} bytes; must be {size}")
    values = np.frombuffer(chunk, dtype=FLOAT32)
    if not np.isfinite(values).all():
        raise IntegrityError(f"chunk {index} of {what} has a value that is not finite")
    return values
