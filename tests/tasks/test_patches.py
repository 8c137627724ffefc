"""Where patches are cut, and that image and mask are cut alike."""

import pytest
import torch

from adpfl.tasks.patches import FOREGROUND_SHARE, content_box, even_patches, foreground_patch
from adpfl.tasks.task import Sample


def _sample(shape: tuple[int, int, int] = (20, 24, 28)) -> Sample:
    """Two structures far apart: one of 4^3 voxels, one of a single voxel; the image counts voxels."""
    mask = torch.zeros(2, *shape, dtype=torch.uint8)
    mask[0, 2:6, 2:6, 2:6] = 1
    mask[1, shape[0] - 2, shape[1] - 2, shape[2] - 2] = 1
    image = torch.arange(mask[0].numel(), dtype=torch.float32).reshape(1, *shape)
    return Sample(image, mask)


def test_a_patch_is_a_window_of_image_and_mask_alike() -> None:
    sample = _sample()
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        patch = foreground_patch(sample, (8, 10, 12), generator, background=-1.0)
        assert patch.image.shape == (1, 8, 10, 12)
        assert patch.mask.shape == (2, 8, 10, 12)
        start = torch.unravel_index(patch.image[0, 0, 0, 0].long(), (20, 24, 28))
        window = tuple(slice(int(at), int(at) + n) for at, n in zip(start, (8, 10, 12), strict=True))
        assert torch.equal(patch.image, sample.image[(slice(None), *window)])
        assert torch.equal(patch.mask, sample.mask[(slice(None), *window)])


def test_small_and_large_structures_are_seen_as_often() -> None:
    """2/3 of 1200 patches, half of them each; no other patch of this size holds either. 5 deviations."""
    sample = _sample((60, 60, 60))
    generator = torch.Generator().manual_seed(1)
    seen = torch.zeros(2)
    for _ in range(1200):
        seen += foreground_patch(sample, (6, 6, 6), generator, background=0.0).mask.flatten(1).any(dim=1)
    expected, deviation = 1200 * FOREGROUND_SHARE / 2, (1200 / 3 * 2 / 3) ** 0.5
    assert seen.tolist() == pytest.approx([expected] * 2, abs=5 * deviation)


def test_without_structures_patches_come_from_anywhere() -> None:
    sample = Sample(_sample().image, torch.zeros(2, 20, 24, 28, dtype=torch.uint8))
    generator = torch.Generator().manual_seed(0)
    corners = {
        float(foreground_patch(sample, (16, 20, 24), generator, background=0.0).image[0, 0, 0, 0])
        for _ in range(400)
    }
    assert len(corners) > 100  # of 5^3


def test_a_volume_smaller_than_the_patch_is_padded_around() -> None:
    sample = Sample(torch.ones(1, 4, 40, 5), torch.ones(2, 4, 40, 5, dtype=torch.uint8))
    patch = foreground_patch(sample, (8, 16, 8), torch.Generator().manual_seed(0), background=-2.5)
    assert patch.image.shape == (1, 8, 16, 8)
    inside = patch.mask[0].bool()
    assert int(inside.sum()) == 4 * 16 * 5
    assert bool((patch.image[0][inside] == 1.0).all())
    assert bool((patch.image[0][~inside] == -2.5).all())
    assert bool(inside[2:6, :, 1:6].all())


def test_a_patch_is_a_copy() -> None:
    sample = _sample()
    whole = foreground_patch(sample, (20, 24, 28), torch.Generator().manual_seed(0), background=0.0)
    whole.image.zero_()
    assert bool(sample.image.any())


def test_draws_follow_the_generator_alone() -> None:
    sample = _sample()

    def draw(seed: int) -> list[float]:
        generator = torch.Generator().manual_seed(seed)
        return [
            float(foreground_patch(sample, (8, 8, 8), generator, background=0.0).image[0, 0, 0, 0])
            for _ in range(8)
        ]

    torch.manual_seed(0)
    first = draw(3)
    torch.manual_seed(1)
    assert draw(3) == first
    assert draw(4) != first


def test_the_content_is_what_differs_from_the_background_in_any_channel() -> None:
    image = torch.full((2, 6, 7, 8), -2.34)
    assert image[:, *content_box(image, -2.34)].numel() == 0
    image[0, 1, 2, 3] = 0.0
    image[1, 4, 2, 5] = 1.0
    assert content_box(image, -2.34) == (slice(1, 5), slice(2, 3), slice(3, 6))


def test_even_patches_are_few_cover_all_and_keep_their_order() -> None:
    sample = _sample((20, 9, 8))
    patches = list(even_patches(sample, (8, 9, 16), background=-1.0))
    assert len(patches) == 3
    starts = [float(patch.image[patch.image >= 0].min()) for patch in patches]
    assert starts == [0.0, 6 * 72.0, 12 * 72.0]
    seen = torch.cat([patch.image.flatten() for patch in patches]).unique()
    assert torch.equal(seen[seen >= 0], sample.image.flatten())
    for patch in patches:
        assert patch.image.shape == (1, 8, 9, 16)
        assert int((patch.image == -1.0).sum()) == 8 * 9 * 8
