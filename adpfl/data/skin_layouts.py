"""Recognises a folder of dermoscopic images by what lies in it."""

from pathlib import Path
from typing import Final

from adpfl.data.case import Case
from adpfl.data.ham10000 import is_ham10000, read_ham10000
from adpfl.data.images import IMAGE_SUFFIXES, check_files
from adpfl.data.isic import is_isic, read_isic
from adpfl.data.problems import checked_cases, layout_error
from adpfl.errors import DataError

KNOWN: Final = (
    "ISIC 2017 (ISIC-2017_Training_Data + ISIC-2017_Training_Part1_GroundTruth), "
    "ISIC 2018 (ISIC2018_Task1-2_Training_Input + ISIC2018_Task1_Training_GroundTruth), "
    "HAM10000 (HAM10000_metadata.csv + HAM10000_images_part_1 + HAM10000_segmentations_lesion_tschandl)"
)


def find_skin_cases(folder: Path, *, with_masks: bool = True) -> tuple[list[Case], list[str]]:
    """Cases ordered by case, and what is wrong with the folder; no file is decoded.

    Args:
        folder: ISIC 2017, ISIC 2018 or HAM10000.
        with_masks: False finds images alone, and then also takes a plain folder of JPEG and PNG files.

    Raises:
        DataError: the folder is absent, empty or of no known layout, or its table cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder")
    isic, ham10000 = is_isic(folder), is_ham10000(folder)
    if isic:
        cases, problems = read_isic(folder, with_masks=with_masks)
        if ham10000:
            problems.append("HAM10000_metadata.csv lies among folders of ISIC; keep data sets apart")
        return cases, problems
    if ham10000:
        return read_ham10000(folder, with_masks=with_masks)
    if with_masks:
        raise layout_error(folder, KNOWN, _is_known)
    return _read_plain(folder), []


def read_skin_folder(folder: Path, *, with_masks: bool = True) -> list[Case]:
    """Every case of a folder in one of the known layouts, ordered by case; each file is decoded as a check.

    Args:
        folder: as for `find_skin_cases`.
        with_masks: as for `find_skin_cases`.

    Raises:
        DataError: the folder is absent, empty or of no known layout, or its files are inconsistent or
            unreadable; the first few problems by name, and how many there are.
    """
    cases, problems = find_skin_cases(folder, with_masks=with_masks)
    return checked_cases(folder, cases, [*problems, *check_files(cases)])


def _is_known(folder: Path) -> bool:
    return is_isic(folder) or is_ham10000(folder)


def _read_plain(folder: Path) -> list[Case]:
    images = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return [
        Case(path.stem, path.stem, path, None, patient_is="image")
        for path in sorted(images)
        if not path.name.startswith(".")
    ]
