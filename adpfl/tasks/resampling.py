"""Volumes from one voxel size to another, by extent: the first and the last voxel keep their outer faces."""

from collections.abc import Sequence

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional


def resampled_size(
    size: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> tuple[int, ...]:
    """How many voxels of the target spacing fill the same extent, at least one along each axis."""
    return tuple(
        max(1, round(voxels * old / new))
        for voxels, old, new in zip(size, spacing_mm, target_mm, strict=True)
    )


def resample_image(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize float32 (channels, *S) to `size`, trilinearly, smoothed first along axes that get coarser.

    One channel is worked on at a time, which bounds the memory that a large CT takes.
    """
    if tuple(image.shape[1:]) == tuple(size):
        return image
    return torch.stack([_resized(channel, size) for channel in image])


def resample_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Resize uint8 (structures, *S) in {0, 1} to `size`; set is a voxel that a structure fills by half."""
    if tuple(mask.shape[1:]) == tuple(size):
        return mask
    return torch.stack([(_resized(one.float(), size) >= 0.5).to(torch.uint8) for one in mask])


def threshold_at(probability: Tensor, size: Sequence[int]) -> Tensor:
    """Probabilities (structures, *S), interpolated to `size`, as uint8 in {0, 1}: 1 from a half up."""
    return torch.stack([(_interpolated(one, size) >= 0.5).to(torch.uint8) for one in probability])


def _resized(volume: Tensor, size: Sequence[int]) -> Tensor:
    """Smoothed by a Gaussian of (f - 1) / 2 voxels along an axis that shrinks by f, against aliasing."""
    shrunk = [max(0.0, (old / new - 1.0) / 2.0) for old, new in zip(volume.shape, size, strict=True)]
    if any(shrunk):
        volume = torch.from_numpy(ndimage.gaussian_filter(volume.numpy(), shrunk, mode="nearest"))
    return _interpolated(volume, size)


def _interpolated(volume: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(volume.shape) == tuple(size):
        return volume
    return functional.interpolate(volume[None, None], size=tuple(size), mode="trilinear")[0, 0]
