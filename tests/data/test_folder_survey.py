"""A whole folder looked through: every case, every problem once, and the sums."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adpfl.data.folder_survey import FINDERS, survey
from adpfl.errors import DataError

Folder = Callable[..., Path]
Writer = Callable[..., Path]


def test_a_sound_folder_is_summed_up(kits_folder: Folder, tmp_path: Path) -> None:
    folder = kits_folder()
    table = tmp_path / "sites.csv"
    table.write_text("case,site\ncase_00000,north\ncase_00001,south\ncase_00002,south\n")
    found = survey(FINDERS["kidney_tumor"], folder, table=table)
    findings = list(found.findings())
    assert [finding.source for finding in findings] == ["north", "south", "south"]
    summary = found.summary()
    assert (summary.cases, summary.patients, summary.problems) == (3, 3, 0)
    assert summary.sites == {"north": 1, "south": 2}
    assert summary.labels == {"kits23": 3}
    assert summary.least_spacing_mm == summary.largest_spacing_mm == (2.0, 1.5, 1.0)
    assert summary.least_size == (6, 7, 8)
    assert summary.structures == {"kidney": 3, "tumor": 3, "cyst": 3}


def test_ranges_are_along_each_axis(
    isic_folder: Folder, write_image: Writer, write_mask_file: Writer
) -> None:
    folder = isic_folder()
    write_image(folder / "ISIC-2017_Training_Data" / "ISIC_0000002.jpg", size=(20, 50))
    write_mask_file(
        folder / "ISIC-2017_Training_Part1_GroundTruth" / "ISIC_0000002_segmentation.png", size=(20, 50)
    )
    found = survey(FINDERS["skin_lesion"], folder)
    list(found.findings())
    summary = found.summary()
    assert (summary.least_size, summary.largest_size) == ((30, 20), (50, 40))
    assert summary.least_spacing_mm is None
    assert summary.patients_are == ("image",)


def test_every_problem_of_every_case_is_listed_once(
    kits_folder: Folder, write_nifti: Writer, tmp_path: Path
) -> None:
    folder = kits_folder(range(6))
    (folder / "case_00000" / "segmentation.nii.gz").unlink()
    (folder / "case_00001" / "imaging.nii.gz").write_bytes(b"broken")
    write_nifti(folder / "case_00002" / "segmentation.nii.gz", np.full((6, 7, 8), 9, np.uint8), np.eye(4))
    shutil.copy(folder / "case_00003" / "imaging.nii.gz", folder / "case_00004" / "imaging.nii.gz")
    table = tmp_path / "sites.csv"
    table.write_text(
        "case,site\n" + "".join(f"case_0000{number},north\n" for number in range(5)) + "gone,north\n"
    )
    found = survey(FINDERS["kidney_tumor"], folder, table=table)
    before = list(found.problems)
    findings = list(found.findings())
    told = [
        "case_00000/segmentation.nii.gz does not exist",
        "case_00001/imaging.nii.gz cannot be read: Not a gzipped file (b'br')",
        "case_00002/segmentation.nii.gz is oriented RAS; must be IPL, as imaging.nii.gz is",
        "case_00005 is not listed in sites.csv",
        "gone is listed in sites.csv, but absent",
    ]
    assert before == told
    assert list(found.problems) == [
        *told,
        "case_00002: the mask holds label 9; kits23 has only 0 background, 1 kidney, 2 tumor, 3 cyst",
        "case_00004 is the same image as case_00003 under another patient",
    ]
    assert [finding.case for finding in findings if finding.problems] == [
        *("case_00001", "case_00002", "case_00004")
    ]
    assert found.summary().problems == 7


def test_images_that_cannot_be_read_are_not_called_alike(kits_folder: Folder) -> None:
    folder = kits_folder(range(4))
    for number in (0, 1):
        (folder / f"case_0000{number}" / "imaging.nii.gz").unlink()
    for number in (2, 3):
        (folder / f"case_0000{number}" / "imaging.nii.gz").write_bytes(b"broken")
    found = survey(FINDERS["kidney_tumor"], folder)
    list(found.findings())
    assert [problem.split(" ")[0] for problem in found.problems] == [
        f"case_0000{number}/imaging.nii.gz" for number in range(4)
    ]


def test_every_case_at_two_institutions_of_fets_is_named(brats_folder: Folder) -> None:
    folder = brats_folder("fets2022")
    rows = ["Partition_ID,Subject_ID", *(f"{site},FeTS2022_0000{case}" for site in (1, 2) for case in (0, 1))]
    (folder / "partitioning_1.csv").write_text("\n".join([*rows, "1,FeTS2022_00002"]))
    (folder / "FeTS2022_00002" / "FeTS2022_00002_seg.nii.gz").unlink()
    assert list(survey(FINDERS["brain_tumor"], folder).problems) == [
        "FeTS2022_00002 has no FeTS2022_00002_seg.nii.gz (mask)",
        *(
            f"partitioning_1.csv: FeTS2022_0000{case} stands twice, "
            "with sites 'institution-1' and 'institution-2'"
            for case in (0, 1)
        ),
    ]


def test_a_patient_at_two_sites_is_named(brats_folder: Folder) -> None:
    folder = brats_folder("brats2024", ["BraTS-GLI-00001-100", "BraTS-GLI-00001-101"])
    rows = ["case,patient,site", "BraTS-GLI-00001-100,,north", "BraTS-GLI-00001-101,,south"]
    (folder / "metadata.csv").write_text("\n".join(rows))
    told = "BraTS-GLI-00001-101 is in south, but its patient's BraTS-GLI-00001-100 is in north"
    problems = list(survey(FINDERS["brain_tumor"], folder).problems)
    assert len(problems) == 1
    assert problems[0].startswith(told)


def test_a_lesion_in_two_sources_of_ham10000_is_named(tmp_path: Path, write_image: Writer) -> None:
    for name in ("ISIC_1", "ISIC_2"):
        write_image(tmp_path / "images" / f"{name}.jpg")
    rows = ["lesion_id,image_id,dataset", "HAM_1,ISIC_1,rosendahl", "HAM_1,ISIC_2,vidir_modern"]
    (tmp_path / "HAM10000_metadata.csv").write_text("\n".join(rows))
    problems = list(survey(FINDERS["skin_lesion"], tmp_path, with_masks=False).problems)
    assert len(problems) == 1
    assert problems[0].startswith("ISIC_2 is in vidir_modern, but its patient's ISIC_1 is in rosendahl")


def test_a_patient_in_two_splits_of_a_challenge_is_named(isic_folder: Folder) -> None:
    isic_folder(["ISIC_1", "ISIC_2"])
    folder = isic_folder(["ISIC_3", "ISIC_4"], split="Test_v2")
    rows = ["image_id,patient_id", "ISIC_1,anna", "ISIC_2,bert", "ISIC_3,anna", "ISIC_4,"]
    (folder / "metadata.csv").write_text("\n".join(rows))
    assert list(survey(FINDERS["skin_lesion"], folder).problems) == [
        (
            "ISIC_3 is in ISIC-2017_Test_v2_Data, but its patient's ISIC_1 is in ISIC-2017_Training_Data; "
            "a patient must be in one split"
        )
    ]


def test_a_folder_without_a_layout_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for finder in FINDERS.values():
        with pytest.raises(DataError, match="has no known layout; must be one of"):
            survey(finder, tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("task", "layout", "cases"),
    [("kidney_tumor", "kits_layout", 1), ("brain_tumor", "brats_layout", 1), ("skin_lesion", "isic2017", 98)],
)
def test_real_folders_are_sound(real_data: Path, task: str, layout: str, cases: int) -> None:
    found = survey(FINDERS[task], real_data / layout)
    assert len(list(found.findings())) == cases
    assert list(found.problems) == []
