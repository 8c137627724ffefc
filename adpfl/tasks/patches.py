"""What a training step sees of a volume, and which part of a volume holds anything."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from adpfl.evaluation.boxes import bounding_box
from adpfl.tasks.task import Sample

FOREGROUND_SHARE: Final = 2 / 3
"""Of patches that are centred on a structure: a tumour fills so little of a volume that even ones would
hardly show it."""
_CONTENT_DIFFERENCE: Final = 1e-3
"""From the background, in normalised units, that counts as content."""


def foreground_patch(
    sample: Sample,
    size: Sequence[int],
    generator: torch.Generator,
    *,
    background: float,
    foreground_share: float = FOREGROUND_SHARE,
) -> Sample:
    """A patch of exactly `size`, as often as `foreground_share` around a voxel of a structure, else anywhere.

    The structure is drawn evenly among those that the volume has, so that a small one is seen as often as a
    large one; then one of its voxels. The patch stays within the volume; where the volume is smaller, it is
    centred and padded, the image with `background` and the mask with nothing.

    Args:
        sample: image (channels, *S), mask (structures, *S).
        size: of the patch.
        generator: every draw comes from it.
        background: see above.
        foreground_share: see above; in [0, 1].
    """
    spatial = sample.image.shape[1:]
    present = [index for index, one in enumerate(sample.mask) if bool(one.any())]
    draws = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    if present and draws[0] < foreground_share:
        chosen = sample.mask[present[int(draws[1] * len(present))]]
        inside = torch.nonzero(chosen.flatten()).flatten()
        flat = int(inside[int(torch.randint(0, len(inside), (1,), generator=generator))])
        centre = [int(index) for index in torch.unravel_index(torch.tensor(flat), spatial)]
        starts = [
            min(max(middle - length // 2, 0), max(extent - length, 0))
            for middle, length, extent in zip(centre, size, spatial, strict=True)
        ]
    else:
        starts = [
            int(torch.randint(0, max(extent - length, 0) + 1, (1,), generator=generator))
            for length, extent in zip(size, spatial, strict=True)
        ]
    window = tuple(
        slice(start, min(start + length, extent))
        for start, length, extent in zip(starts, size, spatial, strict=True)
    )
    return Sample(
        _padded(sample.image[(slice(None), *window)].float(), size, background),
        _padded(sample.mask[(slice(None), *window)], size, 0),
    )


def even_patches(sample: Sample, size: Sequence[int], *, background: float) -> Iterator[Sample]:
    """The fewest patches of exactly `size` that cover the sample, evenly spaced, in a fixed order.

    Args:
        sample: image (channels, *S), mask (structures, *S).
        size: of each patch.
        background: pads the image along axes where the sample is smaller; the mask is padded with nothing.
    """
    for corner in product(*map(_even_starts, sample.image.shape[1:], size)):
        window = tuple(slice(start, start + length) for start, length in zip(corner, size, strict=True))
        yield Sample(
            _padded(sample.image[(slice(None), *window)].float(), size, background),
            _padded(sample.mask[(slice(None), *window)], size, 0),
        )


def _even_starts(extent: int, length: int) -> list[int]:
    count = -(-extent // length)
    return [round(place * (extent - length) / (count - 1)) for place in range(count)] if count > 1 else [0]


def content_box(image: Tensor, background: float) -> tuple[slice, ...]:
    """The smallest box outside which every channel of (channels, *S) is background; empty where all is."""
    content = ((image - background).abs() > _CONTENT_DIFFERENCE).any(dim=0)
    return bounding_box(content)


def _padded(tensor: Tensor, size: Sequence[int], value: float) -> Tensor:
    """Centred in `size`, at least as large; always a copy."""
    missing = [length - extent for length, extent in zip(size, tensor.shape[1:], strict=True)]
    pairs = [side for gap in reversed(missing) for side in (gap // 2, gap - gap // 2)]
    return functional.pad(tensor, pairs, value=value) if any(pairs) else tensor.clone()
