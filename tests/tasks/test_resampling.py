"""Volumes keep their place and their size in mm when their voxels change."""

import pytest
import torch
from torch import Tensor

from adpfl.tasks.resampling import resample_image, resample_mask, resampled_size, threshold_at


def _centre(mask: Tensor, spacing: tuple[float, ...]) -> list[float]:
    """Middle of what is set, in mm from the volume's first face."""
    places = torch.nonzero(mask).double() + 0.5
    return (places.mean(dim=0) * torch.tensor(spacing, dtype=torch.float64)).tolist()


def test_the_extent_decides_the_size() -> None:
    assert resampled_size((60, 512, 512), (5.0, 0.8, 0.8), (1.6, 1.2, 1.2)) == (188, 341, 341)
    assert resampled_size((2, 2, 2), (1.0, 1.0, 1.0), (50.0, 50.0, 50.0)) == (1, 1, 1)


@pytest.mark.parametrize("target", [(2.0, 2.0, 2.0), (1.0, 3.0, 1.5), (6.0, 0.5, 4.0)])
def test_a_box_keeps_its_place_and_its_volume(target: tuple[float, ...]) -> None:
    spacing = (2.0, 1.0, 1.0)
    mask = torch.zeros(1, 24, 48, 48, dtype=torch.uint8)
    mask[:, 6:18, 12:36, 8:40] = 1
    size = resampled_size(mask.shape[1:], spacing, target)
    resampled = resample_mask(mask, size)
    assert tuple(resampled.shape) == (1, *size)
    assert _centre(resampled[0], target) == pytest.approx(_centre(mask[0], spacing), abs=max(target) / 2)
    volume = 12 * 24 * 32 * 2.0
    voxel = target[0] * target[1] * target[2]
    assert float(resampled.sum()) * voxel == pytest.approx(volume, rel=0.15)


def test_image_and_mask_stay_together() -> None:
    mask = torch.zeros(1, 20, 20, 20, dtype=torch.uint8)
    mask[:, 4:13, 6:17, 3:12] = 1
    image = mask.float() * 2.0 - 1.0
    for size in ((10, 10, 10), (30, 20, 14), (20, 7, 33)):
        resampled = resample_image(image, size)
        assert tuple(resampled.shape) == (1, *size)
        assert torch.equal(resampled >= -1e-6, resample_mask(mask, size).bool())


def test_noise_is_smoothed_before_it_is_made_coarser() -> None:
    """Every fourth voxel of white noise would keep its spread; a mean over neighbours loses most of it."""
    noise = torch.randn(1, 40, 40, 40, generator=torch.Generator().manual_seed(0))
    assert resample_image(noise, (10, 10, 10)).std() < 0.25
    assert resample_image(noise, (10, 40, 40)).std() < 0.75


def test_the_own_size_changes_nothing() -> None:
    image = torch.rand(2, 5, 6, 7)
    assert resample_image(image, (5, 6, 7)) is image


def test_probabilities_are_interpolated_before_they_are_cut() -> None:
    probability = torch.tensor([0.0, 0.4, 1.0, 1.0]).reshape(1, 1, 1, 4)
    assert threshold_at(probability, (1, 1, 4)).flatten().tolist() == [0, 0, 1, 1]
    fine = threshold_at(probability, (1, 1, 8)).flatten().tolist()
    assert fine == [0, 0, 0, 1, 1, 1, 1, 1]  # 0.55 a quarter of the way from 0.4 to 1
