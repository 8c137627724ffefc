"""Per-unit gradients averaged over several augmented views of the same records.

A view is one augmentation (and crop) of every record that a step drew. Averaging a unit's gradients over its
views BEFORE the clip makes the views more records of the unit (De et al. 2022, "augmentation
multiplicity"): the unit is clipped once and still contributes at most C, so noise and accounting stay as they
are, and the gradient that is clipped varies less from step to step.
"""

from collections.abc import Callable, Iterator

from torch import Tensor

from adpfl.learning.per_sample import UnitGradients

ViewGradients = Callable[[slice, int], UnitGradients]
"""(units, view) -> the gradients of these units' view, in one chunk."""


class MeanOverViews:
    """Mean over the views of each unit's gradient: iterate as often as needed, always the same values.

    Each iteration yields chunks as `UnitGradients` does: lists of (B_c, *shape) tensors. Images of one chunk
    and one view are held at a time, and two chunks of gradients, however many units and views there are.
    A unit with a non-finite gradient in any view gets a non-finite mean.

    Args:
        gradients: differentiates one view of a few units.
        views: K, at least 1.
        units: B, the units of the step; 0 yields nothing.
        chunk_units: units that are differentiated at once.
        keep: keep the means of the first iteration; otherwise each iteration computes them again.
    """

    def __init__(
        self, gradients: ViewGradients, *, views: int, units: int, chunk_units: int, keep: bool
    ) -> None:
        if min(views, chunk_units) < 1:
            raise ValueError(f"views is {views} and chunk_units {chunk_units}; each must be >= 1")
        self._gradients = gradients
        self._views = views
        self._units = units
        self._chunk_units = chunk_units
        self._keep = keep
        self._kept: list[list[Tensor]] | None = None

    def __iter__(self) -> Iterator[list[Tensor]]:
        if self._kept is not None:
            yield from self._kept
            return
        computed: list[list[Tensor]] = []
        for start in range(0, self._units, self._chunk_units):
            chunk = self._mean(slice(start, min(start + self._chunk_units, self._units)))
            if self._keep:
                computed.append(chunk)
            yield chunk
        if self._keep:
            self._kept = computed

    def _mean(self, units: slice) -> list[Tensor]:
        (total,) = self._gradients(units, 0)
        for view in range(1, self._views):
            (gradients,) = self._gradients(units, view)
            for summed, gradient in zip(total, gradients, strict=True):
                summed.add_(gradient)
        return [summed.div_(self._views) for summed in total]
