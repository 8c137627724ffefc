"""Recognises a folder of abdominal CTs by what lies in it."""

from pathlib import Path
from typing import Final

from adpfl.data.case import Case
from adpfl.data.kits import is_kits, read_kits
from adpfl.data.problems import checked_cases, layout_error
from adpfl.errors import DataError

KNOWN: Final = (
    "KiTS 2019 or 2023 (case_00000/imaging.nii.gz + segmentation.nii.gz), "
    "KiTS 2021 (case_00000/imaging.nii.gz + aggregated_MAJ_seg.nii.gz)"
)


def find_kidney_cases(folder: Path, *, with_masks: bool = True) -> tuple[list[Case], list[str]]:
    """All cases, sound or not, ordered by case, and what is wrong; voxels are not read.

    Raises:
        DataError: the folder is absent, empty or of no known layout.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder")
    if not is_kits(folder):
        raise layout_error(folder, KNOWN, is_kits)
    return read_kits(folder, with_masks=with_masks)


def read_kidney_folder(folder: Path, *, with_masks: bool = True) -> list[Case]:
    """Every case of a KiTS folder, ordered by case; headers are compared, voxels are not read.

    Raises:
        DataError: the folder is absent, empty or of no known layout, or cases are incomplete or inconsistent;
            the first few problems by name, and how many there are.
    """
    return checked_cases(folder, *find_kidney_cases(folder, with_masks=with_masks))
