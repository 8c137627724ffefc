"""Pictures of several structures: what is where, in which colour."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adpfl.evaluation.panels import STRUCTURE_COLORS, draw_panels, write_panels

GREY = np.full((60, 80), 0.5, dtype=np.float32)
STRUCTURES = ("whole", "core")


def _masks(*boxes: tuple[int, int, int]) -> np.ndarray:
    masks = np.zeros((len(boxes), 60, 80), dtype=np.uint8)
    for mask, (top, left, side) in zip(masks, boxes, strict=True):
        mask[top : top + side, left : left + side] = 1
    return masks


def _count(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == color).all(axis=2).sum())


def _draw(reference: np.ndarray, prediction: np.ndarray, **keys: object) -> np.ndarray:
    arguments = {"structures": STRUCTURES, "pixel_mm": (1.0, 1.0)} | keys
    return draw_panels({"CT": GREY}, reference, prediction, **arguments)


def test_reference_is_left_and_prediction_right_each_structure_in_its_colour() -> None:
    picture = _draw(_masks((5, 5, 40), (20, 20, 10)), _masks((10, 10, 30), (0, 0, 0)))
    middle = picture.shape[1] // 2
    panels = picture[:-20]
    left, right = panels[:, :middle], panels[:, middle:]
    whole, core = STRUCTURE_COLORS[:2]
    assert _count(left, whole) > _count(right, whole) > 0
    assert _count(left, core) > 0
    assert _count(right, core) == 0


def test_a_row_for_each_image() -> None:
    masks = _masks((5, 5, 40), (20, 20, 10))
    one = draw_panels({"a": GREY}, masks, masks, structures=STRUCTURES, pixel_mm=(1.0, 1.0))
    two = draw_panels({"a": GREY, "b": GREY}, masks, masks, structures=STRUCTURES, pixel_mm=(1.0, 1.0))
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] - 20 == 2 * (one.shape[0] - 20)


def test_pixels_that_are_not_square_keep_the_shape_of_the_body() -> None:
    masks = _masks((5, 5, 40), (20, 20, 10))
    square = _draw(masks, masks)
    tall = _draw(masks, masks, pixel_mm=(2.0, 1.0))
    assert tall.shape[0] / tall.shape[1] > square.shape[0] / square.shape[1]


def test_what_is_black_all_around_is_left_out() -> None:
    image = np.zeros((60, 80), dtype=np.float32)
    image[20:40, 30:60] = 0.7
    masks = _masks((25, 35, 5), (26, 36, 2))
    picture = draw_panels({"MR": image}, masks, masks, structures=STRUCTURES, pixel_mm=(1.0, 1.0))
    panel = picture[20:-20, : picture.shape[1] // 2]
    assert panel.shape[0] / panel.shape[1] == pytest.approx(20 / 30, abs=0.01)
    assert (panel.mean(axis=2) > 100).mean() > 0.95


def test_nothing_at_all_can_be_drawn() -> None:
    nothing = np.zeros((2, 60, 80), dtype=np.uint8)
    picture = draw_panels(
        {"MR": np.zeros((60, 80), dtype=np.float32)},
        nothing,
        nothing,
        structures=STRUCTURES,
        pixel_mm=(1.0, 1.0),
    )
    assert picture.dtype == np.uint8


def test_shapes_and_colours_must_suffice() -> None:
    masks = _masks((5, 5, 40), (20, 20, 10))
    with pytest.raises(ValueError, match=r"prediction is \(1, 60, 80\); must be \(2, 60, 80\)"):
        _draw(masks, masks[:1])
    with pytest.raises(ValueError, match="there are 5 structures; at most 4 have colours"):
        _draw(masks, masks, structures=("a", "b", "c", "d", "e"))


def test_a_png_is_written(tmp_path: Path) -> None:
    masks = _masks((5, 5, 40), (20, 20, 10))
    path = tmp_path / "case.png"
    write_panels({"CT": GREY}, masks, masks, path, structures=STRUCTURES, pixel_mm=(1.0, 1.0))
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), _draw(masks, masks))


def test_no_name_of_the_legend_is_cut() -> None:
    names = ("whole_tumor", "tumor_core", "enhancing_tumor", "non-enhancing_core")
    narrow = np.full((300, 60), 0.5, dtype=np.float32)
    masks = np.zeros((4, 300, 60), dtype=np.uint8)
    picture = draw_panels({"T1": narrow}, masks, masks, structures=names, pixel_mm=(1.0, 1.0))
    one_line = draw_panels({"T1": narrow}, masks[:1], masks[:1], structures=names[:1], pixel_mm=(1.0, 1.0))
    assert picture.shape[1] == one_line.shape[1]
    assert picture.shape[0] > one_line.shape[0], (
        "names that do not fit beside each other get lines of their own"
    )
    assert (picture[300 + 20 :, -1] == 0).all(), "no letter reaches the edge"
    assert all(_count(picture, color) for color in STRUCTURE_COLORS)
