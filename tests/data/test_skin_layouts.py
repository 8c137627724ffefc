"""Folders that are none of the known layouts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adpfl.data.skin_layouts import read_skin_folder
from adpfl.errors import DataError


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: is no folder"):
        read_skin_folder(tmp_path / "gone")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty; must be one of ISIC 2017"):
        read_skin_folder(tmp_path)
    with pytest.raises(DataError, match="holds no images"):
        read_skin_folder(tmp_path, with_masks=False)


def test_an_unknown_layout_says_which_are_known(tmp_path: Path, write_image: Callable[..., None]) -> None:
    write_image(tmp_path / "photos" / "a.jpg")
    with pytest.raises(DataError, match=r"has no known layout; must be one of ISIC 2017 .* HAM10000"):
        read_skin_folder(tmp_path)


def test_any_folder_of_images_can_be_predicted_on(tmp_path: Path, write_image: Callable[..., None]) -> None:
    write_image(tmp_path / "b.png")
    write_image(tmp_path / "a.JPG")
    (tmp_path / "notes.txt").write_text("none")
    assert [case.case for case in read_skin_folder(tmp_path, with_masks=False)] == ["a", "b"]
