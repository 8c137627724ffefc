"""The next model from spooled chunks, without ever holding an update.

fedavg:              new = base + sum_k w_k * update_k,  sum_k w_k = 1   (McMahan et al. 2017, algorithm 1)
median, trimmed mean: new = base + the mean of the middle values, coordinate by coordinate (Yin et al. 2018)
fedadam, fedyogi:    new = base + step(sum_k w_k * update_k)             (`server_optimizer`)

An update holds the trainable tensors alone; every other coordinate of the base goes over to the new model bit
by bit. Sums are made in double precision and rounded once to float32. Sites are added in the order given, so
the same updates give the same bytes on every machine. Memory: a few chunks and, for ranks, `RANKED_BYTES`,
whatever the number of sites.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from adpfl.errors import ModelMismatchError
from adpfl.federated.chunk_ranges import Doubles, Values, checked_values, read_range, rounded
from adpfl.learning.plan import NetworkPlan
from adpfl.learning.trainable import trainable_names
from adpfl.wire.chunks import ELEMENT_BYTES, FLOAT32, Manifest, TensorSpec, check_same_tensors

RANKED_BYTES: Final = 2**25
"""Memory for the values that are ranked at a time, whatever the number of sites."""


@dataclass(frozen=True, slots=True)
class WeightedUpdate:
    """One site's update and its share of the sum."""

    site: str
    weight: float
    manifest: Manifest

    def values(self, start: int, end: int, read: Callable[[str], bytes]) -> Values:
        """Coordinates [start, end); no more of them than a chunk of the base holds."""
        return read_range(self.manifest, f"the update of {self.site}", start, end, read)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Neighbouring tensors of an update that are neighbours in the base too; positions in coordinates."""

    start: int
    update_start: int
    elements: int


def is_finite(chunk: bytes | memoryview) -> bool:
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
    trimmed: int | None = None,
    step: Callable[[Doubles], Doubles] | None = None,
) -> Manifest:
    """Combine updates and add the result to a model.

    Args:
        base: the model that every update was made from.
        updates: at least one, in the order in which they are added; all of the same tensors, which are some
            or all of the base's, in its order.
        read: returns a chunk by its digest, verified.
        write: stores a chunk and returns its digest.
        trimmed: None combines by the weights; else coordinate by coordinate, by the mean without so many of
            the least and of the greatest values, and weights are not looked at.
        step: what to add in the combined update's stead; called for each stretch of the updates' coordinates,
            once, from the first to the last.

    Returns:
        The new model's manifest.

    Raises:
        ModelMismatchError: an update's tensors are not the base model's, or not those of the others.
        IntegrityError: a chunk has the wrong size or a value that is not finite, in an update or in the
            result.
        ValueError: no update, weights that do not add up to one, or `trimmed` leaves no value.
    """
    if not updates:
        raise ValueError("updates is empty; a round needs at least one")
    total = sum(update.weight for update in updates)
    if abs(total - 1.0) > 1e-9:
        raise ValueError(f"weights add up to {total}; must be 1")
    first = updates[0].manifest
    for update in updates[1:]:
        update.manifest.check_same_tensors(first)
    if trimmed is not None and not 0 <= 2 * trimmed < len(updates):
        raise ValueError(f"trimmed is {trimmed}; must leave some of {len(updates)} updates")

    def add(values: Doubles, start: int) -> None:
        """Move the base's values at the updates' coordinates from `start` on."""
        if trimmed is None and step is None:
            _add_weighted(values, updates, start, read)
            return
        combined = np.zeros(values.size)
        if trimmed is None:
            _add_weighted(combined, updates, start, read)
        else:
            _add_trimmed(combined, updates, trimmed, start, read)
        values += combined if step is None else step(combined)

    stretches = _stretches(base, first)
    digests = []
    for index, kept in enumerate(base.chunk_digests):
        chunk = _next_chunk(base, stretches, index, read, add)
        digests.append(kept if chunk is None else write(chunk))
    return Manifest(tensors=base.tensors, chunk_size=base.chunk_size, chunk_digests=tuple(digests))


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


def _next_chunk(
    base: Manifest,
    stretches: Sequence[_Stretch],
    index: int,
    read: Callable[[str], bytes],
    add: Callable[[Doubles, int], None],
) -> bytes | None:
    """Chunk `index` of the new model; None where it is frozen, every coordinate of it."""
    size = base.chunk_bytes(index)
    first = index * (base.chunk_size // ELEMENT_BYTES)
    places = _places(stretches, first, first + size // ELEMENT_BYTES)
    if not places:
        return None
    values = checked_values(read(base.chunk_digests[index]), size, "the base model", index)
    total = values.astype(np.float64)
    start, end = places[0].update_start, places[-1].update_start + places[-1].elements
    moved = np.empty(end - start)
    cuts = [
        (
            slice(place.start, place.start + place.elements),
            slice(place.update_start - start, place.update_start - start + place.elements),
        )
        for place in places
    ]
    for here, there in cuts:
        moved[there] = total[here]
    add(moved, start)
    for here, there in cuts:
        total[here] = moved[there]
    return rounded(total, f"the sum of chunk {index}").tobytes()


def _places(stretches: Sequence[_Stretch], first: int, end: int) -> list[_Stretch]:
    """The parts of stretches that lie in coordinates [first, end) of the base, counted from `first`."""
    places = []
    for stretch in stretches:
        low, high = max(stretch.start, first), min(stretch.start + stretch.elements, end)
        if low < high:
            moved = stretch.update_start + low - stretch.start
            places.append(_Stretch(low - first, moved, high - low))
    return places


def _add_weighted(
    total: Doubles, updates: Sequence[WeightedUpdate], start: int, read: Callable[[str], bytes]
) -> None:
    for update in updates:
        total += update.weight * update.values(start, start + total.size, read).astype(np.float64)


def _add_trimmed(
    total: Doubles, updates: Sequence[WeightedUpdate], trimmed: int, start: int, read: Callable[[str], bytes]
) -> None:
    """Add, coordinate by coordinate, the mean of what is left without the `trimmed` least and greatest.

    All sites' values of a coordinate are needed at once: as many coordinates are taken at a time as fit into
    `RANKED_BYTES`. With very many sites a chunk is then read more than once, since only whole chunks verify.
    """
    width = max(1, RANKED_BYTES // (ELEMENT_BYTES * len(updates)))
    for low in range(0, total.size, width):
        high = min(low + width, total.size)
        ranked = np.empty((len(updates), high - low), FLOAT32)
        for row, update in zip(ranked, updates, strict=True):
            row[:] = update.values(start + low, start + high, read)
        ranked.sort(axis=0)
        kept = ranked[trimmed : len(updates) - trimmed]
        middle = np.zeros(high - low)
        for row in kept:
            middle += row
        total[low:high] += middle / len(kept)
