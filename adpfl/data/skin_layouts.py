"""Recognises a folder of dermoscopic images by what lies in it."""

from pathlib import Path

from adpfl.data.case import Case
from adpfl.data.ham10000 import is_ham10000, read_ham10000
from adpfl.data.images import IMAGE_SUFFIXES, check_files
from adpfl.data.isic import is_isic, read_isic
from adpfl.data.problems import folder_error
from adpfl.errors import DataError

_KNOWN = (
    "ISIC 2017 (ISIC-2017_Training_Data + ISIC-2017_Training_Part1_GroundTruth), "
    "ISIC 2018 (ISIC2018_Task1-2_Training_Input + ISIC2018_Task1_Training_GroundTruth), "
    "HAM10000 (HAM10000_metadata.csv + HAM10000_images_part_1 + HAM10000_segmentations_lesion_tschandl)"
)


def read_skin_folder(folder: Path, *, with_masks: bool = True) -> list[Case]:
    """Every case of a folder in one of the known layouts, ordered by case; each file is decoded as a check.

    Args:
        folder: ISIC 2017, ISIC 2018 or HAM10000.
        with_masks: False reads images alone, and then also takes a plain folder of JPEG and PNG files.

    Raises:
        DataError: the folder is absent, empty or of no known layout, or its files are inconsistent or
            unreadable; the first few problems by name, and how many there are.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder")
    if is_isic(folder):
        cases, problems = read_isic(folder, with_masks=with_masks)
    elif is_ham10000(folder):
        cases, problems = read_ham10000(folder, with_masks=with_masks)
    elif with_masks:
        found = "is empty" if not any(folder.iterdir()) else "has no known layout"
        raise DataError(f"{folder}: {found}; must be one of {_KNOWN}")
    else:
        cases, problems = _read_plain(folder), []
    problems = [*problems, *check_files(cases)]
    if problems:
        raise folder_error(folder, problems)
    if not cases:
        raise DataError(f"{folder}: holds no images")
    return cases


def _read_plain(folder: Path) -> list[Case]:
    images = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return [
        Case(path.stem, path.stem, path, None, patient_is="image")
        for path in sorted(images)
        if not path.name.startswith(".")
    ]
