"""Dice and HD95 against figures worked out by hand, and the empty cases."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from adpfl.evaluation.metrics import dice, hd95, score_structures

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


def test_masks_in_three_dimensions() -> None:
    cube = torch.zeros(12, 12, 12)
    cube[2:7, 2:7, 2:7] = 1
    assert hd95(torch.roll(cube, 2, dims=0), cube, (3.0, 1.0, 1.0)) == pytest.approx(6.0)


def test_both_empty_is_perfect_and_one_empty_a_miss() -> None:
    square = _square(2, 2, 6)
    assert (dice(EMPTY, EMPTY), hd95(EMPTY, EMPTY)) == (1.0, None)
    assert (dice(square, EMPTY), hd95(square, EMPTY)) == (0.0, None)
    assert (dice(EMPTY, square), hd95(EMPTY, square)) == (0.0, None)


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
    whole, core = score_structures(prediction, reference, ("whole", "core"))
    assert (whole.structure, whole.dice, whole.hd95) == ("whole", 1.0, 0.0)
    assert (core.structure, core.dice, core.hd95) == ("core", 0.0, None)


def test_structures_and_channels_must_agree() -> None:
    with pytest.raises(ValueError, match="prediction has 2 channels; must have 1"):
        score_structures(torch.ones(2, 4, 4), torch.ones(2, 4, 4), ("lesion",))
    with pytest.raises(ValueError, match="prediction is"):
        score_structures(torch.ones(1, 4, 4), torch.ones(1, 5, 4), ("lesion",))


def test_nobody_is_warned_of_what_they_cannot_change() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hd95(_square(5, 4, 6), _square(5, 7, 6))
