"""Pictures with contours: where they are drawn, their size, and what stays untouched."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adpfl.evaluation.overlays import PREDICTION_COLOR, REFERENCE_COLOR, draw_contours, write_overlay

GREY = np.full((40, 60, 3), 100, dtype=np.uint8)
EMPTY = np.zeros((40, 60), dtype=np.uint8)


def _box(top: int, left: int, side: int) -> np.ndarray:
    mask = EMPTY.copy()
    mask[top : top + side, left : left + side] = 1
    return mask


def _where(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (picture == color).all(axis=2)


def test_contours_are_the_outermost_pixels_of_the_masks() -> None:
    picture = draw_contours(GREY, _box(5, 5, 10), _box(20, 30, 5))
    expected = _box(5, 5, 10) - _box(7, 7, 6)
    assert np.array_equal(_where(picture, REFERENCE_COLOR), expected.astype(bool))
    assert _where(picture, PREDICTION_COLOR).sum() == 5 * 5 - 1


def test_everything_else_is_the_image() -> None:
    picture = draw_contours(GREY, _box(5, 5, 10), EMPTY)
    assert (picture[~_where(picture, REFERENCE_COLOR)] == 100).all()


def test_the_prediction_is_on_top_where_both_agree() -> None:
    picture = draw_contours(GREY, _box(5, 5, 10), _box(5, 5, 10))
    assert not _where(picture, REFERENCE_COLOR).any()
    assert _where(picture, PREDICTION_COLOR).any()


def test_empty_masks_draw_nothing_and_the_image_is_not_changed() -> None:
    before = GREY.copy()
    assert np.array_equal(draw_contours(GREY, EMPTY, EMPTY), before)
    draw_contours(GREY, _box(5, 5, 10), EMPTY)
    assert np.array_equal(GREY, before)


def test_large_images_are_reduced_and_contours_stay_in_place() -> None:
    image = np.full((800, 1200, 3), 50, dtype=np.uint8)
    mask = np.zeros((800, 1200), dtype=np.uint8)
    mask[200:600, 300:900] = 255
    picture = draw_contours(image, mask, mask, longest_side=300)
    assert picture.shape == (200, 300, 3)
    rows, columns = np.nonzero(_where(picture, PREDICTION_COLOR))
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (50, 150, 75, 225)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="prediction is"):
        draw_contours(GREY, EMPTY, EMPTY[:-1])


def test_a_png_is_written(tmp_path: Path) -> None:
    path = tmp_path / "case.png"
    write_overlay(GREY, _box(5, 5, 10), _box(6, 6, 10), path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), draw_contours(GREY, _box(5, 5, 10), _box(6, 6, 10)))
