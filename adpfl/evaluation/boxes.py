"""Boxes around what a mask holds."""

import torch
from torch import Tensor


def bounding_box(mask: Tensor) -> tuple[slice, ...]:
    """The smallest box around what is set in a boolean (*S), one slice an axis; empty where nothing is."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        along = torch.nonzero(mask.any(dim=others) if others else mask).flatten()
        box.append(slice(int(along[0]), int(along[-1]) + 1) if len(along) else slice(0, 0))
    return tuple(box)
