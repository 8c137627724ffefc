"""Files as arrays: what is read, and what is said about files that cannot be."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adpfl.data.images import read_mask, read_rgb, read_size, write_mask
from adpfl.errors import DataError


def _save(array: np.ndarray, path: Path) -> Path:
    Image.fromarray(array).save(path)
    return path


def test_colours_and_axes_survive_reading(tmp_path: Path) -> None:
    pixels = np.zeros((10, 20, 3), dtype=np.uint8)
    pixels[:, 15:, 0] = 255
    path = _save(pixels, tmp_path / "a.png")
    assert np.array_equal(read_rgb(path), pixels)
    assert read_size(path) == (10, 20)


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    grey = _save(np.full((4, 5), 7, dtype=np.uint8), tmp_path / "grey.png")
    clear = _save(np.full((4, 5, 4), 9, dtype=np.uint8), tmp_path / "clear.png")
    assert read_rgb(grey).shape == read_rgb(clear).shape == (4, 5, 3)


def test_large_jpegs_are_decoded_no_smaller_than_asked(tmp_path: Path) -> None:
    path = _save(np.full((800, 1200, 3), 90, dtype=np.uint8), tmp_path / "large.jpg")
    assert read_rgb(path).shape == (800, 1200, 3)
    height, width, _ = read_rgb(path, at_least=(128, 128)).shape
    assert 128 <= height < 800
    assert 128 <= width < 1200


@pytest.mark.parametrize("foreground", [1, 255])
def test_masks_of_either_convention_become_zero_and_one(tmp_path: Path, foreground: int) -> None:
    mask = np.array([[0, foreground], [foreground, 0]], dtype=np.uint8)
    assert read_mask(_save(mask, tmp_path / "m.png")).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("fill", [0, 255])
def test_uniform_masks_are_masks(tmp_path: Path, fill: int) -> None:
    path = _save(np.full((3, 3), fill, dtype=np.uint8), tmp_path / "m.png")
    assert read_mask(path).sum() == (9 if fill else 0)


def test_bilevel_and_rgb_masks_are_read(tmp_path: Path) -> None:
    bits = np.array([[True, False]])
    assert read_mask(_save(bits, tmp_path / "bits.png")).tolist() == [[1, 0]]
    rgb = np.zeros((1, 2, 3), dtype=np.uint8)
    rgb[0, 1] = 255
    assert read_mask(_save(rgb, tmp_path / "rgb.png")).tolist() == [[0, 1]]


@pytest.mark.parametrize("values", [[0, 128, 255], [0, 1, 255], [0, 2], [7]])
def test_masks_with_other_values_are_refused(tmp_path: Path, values: list[int]) -> None:
    path = _save(np.array([values], dtype=np.uint8), tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png holds the values .*; a mask must hold only 0 and 255"):
        read_mask(path)


def test_a_mask_of_16_bits_is_refused(tmp_path: Path) -> None:
    path = _save(np.array([[0, 65535]], dtype=np.uint16), tmp_path / "m.png")
    with pytest.raises(DataError, match="must have 8 bits or 1"):
        read_mask(path)


def test_text_with_an_image_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("no image")
    with pytest.raises(DataError, match=r"a\.jpg is neither a JPEG nor a PNG"):
        read_rgb(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_file_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = _save(noise, tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cannot be decoded"):
        read_rgb(path)


def test_other_formats_are_refused_whatever_their_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (4, 4)).save(path, format="BMP")
    with pytest.raises(DataError, match="neither a JPEG nor a PNG"):
        read_rgb(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png does not exist"):
        read_size(tmp_path / "gone.png")


def test_a_written_mask_reads_back(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 1]], dtype=np.uint8)
    write_mask(mask, tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)
    assert set(np.asarray(Image.open(tmp_path / "m.png")).ravel()) == {0, 255}
