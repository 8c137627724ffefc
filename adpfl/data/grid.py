"""The grid of pixels or voxels that a plan trains on. Importable without torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grid:
    """What one training step sees, and how fine.

    Attributes:
        size: spatial size of the network's input: the whole image in two dimensions, a patch in three.
        spacing_mm: edge lengths of a voxel in the order of `size`, to which volumes are resampled; None is
            the task's own default. Photographs have none.
    """

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None = None
