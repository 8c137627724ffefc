"""Recognises a folder of brain MR images by what lies in it."""

from pathlib import Path
from typing import Final

from adpfl.data.brats import is_brats, read_brats
from adpfl.data.case import Case
from adpfl.data.msd import TABLE, is_msd, read_msd
from adpfl.data.problems import checked_cases, layout_error
from adpfl.errors import DataError

KNOWN: Final = (
    "BraTS 2020 (BraTS20_Training_001/), BraTS 2021 (BraTS2021_00000/), BraTS 2023 and 2024 "
    "(BraTS-GLI-00000-000/), FeTS 2021 and 2022 (FeTS2022_00000/), "
    "Task01_BrainTumour of the Medical Segmentation Decathlon (dataset.json, imagesTr/, labelsTr/)"
)


def find_brain_cases(folder: Path, *, with_masks: bool = True) -> tuple[list[Case], list[str]]:
    """All cases, sound or not, ordered by case, and what is wrong; voxels are not read.

    Raises:
        DataError: the folder is absent, empty or of no known layout, or its table cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder")
    if is_msd(folder):
        cases, problems = read_msd(folder, with_masks=with_masks)
        if is_brats(folder):
            problems.append(f"{TABLE} lies among folders of BraTS cases; keep data sets apart")
        return cases, problems
    if not is_brats(folder):
        raise layout_error(folder, KNOWN, _is_known)
    return read_brats(folder, with_masks=with_masks)


def read_brain_folder(folder: Path, *, with_masks: bool = True) -> list[Case]:
    """Every case of the folder, ordered by case; headers are compared, voxels are not read.

    Raises:
        DataError: the folder is absent, empty or of no known layout, or cases are incomplete or inconsistent;
            the first few problems by name, and how many there are.
    """
    return checked_cases(folder, *find_brain_cases(folder, with_masks=with_masks))


def _is_known(folder: Path) -> bool:
    return is_msd(folder) or is_brats(folder)
