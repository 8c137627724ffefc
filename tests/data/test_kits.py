"""KiTS folders of every year, and what can be wrong with them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adpfl.data.kidney_layouts import read_kidney_folder
from adpfl.data.kits import mask_name, read_kidney_image, read_kits
from adpfl.data.labels import structures_of
from adpfl.data.volumes import fixed_affine, read_label_volume
from adpfl.errors import DataError

Folder = Callable[..., Path]
Writer = Callable[..., Path]


@pytest.mark.parametrize(("year", "labels"), [(2019, "kits19"), (2021, "kits21"), (2023, "kits23")])
def test_each_year_is_read(kits_folder: Folder, year: int, labels: str) -> None:
    cases = read_kidney_folder(kits_folder(year=year))
    assert [case.case for case in cases] == ["case_00000", "case_00001", "case_00002"]
    assert {case.labels for case in cases} == {labels}
    assert [case.patient for case in cases] == [case.case for case in cases]
    image = read_kidney_image(cases[1])
    assert image.array.shape == (6, 7, 8)
    assert image.spacing_mm == (2.0, 1.5, 1.0)
    assert image.orientation == "IPL"
    structures = structures_of(read_label_volume(cases[1].mask).array, labels)
    assert structures.sum((1, 2, 3)).tolist() == ([4, 2, 2] if year == 2019 else [6, 4, 2])


def test_a_folder_that_tells_no_year_may_hold_cysts(kits_folder: Folder) -> None:
    folder = kits_folder()
    for place in folder.iterdir():
        (place / "instances").rmdir()
    assert {case.labels for case in read_kidney_folder(folder)} == {"kits23"}


def test_a_high_number_tells_the_year(kits_folder: Folder) -> None:
    folder = kits_folder([0, 1, 400])
    for place in folder.iterdir():
        (place / "instances").rmdir()
    (folder / "kits.json").write_text("[]")
    with pytest.raises(DataError, match="case_00400 is laid out as kits23 among cases of kits19"):
        read_kidney_folder(folder)


def test_the_test_cases_of_2019_are_passed_over(kits_folder: Folder) -> None:
    folder = kits_folder([0, 209, 210], year=2019)
    (folder / "case_00210" / "segmentation.nii.gz").unlink()
    assert [case.case for case in read_kidney_folder(folder)] == ["case_00000", "case_00209"]
    assert len(read_kidney_folder(folder, with_masks=False)) == 3
    (folder / "case_00209" / "segmentation.nii.gz").unlink()
    with pytest.raises(DataError, match=r"case_00209/segmentation\.nii\.gz does not exist"):
        read_kidney_folder(folder)


def test_mixed_years_are_named_by_case(kits_folder: Folder) -> None:
    kits_folder([0, 1, 2], year=2023)
    folder = kits_folder([3, 4], year=2021)
    _, problems = read_kits(folder)
    assert problems == [
        f"{case} is laid out as kits21 among cases of kits23; keep years and data sets apart"
        for case in ("case_00003", "case_00004")
    ]


@pytest.mark.parametrize("marked", [True, False])
def test_one_stray_of_2021_is_the_one_named(kits_folder: Folder, *, marked: bool) -> None:
    kits_folder(range(5))
    folder = kits_folder([7], year=2021)
    if not marked:
        for place in folder.glob("*/instances"):
            place.rmdir()
    (folder / "case_00002" / "imaging.nii.gz").unlink()
    (folder / "case_00003" / "segmentation.nii.gz").unlink()
    cases, problems = read_kits(folder)
    assert {case.case: case.labels for case in cases} == {
        **{f"case_0000{number}": "kits23" for number in range(5)},
        "case_00007": "kits21",
    }
    assert problems == [
        "case_00007 is laid out as kits21 among cases of kits23; keep years and data sets apart",
        "case_00002/imaging.nii.gz does not exist",
        "case_00003/segmentation.nii.gz does not exist",
    ]


def test_one_stray_with_a_plain_mask_is_named_among_2021(kits_folder: Folder) -> None:
    kits_folder(range(3), year=2021)
    folder = kits_folder([7])
    (folder / "case_00007" / "instances").rmdir()
    _, problems = read_kits(folder)
    assert problems == [
        "case_00007 is laid out as kits19 or kits23 among cases of kits21; keep years and data sets apart"
    ]


def test_a_case_stored_in_another_orientation_is_named(
    kits_folder: Folder, write_nifti: Writer, image: Writer, labels: Writer
) -> None:
    folder = kits_folder(range(4))
    write_nifti(folder / "case_00000" / "imaging.nii.gz", image(0), np.eye(4))
    write_nifti(folder / "case_00000" / "segmentation.nii.gz", labels((1, 2, 3)), np.eye(4))
    _, problems = read_kits(folder)
    assert problems == [
        "case_00000/imaging.nii.gz and its mask are oriented RAS; must be IPL, as most cases are"
    ]
    _, problems = read_kits(folder, with_masks=False)
    assert problems == ["case_00000/imaging.nii.gz is oriented RAS; must be IPL, as most cases are"]


def test_a_folder_stored_alike_may_have_any_orientation(
    kits_folder: Folder, write_nifti: Writer, image: Writer, labels: Writer
) -> None:
    folder = kits_folder(range(2))
    for number, place in enumerate(sorted(folder.iterdir())):
        write_nifti(place / "imaging.nii.gz", image(number), np.eye(4))
        write_nifti(place / "segmentation.nii.gz", labels((1, 2, 3)), np.eye(4))
    assert read_kits(folder)[1] == []


def test_all_that_is_wrong_is_listed(kits_folder: Folder, write_nifti: Writer, image: Writer) -> None:
    folder = kits_folder(range(6))
    (folder / "case_00000" / "imaging.nii.gz").unlink()
    (folder / "case_00001" / "segmentation.nii.gz").unlink()
    (folder / "case_00002" / "imaging.nii.gz").write_bytes(b"\x1f\x8b broken")
    write_nifti(folder / "case_00003" / "imaging.nii.gz", image(3), np.eye(4))
    shutil.rmtree(folder / "case_00004")
    (folder / "case_00004").mkdir()
    cases, problems = read_kits(folder)
    assert len(cases) == 6
    assert [problem.split("/")[0] for problem in problems] == [
        *("case_00000", "case_00001", "case_00002", "case_00003", "case_00004", "case_00004")
    ]
    assert "is oriented IPL; must be RAS" in problems[3]
    with pytest.raises(DataError, match=r"6 problems: .*; and 1 more"):
        read_kidney_folder(folder)


def test_images_alone_need_no_masks(kits_folder: Folder) -> None:
    folder = kits_folder()
    (folder / "case_00001" / "segmentation.nii.gz").unlink()
    assert [case.mask for case in read_kidney_folder(folder, with_masks=False)] == [None] * 3


def test_a_table_beside_the_cases_tells_patients_and_sites(kits_folder: Folder) -> None:
    folder = kits_folder()
    rows = ["case,patient,site", "case_00000,anna,north", "case_00001,anna,north", "case_00002,,south"]
    (folder / "metadata.csv").write_text("\n".join(rows))
    cases = read_kidney_folder(folder)
    assert [(case.patient, case.source) for case in cases] == [
        ("anna", "north"),
        ("anna", "north"),
        ("case_00002", "south"),
    ]


def test_a_four_dimensional_ct_is_refused(kits_folder: Folder, write_nifti: Writer, image: Writer) -> None:
    folder = kits_folder()
    affine = fixed_affine((2.0, 1.5, 1.0))
    write_nifti(folder / "case_00000" / "imaging.nii.gz", image(0, (6, 7, 8, 2)), affine)
    cases, problems = read_kits(folder)
    assert problems == ["case_00000/imaging.nii.gz has 4 dimensions; must have 3"]
    with pytest.raises(DataError, match=r"case_00000: imaging\.nii\.gz has 4 dimensions; must have 3"):
        read_kidney_image(cases[0])


def test_mask_names() -> None:
    assert mask_name("kits21") == "aggregated_MAJ_seg.nii.gz"
    assert mask_name("kits19") == mask_name("kits23") == "segmentation.nii.gz"


@pytest.mark.real_data
def test_a_real_ct_is_read(real_data: Path) -> None:
    (case,) = read_kidney_folder(real_data / "kits_layout")
    image, mask = read_kidney_image(case), read_label_volume(case.mask)
    assert image.array.shape == mask.array.shape == (112, 101, 122)
    np.testing.assert_allclose(image.spacing_mm, 3.0)
    kidneys = structures_of(mask.array, "kits23")[0].astype(bool)
    assert -30.0 < np.median(image.array[kidneys]) < 250.0  # Hounsfield units of soft tissue, perfused or not
    columns = np.nonzero(kidneys)[2]
    assert columns.min() < 61 < columns.max()  # one on either side of the body
