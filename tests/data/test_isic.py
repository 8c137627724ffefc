"""ISIC 2017 and 2018 folders: every split, patients from a table, and what is wrong with a folder."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from adpfl.data.skin_layouts import read_skin_folder
from adpfl.errors import DataError

IMAGES = "ISIC-2017_Training_Data"
MASKS = "ISIC-2017_Training_Part1_GroundTruth"


@pytest.mark.parametrize("year", [2017, 2018])
@pytest.mark.parametrize("split", ["Training", "Validation", "Test"])
def test_each_year_and_split_is_read(isic_folder: Callable[..., Path], year: int, split: str) -> None:
    cases = read_skin_folder(isic_folder(year=year, split=split))
    assert [case.case for case in cases] == ["ISIC_0000001", "ISIC_0000002", "ISIC_0000003"]
    assert all(case.mask and case.mask.name == f"{case.case}_segmentation.png" for case in cases)
    assert [case.patient for case in cases] == [case.case for case in cases]
    assert {case.patient_is for case in cases} == {"image"}


def test_the_second_version_of_the_2017_test_split_is_read(isic_folder: Callable[..., Path]) -> None:
    assert len(read_skin_folder(isic_folder(split="Test_v2"))) == 3


def test_splits_in_one_folder_are_read_together(isic_folder: Callable[..., Path]) -> None:
    isic_folder(["ISIC_1", "ISIC_3"])
    folder = isic_folder(["ISIC_2"], split="Validation")
    assert [case.case for case in read_skin_folder(folder)] == ["ISIC_1", "ISIC_2", "ISIC_3"]


def test_superpixels_licences_and_hidden_files_are_passed_over(
    isic_folder: Callable[..., Path], write_image: Callable[..., None]
) -> None:
    folder = isic_folder()
    write_image(folder / IMAGES / "ISIC_0000001_superpixels.png")
    (folder / IMAGES / "LICENSE.txt").write_text("CC0")
    (folder / IMAGES / "._ISIC_0000001.jpg").write_bytes(b"resource fork")
    (folder / "ISIC-2017_Training_Part3_GroundTruth.csv").write_text("image_id,melanoma\nISIC_0000001,0\n")
    assert len(read_skin_folder(folder)) == 3


@pytest.mark.parametrize("column", ["image_id", "image", "image_name", "isic_id"])
def test_a_table_names_patients_and_sources(isic_folder: Callable[..., Path], column: str) -> None:
    folder = isic_folder()
    (folder / "metadata.csv").write_text(
        f"{column},patient_id,source\nISIC_0000001,p1,north\nISIC_0000002,p1,north\nISIC_0000003,,\n"
    )
    cases = read_skin_folder(folder)
    assert [(case.patient, case.source, case.patient_is) for case in cases] == [
        ("p1", "north", "patient"),
        ("p1", "north", "patient"),
        ("ISIC_0000003", None, "image"),
    ]


def test_an_image_that_the_table_forgets_is_a_problem(isic_folder: Callable[..., Path]) -> None:
    folder = isic_folder()
    (folder / "metadata.csv").write_text("image,patient_id\nISIC_0000001,p1\nISIC_0000002,p2\n")
    with pytest.raises(DataError, match="ISIC_0000003 is missing in the table that names patients"):
        read_skin_folder(folder)


def test_a_table_that_contradicts_itself_is_refused(isic_folder: Callable[..., Path]) -> None:
    folder = isic_folder(["ISIC_1"])
    (folder / "metadata.csv").write_text("image,patient_id\nISIC_1,p1\nISIC_1,p2\n")
    with pytest.raises(DataError, match="line 3: ISIC_1 stands twice"):
        read_skin_folder(folder)


def test_two_tables_that_contradict_each_other_are_refused(isic_folder: Callable[..., Path]) -> None:
    folder = isic_folder(["ISIC_1"])
    (folder / "a.csv").write_text("image,patient_id\nISIC_1,p1\n")
    (folder / "b.csv").write_text("image,patient_id\nISIC_1,p2\n")
    with pytest.raises(DataError, match=r"b\.csv: ISIC_1 has another patient"):
        read_skin_folder(folder)


def test_an_image_without_mask_and_a_mask_without_image_are_named_together(
    isic_folder: Callable[..., Path],
) -> None:
    folder = isic_folder()
    (folder / MASKS / "ISIC_0000001_segmentation.png").unlink()
    (folder / IMAGES / "ISIC_0000003.jpg").unlink()
    with pytest.raises(DataError) as raised:
        read_skin_folder(folder)
    assert str(raised.value) == (
        f"{folder}: 2 problems: ISIC_0000001.jpg has no mask; ISIC_0000003_segmentation.png has no image"
    )


def test_files_that_do_not_fit_are_named(
    isic_folder: Callable[..., Path], write_mask_file: Callable[..., None]
) -> None:
    folder = isic_folder()
    write_mask_file(folder / MASKS / "ISIC_0000001_segmentation.png", size=(41, 30))
    write_mask_file(folder / MASKS / "ISIC_0000002_segmentation.png", foreground=100)
    (folder / IMAGES / "ISIC_0000003.jpg").write_bytes(b"\xff\xd8\xff garbage")
    with pytest.raises(DataError) as raised:
        read_skin_folder(folder)
    message = str(raised.value)
    assert "3 problems" in message
    assert "the mask of ISIC_0000001 is 41x30; must be 40x30" in message
    assert "ISIC_0000002_segmentation.png holds the values 0, 100" in message
    assert "ISIC_0000003.jpg" in message
    assert "\n" not in message


def test_many_problems_are_counted(isic_folder: Callable[..., Path]) -> None:
    folder = isic_folder([f"ISIC_{number}" for number in range(9)])
    for mask in (folder / MASKS).iterdir():
        mask.unlink()
    with pytest.raises(DataError, match=r"9 problems: .*ISIC_4\.jpg has no mask; and 4 more$"):
        read_skin_folder(folder)


def test_an_image_that_stands_twice_is_a_problem(
    isic_folder: Callable[..., Path], write_image: Callable[..., None]
) -> None:
    folder = isic_folder(["ISIC_1"])
    write_image(folder / IMAGES / "ISIC_1.png")
    with pytest.raises(DataError, match="ISIC_1 stands twice"):
        read_skin_folder(folder)


def test_a_missing_mask_folder_is_named_once(isic_folder: Callable[..., Path]) -> None:
    folder = isic_folder()
    for mask in (folder / MASKS).iterdir():
        mask.unlink()
    (folder / MASKS).rmdir()
    with pytest.raises(DataError, match=f"{IMAGES} has no {MASKS} beside it$"):
        read_skin_folder(folder)


def test_an_image_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / IMAGES).mkdir()
    (tmp_path / MASKS).mkdir()
    with pytest.raises(DataError, match="holds no images"):
        read_skin_folder(tmp_path)


def test_prediction_needs_no_masks(isic_folder: Callable[..., Path]) -> None:
    folder = isic_folder()
    for mask in (folder / MASKS).iterdir():
        mask.unlink()
    assert [case.mask for case in read_skin_folder(folder, with_masks=False)] == [None, None, None]


@pytest.mark.real_data
def test_real_images_are_read() -> None:
    root = os.environ.get("ADPFL_TEST_DATA")
    if not root:
        pytest.skip("ADPFL_TEST_DATA is not set")
    cases = read_skin_folder(Path(root) / "isic2017")
    assert len(cases) == 98
    assert len({case.patient for case in cases}) == 98
