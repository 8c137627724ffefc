"""What one case holds, and what is wrong in its voxels."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adpfl.data import case_findings
from adpfl.data.brain_layouts import find_brain_cases
from adpfl.data.case_findings import inspect_case, inspect_cases
from adpfl.data.kidney_layouts import find_kidney_cases
from adpfl.data.skin_layouts import find_skin_cases

Folder = Callable[..., Path]
Writer = Callable[..., Path]


def test_a_ct(kits_folder: Folder) -> None:
    cases, _ = find_kidney_cases(kits_folder())
    finding = inspect_case(cases[0])
    assert finding.problems == ()
    assert (finding.size, finding.spacing_mm, finding.orientation) == ((6, 7, 8), (2.0, 1.5, 1.0), "IPL")
    assert finding.structures == {name: pytest.approx(2 * 3.0 / 1000) for name in ("kidney", "tumor", "cyst")}


def test_a_glioma(brats_folder: Folder) -> None:
    cases, _ = find_brain_cases(brats_folder("brats2024"))
    finding = inspect_case(cases[0])
    assert (finding.size, finding.spacing_mm, finding.orientation) == ((8, 7, 6), (3.0, 2.0, 2.0), "LPS")
    assert list(finding.structures or ()) == [
        *("non-enhancing core", "edema", "enhancing tumor", "resection cavity")
    ]


def test_a_decathlon_file(msd_folder: Folder) -> None:
    cases, _ = find_brain_cases(msd_folder())
    finding = inspect_case(cases[0])
    assert finding.size == (8, 7, 6)
    assert finding.problems == ()


def test_a_photograph(isic_folder: Folder) -> None:
    cases, _ = find_skin_cases(isic_folder())
    finding = inspect_case(cases[0])
    assert (finding.size, finding.spacing_mm) == ((30, 40), None)
    assert finding.structures == {"lesion": pytest.approx(150 / 1200)}


def test_broken_pixels_are_named(isic_folder: Folder, write_mask_file: Callable[..., None]) -> None:
    folder = isic_folder()
    cases, _ = find_skin_cases(folder)
    cases[0].image.write_bytes(cases[0].image.read_bytes()[:200])
    write_mask_file(cases[1].mask, size=(41, 30))
    write_mask_file(cases[2].mask, foreground=7)
    told = [inspect_case(case).problems for case in cases]
    assert all(len(problems) == 1 for problems in told)
    assert told[0][0].startswith("ISIC_0000001.jpg cannot be decoded")
    assert told[1][0].startswith("the mask of ISIC_0000002 is 41x30; must be 40x30")
    assert told[2][0].startswith("ISIC_0000003_segmentation.png holds the values 0, 7")


def test_all_that_is_wrong_in_one_case_is_listed(
    brats_folder: Folder, write_nifti: Writer, image: Writer
) -> None:
    cases, _ = find_brain_cases(brats_folder("brats2023"))
    t1, t1c, t2, flair = (
        cases[0].image / f"{cases[0].case}-{name}.nii.gz" for name in ("t1n", "t1c", "t2w", "t2f")
    )
    t1.write_bytes(t1.read_bytes()[:-60])
    write_nifti(t1c, np.full((6, 7, 8), np.nan, np.float32))
    write_nifti(t2, np.full((6, 7, 8), 3, np.int16))
    write_nifti(cases[0].mask, np.full((6, 7, 8), 4, np.uint8))
    finding = inspect_case(cases[0])
    name = "BraTS-GLI-00000-000"
    assert [problem.split(": ")[0] for problem in finding.problems] == [
        f"{name}/{name}-t1n.nii.gz cannot be read",
        f"{name}/{name}-t1c.nii.gz holds NaN or infinite voxels; all must be finite",
        f"{name}/{name}-t2w.nii.gz holds 3 in every voxel of channel 0; it must have contrast",
        name,
    ]
    assert (
        "the mask holds label 4; brats2023 has only 0 background, 1 non-enhancing core" in finding.problems[3]
    )
    assert finding.structures is None
    assert flair.is_file()


def test_what_is_absent_is_left_to_the_reader(kits_folder: Folder) -> None:
    cases, problems = find_kidney_cases(kits_folder())
    cases[0].image.unlink()
    cases[0].mask.unlink()
    assert problems == []
    assert inspect_case(cases[0]).problems == ()


def test_only_an_image_that_is_wholly_read_has_a_digest(
    kits_folder: Folder, brats_folder: Folder, msd_folder: Folder
) -> None:
    sound, absent, broken = find_kidney_cases(kits_folder())[0]
    absent.image.unlink()
    broken.image.write_bytes(broken.image.read_bytes()[:-40])
    assert [inspect_case(case).digest is not None for case in (sound, absent, broken)] == [True, False, False]
    brains, _ = find_brain_cases(brats_folder("brats2023"))
    flair = [case.image / f"{case.case}-t2f.nii.gz" for case in brains]
    flair[1].unlink()
    flair[2].write_bytes(b"broken")
    assert [inspect_case(case).digest is not None for case in brains] == [True, False, False]
    decathlon = find_brain_cases(msd_folder())[0]
    decathlon[0].image.unlink()
    assert [inspect_case(case).digest is not None for case in decathlon] == [False, True, True]


def test_a_folder_in_place_of_a_file_is_left_to_the_reader(kits_folder: Folder, msd_folder: Folder) -> None:
    for cases in (find_kidney_cases(kits_folder())[0], find_brain_cases(msd_folder())[0]):
        cases[0].image.unlink()
        cases[0].image.mkdir()
        finding = inspect_case(cases[0])
        assert (finding.problems, finding.size, finding.digest) == ((), None, None)


def test_a_folder_of_no_known_name_is_a_problem_of_its_case(brats_folder: Folder) -> None:
    case = find_brain_cases(brats_folder("brats2023"))[0][0]
    other = replace(case, image=case.image.rename(case.image.with_name("patient-7")), mask=None)
    assert inspect_case(other).problems == (f"{case.case}: patient-7 is no case of BraTS or FeTS",)


def test_findings_come_in_order_and_no_more_cases_are_read_than_asked(
    kits_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, _ = find_kidney_cases(kits_folder(range(12)))
    taken: list[str] = []
    lock = threading.Lock()
    reading, most = 0, 0
    really = case_findings.inspect_case

    def counted(case):
        nonlocal reading, most
        with lock:
            reading += 1
            most = max(most, reading)
        finding = really(case)
        with lock:
            reading -= 1
        return finding

    def taking():
        for case in cases:
            taken.append(case.case)
            yield case

    monkeypatch.setattr(case_findings, "inspect_case", counted)
    findings = inspect_cases(taking(), workers=3)
    first = next(findings)
    assert first.case == "case_00000"
    assert len(taken) <= 7  # two for each worker, and the one after the first that came back
    assert [finding.case for finding in findings] == [case.case for case in cases[1:]]
    assert most <= 3
