"""Gradients of one loss per unit of privacy, in chunks that fit a memory budget.

A unit is a patient with up to k records. Its gradient is that of the mean loss over the records present, so
that clipping it once bounds what the patient contributes, however many images there are.

Three ways give the same gradients up to rounding. `layers` runs one forward and one backward pass over a
whole chunk, in which every layer keeps its units apart (`adpfl.learning.unit_layers`). `microbatch` runs an
ordinary backward pass for each unit: the oracle that tests compare with, and the fallback for a network with
a layer that has no rule. `apart` runs `layers` for each unit by itself: for volumes faster than the loop.

**Rounding is not innocent.** Libraries choose their kernels, and cut their work, by the size of a batch. In
`layers` a unit's last bits therefore follow the units beside it, and whoever chooses the weights can choose
such as make the last bits the first: then one patient's absence moves the clipped gradients of all others,
and the sum by several C. Where an epsilon is claimed, each unit is differentiated `apart` or by the loop: its
gradient is then, to the bit, a function of its own records and of the weights.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import torch
from torch import Tensor, nn

from adpfl.learning.networks import TensorLayout, dimension, parameter_layout
from adpfl.learning.unit_layers import UnitWeights, UnsupportedLayerError, channels_last

UnitLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (k, S, *size), masks (k, S, *size), present (k,)) of ONE unit -> scalar, the mean over the records
present; `adpfl.tasks.task.Task.loss` is one."""

Method = Literal["layers", "apart", "microbatch"]

_FLOAT_BYTES = 4
_SAVED_AND_TEMPORARY = 3
"""Copies of every layer's output that a unit is given room for. The peaks measured over both networks in 2D
and 3D lie between 0.66 and 0.85; the rest is for what the allocator keeps and a lone volume's companion."""


@dataclass(frozen=True)
class UnitBatch:
    """The records of B units, padded to k records each.

    Attributes:
        images: float32 (B, k, channels, *size); zero where no record is present.
        masks: uint8 (B, k, structures, *size).
        present: bool (B, k); at least one True in each row.
    """

    images: Tensor
    masks: Tensor
    present: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, units: slice) -> "UnitBatch":
        return UnitBatch(self.images[units], self.masks[units], self.present[units])

    def present_of(self, unit: int) -> "UnitBatch":
        """One unit without its padding."""
        present = self.present[unit]
        return UnitBatch(
            self.images[unit][present][None], self.masks[unit][present][None], present[present][None]
        )


class UnitGradients:
    """The per-unit gradients of one batch: iterate as often as needed, always the same values.

    Each iteration yields chunks: lists of (B_c, *shape) float32 tensors, one per trainable tensor, in the
    order of `parameter_layout`. An empty batch yields nothing. Chunks are kept after the first iteration
    where all of them fit `keep_bytes`; otherwise each iteration computes them again from the same weights, so
    the weights must not change while an instance is in use.

    A unit whose loss is not finite gets a non-finite gradient and changes no other unit's; zeroing and
    counting it is the release's part.

    Args:
        model: in the state whose gradients are wanted; see `networks.refuse_unsafe_layers`.
        batch: the sampled units.
        loss: see `UnitLoss`.
        chunk_units: units that are differentiated at once; see `units_within`.
        keep_bytes: bound on the gradients kept for a second iteration.
        method: see the module.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: UnitBatch,
        loss: UnitLoss,
        *,
        chunk_units: int,
        keep_bytes: int = 0,
        method: Method = "layers",
    ) -> None:
        if chunk_units < 1:
            raise ValueError(f"chunk_units is {chunk_units}; must be >= 1")
        self._model = model
        self._batch = batch
        self._loss = loss
        self._chunk_units = chunk_units
        self._gradients = _GRADIENTS[method]
        total_bytes = len(batch) * dimension(parameter_layout(model)) * _FLOAT_BYTES
        self._keep = total_bytes <= keep_bytes
        self._kept: list[list[Tensor]] | None = None

    def __iter__(self) -> Iterator[list[Tensor]]:
        if self._kept is not None:
            yield from self._kept
            return
        computed: list[list[Tensor]] = []
        for start in range(0, len(self._batch), self._chunk_units):
            chunk = self._gradients(self._model, self._batch[start : start + self._chunk_units], self._loss)
            if self._keep:
                computed.append(chunk)
            yield chunk
        if self._keep:
            self._kept = computed


def layer_gradients(model: nn.Module, batch: UnitBatch, loss: UnitLoss) -> list[Tensor]:
    """Gradients of a non-empty batch's units, in one pass; (B, *shape) for each trainable tensor.

    Raises:
        UnsupportedLayerError: a layer has no rule.
    """
    batch = _without_lone_volume(batch)
    units, records = batch.present.shape
    weights = [model.get_parameter(tensor.name) for tensor in parameter_layout(model)]
    with UnitWeights(weights, units) as unit_weights:
        logits = model(channels_last(batch.images.flatten(0, 1)))
    losses = map(loss, logits.unflatten(0, (units, records)), batch.masks, batch.present)
    total = torch.stack(list(losses)).sum()
    return list(torch.autograd.grad(total, unit_weights.copies))


def apart_gradients(model: nn.Module, batch: UnitBatch, loss: UnitLoss) -> list[Tensor]:
    """`layer_gradients` of each unit by itself, over its present records alone.

    To the bit, a row is a function of its unit: of no other, nor of how many records another has.

    Raises:
        UnsupportedLayerError: a layer has no rule.
    """
    rows = [layer_gradients(model, batch.present_of(unit), loss) for unit in range(len(batch))]
    return [torch.cat(tensors) for tensors in zip(*rows, strict=True)]


def _without_lone_volume(batch: UnitBatch) -> UnitBatch:
    """A single 3D record gets an absent one beside it: torch leaves oneDNN for loops that cost far more."""
    if batch.images.ndim < 6 or batch.images.shape[:2] != (1, 1):
        return batch
    return UnitBatch(
        *(
            torch.cat([part, torch.zeros_like(part)], dim=1)
            for part in (batch.images, batch.masks, batch.present)
        )
    )


def microbatch_gradients(model: nn.Module, batch: UnitBatch, loss: UnitLoss) -> list[Tensor]:
    """Gradients of a non-empty batch's units, one ordinary backward pass each over present records alone."""
    weights = [model.get_parameter(tensor.name) for tensor in parameter_layout(model)]
    rows: list[tuple[Tensor, ...]] = []
    for images, masks, present in zip(batch.images, batch.masks, batch.present, strict=True):
        records = int(present.sum())
        if records == 0:
            rows.append(tuple(torch.zeros_like(weight) for weight in weights))
            continue
        value = loss(model(images[present]), masks[present], torch.ones(records, dtype=torch.bool))
        rows.append(torch.autograd.grad(value, weights))
    return [torch.stack(tensors) for tensors in zip(*rows, strict=True)]


_GRADIENTS: Final[Mapping[Method, Callable[[nn.Module, UnitBatch, UnitLoss], list[Tensor]]]] = (
    MappingProxyType(
        {"layers": layer_gradients, "apart": apart_gradients, "microbatch": microbatch_gradients}
    )
)


def choose_method(model: nn.Module, loss: UnitLoss, batch: UnitBatch, *, apart: bool = False) -> Method:
    """The fastest way for a network, tried on one unit.

    `layers` where every layer has a rule; else `microbatch`, with a warning.

    Args:
        model: the network to train.
        loss: see `UnitLoss`.
        batch: at least one unit, of the shapes to come; zeros will do.
        apart: whether no unit may have company, as where an epsilon is claimed: `apart` for volumes whose
            every layer has a rule, else `microbatch`.
    """
    if apart and batch.images.ndim == 5:  # the loop is the faster of the two for 2D images
        return "microbatch"
    try:
        layer_gradients(model, batch[:1], loss)
    except UnsupportedLayerError as reason:
        warnings.warn(f"per-unit gradients fall back to one backward pass a unit: {reason}", stacklevel=2)
        return "microbatch"
    return "apart" if apart else "layers"


def units_within(
    memory_bytes: int,
    *,
    model: nn.Module,
    records_per_unit: int,
    in_channels: int,
    image_size: tuple[int, ...],
) -> int:
    """How many units may be differentiated at once without exceeding a memory budget; at least one.

    Counts the gradient itself and the outputs of every layer, found by a pass without data.
    """
    layout = parameter_layout(model)
    activations = _activation_count(model, layout, records_per_unit, in_channels, image_size)
    unit_bytes = _FLOAT_BYTES * (2 * dimension(layout) + _SAVED_AND_TEMPORARY * activations)
    return max(1, memory_bytes // unit_bytes)


def _activation_count(
    model: nn.Module,
    layout: tuple[TensorLayout, ...],
    records: int,
    in_channels: int,
    image_size: tuple[int, ...],
) -> int:
    """Numbers that the layers without children put out for one unit."""
    assert layout, "a network without trainable tensors has no gradient"
    shadow = copy.deepcopy(model).to("meta")
    total = 0

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += math.prod(output.shape)

    for module in shadow.modules():
        if next(module.children(), None) is None:
            module.register_forward_hook(count)
    with torch.no_grad():
        shadow(torch.empty((records, in_channels, *image_size), device="meta"))
    return total
