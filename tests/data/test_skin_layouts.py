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


def test_years_and_data_sets_are_kept_apart(isic_folder: Callable[..., Path]) -> None:
    isic_folder(["ISIC_1"])
    folder = isic_folder(["ISIC_2"], year=2018)
    (folder / "HAM10000_metadata.csv").write_text("lesion_id,image_id\n")
    with pytest.raises(DataError, match="2 problems: ") as told:
        read_skin_folder(folder)
    assert "ISIC2018_Task1-2_Training_Input lies beside ISIC-2017_Training_Data; keep years apart" in str(
        told.value
    )
    assert "HAM10000_metadata.csv lies among folders of ISIC; keep data sets apart" in str(told.value)
