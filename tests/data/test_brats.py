"""BraTS and FeTS folders of every year, and what can be wrong with them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adpfl.data.brain_layouts import read_brain_folder
from adpfl.data.brats import brain_channels, present_channels, read_brain_image, read_brats
from adpfl.data.case import Case
from adpfl.data.labels import structures_of
from adpfl.data.volumes import read_label_volume, read_volume
from adpfl.errors import DataError

Folder = Callable[..., Path]
Writer = Callable[..., Path]
CONVENTIONS = ("brats2020", "brats2021", "fets2021", "fets2022", "brats2023", "brats2024")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_each_year_is_read(brats_folder: Folder, convention: str) -> None:
    cases = read_brain_folder(brats_folder(convention))
    assert {case.labels for case in cases} == {convention}
    assert [case.image.name for case in cases] == [case.case for case in cases]
    volume = read_brain_image(cases[0])
    assert volume.array.shape == (4, 8, 7, 6)
    assert volume.array.dtype == np.float32
    assert volume.spacing_mm == (3.0, 2.0, 2.0)
    structures = structures_of(read_label_volume(cases[0].mask).array, convention)
    assert structures.sum((1, 2, 3)).tolist() == [6, 4, 2, 2]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_channels_come_in_one_order(brats_folder: Folder, convention: str) -> None:
    case = read_brain_folder(brats_folder(convention))[0]
    endings = ("-t1n", "-t1c", "-t2w", "-t2f") if "-" in case.case else ("_t1", "_t1ce", "_t2", "_flair")
    assert [path.name for path in brain_channels(case)] == [f"{case.case}{e}.nii.gz" for e in endings]
    expected = [read_volume(path).array for path in brain_channels(case)]
    np.testing.assert_array_equal(read_brain_image(case).array, expected)


def test_time_points_of_one_patient_stay_one_patient(brats_folder: Folder) -> None:
    names = ["BraTS-GLI-00005-100", "BraTS-GLI-00005-101", "BraTS-GLI-00006-100"]
    cases = read_brain_folder(brats_folder("brats2024", names))
    assert [case.patient for case in cases] == ["BraTS-GLI-00005", "BraTS-GLI-00005", "BraTS-GLI-00006"]


def test_other_gliomas_of_the_challenge_are_read(brats_folder: Folder) -> None:
    cases = read_brain_folder(brats_folder("brats2023", ["BraTS-SSA-00002-000", "BraTS-GoAT-00001"]))
    assert [case.patient for case in cases] == ["BraTS-GoAT-00001", "BraTS-SSA-00002"]


def test_other_tasks_of_the_challenge_are_refused(brats_folder: Folder) -> None:
    folder = brats_folder("brats2023")
    for name in ("BraTS-PED-00001-000", "BraTS-MEN-RT-0003-1"):
        (folder / name).mkdir()
    with pytest.raises(DataError, match="BraTS-PED-00001-000 is from another task of the challenge"):
        read_brain_folder(folder)


def test_mixed_years_are_named_by_case(brats_folder: Folder) -> None:
    brats_folder("brats2023")
    folder = brats_folder("brats2021", ["BraTS2021_00007"])
    brats_folder("brats2024", ["BraTS-GLI-00001-100"])
    _, problems = read_brats(folder)
    assert problems == [
        f"{case} among cases of brats2023; keep years and data sets apart"
        for case in (
            "BraTS-GLI-00001-100 is laid out as brats2024",
            "BraTS2021_00007 is laid out as brats2021",
        )
    ]


def test_the_misnamed_mask_of_2020_is_found(brats_folder: Folder) -> None:
    folder = brats_folder("brats2020", ["BraTS20_Training_355"])
    place = folder / "BraTS20_Training_355"
    (place / "BraTS20_Training_355_seg.nii.gz").rename(place / "W39_1998.09.19_Segm.nii.gz")
    assert read_brain_folder(folder)[0].mask == place / "W39_1998.09.19_Segm.nii.gz"


def test_all_that_is_wrong_is_listed(brats_folder: Folder, write_nifti: Writer, image: Writer) -> None:
    folder = brats_folder("brats2021", cases=5)

    def file(number: int, ending: str) -> Path:
        return folder / f"BraTS2021_0000{number}" / f"BraTS2021_0000{number}_{ending}.nii.gz"

    file(0, "t2").unlink()
    file(1, "seg").unlink()
    write_nifti(file(2, "flair"), image(2), np.diag([2.0, -2.0, 3.0, 1.0]))
    file(3, "t1ce").write_bytes(b"\x1f\x8b broken")
    write_nifti(file(4, "t1").with_suffix(""), image(4))
    write_nifti(file(4, "seg"), np.zeros((6, 7, 9), np.uint8))
    cases, problems = read_brats(folder)
    assert len(cases) == 5
    told = [
        r"BraTS2021_00000 has no BraTS2021_00000_t2.nii.gz (t2)",
        "BraTS2021_00001 has no BraTS2021_00001_seg.nii.gz (mask)",
        "BraTS2021_00002/BraTS2021_00002_flair.nii.gz is oriented RPS; must be LPS",
        "BraTS2021_00003/BraTS2021_00003_t1ce.nii.gz cannot be read",
        "BraTS2021_00004 has both BraTS2021_00004_t1.nii.gz and BraTS2021_00004_t1.nii; must have one",
        "BraTS2021_00004/BraTS2021_00004_seg.nii.gz is 6x7x9; must be 6x7x8",
    ]
    assert len(problems) == len(told)
    for problem, start in zip(problems, told, strict=True):
        assert problem.startswith(start)
    with pytest.raises(DataError, match=r"has no BraTS2021_00000_t2\.nii\.gz"):
        read_brain_image(cases[0])
    assert len(present_channels(cases[0])) == 3


def test_institutions_of_fets_become_sources(brats_folder: Folder) -> None:
    folder = brats_folder("fets2022")
    rows = ["Partition_ID,Subject_ID", "1,FeTS2022_00000", "4,FeTS2022_00001", "4,FeTS2022_00002"]
    (folder / "partitioning_1.csv").write_text("\n".join(rows))
    cases = read_brain_folder(folder)
    assert [case.source for case in cases] == ["institution-1", "institution-4", "institution-4"]
    (folder / "partitioning_1.csv").write_text("\n".join([*rows[:2], "1,FeTS2022_00009"]))
    _, problems = read_brats(folder)
    assert problems == [
        "FeTS2022_00001 is not listed in partitioning_1.csv",
        "FeTS2022_00002 is not listed in partitioning_1.csv",
        "FeTS2022_00009 is listed in partitioning_1.csv, but absent",
    ]


def test_sequences_must_be_alike_to_be_stacked(brats_folder: Folder, write_nifti: Writer) -> None:
    case = read_brain_folder(brats_folder("brats2023"))[0]
    write_nifti(brain_channels(case)[2], np.zeros((6, 7, 9), np.int16))
    with pytest.raises(DataError, match=r"sequences are of shapes .* must be 3D and alike"):
        read_brain_image(case)


def test_a_folder_of_another_name_is_no_case(tmp_path: Path) -> None:
    case = Case("x", "x", tmp_path, None, labels="brats2023")
    with pytest.raises(DataError, match="is no case of BraTS or FeTS"):
        brain_channels(case)


@pytest.mark.real_data
def test_a_real_glioma_is_read(real_data: Path) -> None:
    (case,) = read_brain_folder(real_data / "brats_layout")
    volume, mask = read_brain_image(case), read_label_volume(case.mask)
    assert volume.array.shape == (4, 155, 240, 240)
    assert (case.patient, case.labels, volume.spacing_mm) == ("BraTS-GLI-90000", "brats2023", (1.0, 1.0, 1.0))
    whole, core, _, _ = structures_of(mask.array, "brats2023").astype(bool)
    assert core.sum() < whole.sum()
    flair = volume.array[3]
    assert np.median(flair[whole]) > np.median(flair[flair > 0])  # a glioma is bright in FLAIR
