"""Scores against figures worked out by hand and against MONAI's own, and the empty cases."""

import math
import warnings

import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from torch import Tensor

from adpfl.evaluation.metrics import StructureScore, assd, dice, hd95, score_structures, surface_dice

EMPTY = torch.zeros(20, 20, dtype=torch.uint8)


def _square(top: int, left: int, side: int) -> Tensor:
    mask = EMPTY.clone()
    mask[top : top + side, left : left + side] = 1
    return mask


def test_dice_of_half_overlapping_squares() -> None:
    assert dice(_square(2, 2, 6), _square(2, 5, 6)) == pytest.approx(2 * 18 / 72)


def test_dice_is_one_on_equality_and_zero_apart() -> None:
    assert dice(_square(2, 2, 6), _square(2, 2, 6)) == 1.0
    assert dice(_square(0, 0, 4), _square(10, 10, 4)) == 0.0


def test_dice_counts_any_nonzero_value_once() -> None:
    assert dice(_square(2, 2, 6) * 255, _square(2, 2, 6)) == 1.0


def test_dice_does_not_overflow_the_mask_type() -> None:
    full = torch.ones(300, 300, dtype=torch.uint8)
    assert dice(full, full) == 1.0


def test_hd95_of_a_shifted_square_is_the_shift() -> None:
    """Every point of the leading edges lies 3 away from the other outline, more than 5 % of both outlines."""
    assert hd95(_square(5, 4, 6), _square(5, 7, 6)) == pytest.approx(3.0)


def test_hd95_is_in_the_unit_of_the_spacing() -> None:
    moved_along_columns = hd95(_square(5, 4, 6), _square(5, 7, 6), (1.0, 0.5))
    moved_along_rows = hd95(_square(4, 5, 6), _square(7, 5, 6), (2.0, 0.5))
    assert moved_along_columns == pytest.approx(1.5)
    assert moved_along_rows == pytest.approx(6.0)


def test_hd95_is_symmetric_and_zero_on_equality() -> None:
    small, large = _square(5, 5, 3), _square(2, 2, 12)
    assert hd95(small, large) == hd95(large, small)
    assert hd95(small, small) == 0.0


def test_hd95_forgives_a_speck_and_not_a_miss() -> None:
    """One stray pixel is under 5 % of the outline's 44 + 1."""
    square = torch.zeros(60, 60, dtype=torch.uint8)
    square[10:22, 10:22] = 1
    speck = square.clone()
    speck[50, 50] = 1
    assert hd95(speck, square) == 0.0
    far = torch.roll(square, 20, dims=1)
    assert hd95(far, square) == pytest.approx(20.0)


def test_assd_of_a_shifted_square_by_hand() -> None:
    """Side 2 moved by 1: each outline has 4 pixels, of which 2 lie on the other one and 2 lie 1 away."""
    assert assd(_square(5, 5, 2), _square(5, 6, 2)) == pytest.approx(0.5)
    assert assd(_square(5, 5, 2), _square(5, 6, 2), (1.0, 3.0)) == pytest.approx(1.5)
    assert assd(_square(5, 5, 3), _square(5, 5, 3)) == 0.0


def test_surface_dice_of_a_shifted_square_by_hand() -> None:
    """Outlines run through the corners of pixels, where each piece is one long, or c at a corner.

    A square of side 6 has 5 pieces a side and 4 corners: 20 + 4c. Moved by one column, its top and its bottom
    keep 5 pieces and a corner each: (10 + 2c) / (20 + 4c).
    """
    assert surface_dice(_square(5, 4, 6), _square(5, 5, 6), 0.0) == pytest.approx(0.5)
    assert surface_dice(_square(5, 4, 6), _square(5, 5, 6), 1.0) == 1.0
    assert surface_dice(_square(5, 4, 6), _square(5, 5, 6), 1.0, (1.0, 2.0)) < 1.0
    assert surface_dice(_square(0, 0, 3), _square(15, 15, 3), 2.0) == 0.0


def test_a_negative_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tolerance is -1.0; must be >= 0"):
        surface_dice(EMPTY, EMPTY, -1.0)


@pytest.mark.parametrize("shape", [(24, 30), (14, 16, 12)])
def test_scores_are_those_of_the_library_whatever_is_cropped(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    spacing = [2.0, 0.7, 1.2][: len(shape)]
    prediction, reference = torch.zeros(2, *shape, dtype=torch.bool)
    inside = tuple(slice(3, -4) for _ in shape)
    for mask, share in ((prediction, 0.7), (reference, 0.5)):
        mask[inside] = torch.rand(mask[inside].shape, generator=generator) < share
    prediction[(0,) * len(shape)] = True  # a corner of the frame
    pair = (prediction[None, None], reference[None, None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        percentile = compute_hausdorff_distance(*pair, True, percentile=95, spacing=spacing)
        average = compute_average_surface_distance(*pair, True, symmetric=True, spacing=spacing)
        share = compute_surface_dice(*pair, [1.0], True, spacing=spacing, use_subvoxels=True)
    assert hd95(prediction, reference, spacing) == pytest.approx(percentile.item(), rel=1e-5)
    assert assd(prediction, reference, spacing) == pytest.approx(average.item(), rel=1e-5)
    assert surface_dice(prediction, reference, 1.0, spacing) == pytest.approx(share.item(), rel=1e-5)


def test_masks_in_three_dimensions() -> None:
    cube = torch.zeros(12, 12, 12)
    cube[2:7, 2:7, 2:7] = 1
    assert hd95(torch.roll(cube, 2, dims=0), cube, (3.0, 1.0, 1.0)) == pytest.approx(6.0)


def test_both_empty_is_perfect_and_one_empty_a_miss() -> None:
    square = _square(2, 2, 6)
    for predicted, referred, overlap in ((EMPTY, EMPTY, 1.0), (square, EMPTY, 0.0), (EMPTY, square, 0.0)):
        assert dice(predicted, referred) == overlap
        assert surface_dice(predicted, referred, 5.0) == overlap
        assert hd95(predicted, referred) is None
        assert assd(predicted, referred) is None


def test_a_mask_that_fills_the_frame_has_a_boundary() -> None:
    distance = hd95(torch.ones(20, 20), _square(5, 5, 10))
    assert distance is not None
    assert math.isfinite(distance)


def test_shapes_and_spacing_must_agree() -> None:
    with pytest.raises(ValueError, match=r"prediction is \(4, 4\); must be \(4, 5\)"):
        dice(torch.ones(4, 4), torch.ones(4, 5))
    with pytest.raises(ValueError, match="spacing has 3 entries"):
        hd95(torch.ones(4, 4), torch.ones(4, 4), (1.0, 1.0, 1.0))


def test_structures_are_scored_in_order() -> None:
    prediction = torch.stack([_square(2, 2, 6), EMPTY])
    reference = torch.stack([_square(2, 2, 6), _square(3, 3, 3)])
    whole, core = score_structures(prediction, reference, ("whole", "core"), tolerances=(1.0, 1.0))
    assert whole == StructureScore("whole", dice=1.0, hd95=0.0, assd=0.0, surface_dice=1.0)
    assert core == StructureScore("core", dice=0.0, hd95=None, assd=None, surface_dice=0.0)


def test_each_structure_has_its_own_tolerance() -> None:
    both = torch.stack([_square(5, 4, 6)] * 2)
    moved = torch.stack([_square(5, 5, 6)] * 2)
    strict, lenient = score_structures(moved, both, ("a", "b"), tolerances=(0.0, 2.0))
    assert strict.surface_dice == pytest.approx(0.5)
    assert lenient.surface_dice == 1.0


def test_structures_and_channels_must_agree() -> None:
    with pytest.raises(ValueError, match="prediction has 2 channels and tolerances 1 entries; must have 1"):
        score_structures(torch.ones(2, 4, 4), torch.ones(2, 4, 4), ("lesion",), tolerances=(1.0,))
    with pytest.raises(ValueError, match="tolerances 2 entries"):
        score_structures(torch.ones(1, 4, 4), torch.ones(1, 4, 4), ("lesion",), tolerances=(1.0, 2.0))
    with pytest.raises(ValueError, match="prediction is"):
        score_structures(torch.ones(1, 4, 4), torch.ones(1, 5, 4), ("lesion",), tolerances=(1.0,))


def test_nobody_is_warned_of_what_they_cannot_change() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hd95(_square(5, 4, 6), _square(5, 7, 6))
        surface_dice(_square(5, 4, 6), _square(5, 7, 6), 1.0)
