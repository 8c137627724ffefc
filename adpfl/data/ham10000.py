"""The HAM10000 folder: 10,015 dermoscopic images of 7,470 lesions from two clinics (Tschandl et al. 2018).

`HAM10000_metadata.csv` (or without `.csv`) with `lesion_id`, `image_id` and, in the archive's own version,
`dataset`; images in `HAM10000_images_part_1/` and `_part_2/`, or in `images/`; masks in
`HAM10000_segmentations_lesion_tschandl/`, named `ISIC_0024306_segmentation.png` (Tschandl et al. 2020).
Several images show the same lesion: the lesion is the patient here, the finest grouping that the table gives.
"""

from pathlib import Path

from adpfl.data.case import Case
from adpfl.data.image_pairs import find_images, find_masks, unpaired
from adpfl.data.metadata import read_origins
from adpfl.errors import DataError

_TABLES = ("HAM10000_metadata.csv", "HAM10000_metadata")
_IMAGES = ("HAM10000_images_part_1", "HAM10000_images_part_2", "images")
_MASKS = "HAM10000_segmentations_lesion_tschandl"


def is_ham10000(folder: Path) -> bool:
    """Whether the folder holds HAM10000's table."""
    return _table(folder) is not None


def read_ham10000(folder: Path, *, with_masks: bool = True) -> tuple[list[Case], list[str]]:
    """Cases ordered by case, and what is wrong with them. Rows of the table without an image are passed over.

    Raises:
        DataError: the table cannot be read or lacks a column, or there is no folder of images.
    """
    table = _table(folder)
    if table is None:
        raise DataError(f"{folder}: has no {_TABLES[0]}")
    origins = read_origins(table, patient_column="lesion_id", source_column="dataset")
    if origins is None:
        raise DataError(f"{table}: must have the columns image_id and lesion_id")
    places = [folder / name for name in _IMAGES if (folder / name).is_dir()]
    if not places:
        raise DataError(f"{folder}: has no folder of images; must have one of {', '.join(_IMAGES)}")
    images, problems = find_images(places)
    masks: dict[str, Path] = {}
    if with_masks and not (folder / _MASKS).is_dir():
        problems.append(f"has no {_MASKS}")
    elif with_masks:
        masks, doubled = find_masks([folder / _MASKS])
        problems += doubled + unpaired(images, masks)
    cases = []
    for case, image in sorted(images.items()):
        origin = origins.get(case)
        if origin is None or origin.patient is None:
            problems.append(f"{case} has no lesion_id in {table.name}")
        elif not with_masks or case in masks:
            cases.append(Case(case, origin.patient, image, masks.get(case), origin.source, "lesion"))
    return cases, problems


def _table(folder: Path) -> Path | None:
    return next((folder / name for name in _TABLES if (folder / name).is_file()), None)
