"""The folders of the ISIC challenges of 2017 and 2018, lesion segmentation.

2017: `ISIC-2017_Training_Data/ISIC_0000000.jpg` and
`ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png`.
2018: `ISIC2018_Task1-2_Training_Input/` and `ISIC2018_Task1_Training_GroundTruth/`, files named alike.
`Validation` and `Test` stand for `Training` in the other splits. Superpixel files, licences and other tasks'
tables are passed over.

The challenges do not say which images show the same patient. Where a CSV in the folder does (an image column
and a `patient_id` column, as in the ISIC Archive's metadata; optionally `source`), it is followed; else each
image is its own patient, and its case says so in `patient_is`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adpfl.data.case import Case, PatientBasis
from adpfl.data.image_pairs import find_images, find_masks, unpaired
from adpfl.data.metadata import Origin, read_origins
from adpfl.errors import DataError

_LAYOUTS = (
    (re.compile(r"ISIC-2017_(Training|Validation|Test|Test_v2)_Data"), "ISIC-2017_{}_Part1_GroundTruth"),
    (re.compile(r"ISIC2018_Task1-2_(Training|Validation|Test)_Input"), "ISIC2018_Task1_{}_GroundTruth"),
)
PATIENT_COLUMN = "patient_id"
SOURCE_COLUMN = "source"


@dataclass(frozen=True, slots=True)
class _Part:
    """One split's pair of folders; the second may be absent."""

    images: Path
    masks: Path

    @property
    def year(self) -> str:
        return "2018" if self.images.name.startswith("ISIC2018") else "2017"


def is_isic(folder: Path) -> bool:
    """Whether the folder holds at least one ISIC image folder."""
    return bool(_parts(folder))


def read_isic(folder: Path, *, with_masks: bool = True) -> tuple[list[Case], list[str]]:
    """Cases of every split found, ordered by case, and what is wrong with them.

    All splits that lie in the folder are read together, since sites split by patient themselves; to keep a
    challenge's test images apart, keep them in a folder of their own.

    Raises:
        DataError: a CSV in the folder cannot be read.
    """
    parts = _parts(folder)
    images, problems = find_images(part.images for part in parts)
    problems += [
        f"{part.images.name} lies beside {parts[0].images.name}; keep years apart, they share images"
        for part in parts
        if part.year != parts[0].year
    ]
    masks: dict[str, Path] = {}
    if with_masks:
        absent = [part for part in parts if not part.masks.is_dir()]
        problems += [f"{part.images.name} has no {part.masks.name} beside it" for part in absent]
        masks, doubled = find_masks(part.masks for part in parts if part.masks.is_dir())
        problems += doubled
        if not absent:
            problems += unpaired(images, masks)
    origins = _origins(folder, parts)
    cases = []
    for case, image in sorted(images.items()):
        origin = Origin(None, None) if origins is None else origins.get(case)
        if origin is None:
            problems.append(f"{case} is missing in the table that names patients")
            continue
        if not with_masks or case in masks:
            patient, basis = _patient_of(case, origin)
            cases.append(Case(case, patient, image, masks.get(case), origin.source, basis))
    return cases, problems


def divided_splits(cases: Sequence[Case]) -> list[str]:
    """A problem for each case whose patient is known to have images in another split of the challenge too.

    Sites hold out patients themselves, so that they may read such a folder; scores on the challenge's own
    test images would be too good.
    """
    first: dict[str, Case] = {}
    problems = []
    for case in sorted(cases, key=lambda case: case.case):
        before = first.setdefault(case.patient, case)
        here, there = case.image.parent.name, before.image.parent.name
        if case.patient_is == "patient" and here != there and _is_images(here) and _is_images(there):
            problems.append(
                f"{case.case} is in {here}, but its patient's {before.case} is in {there}; "
                "a patient must be in one split"
            )
    return problems


def _is_images(name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern, _ in _LAYOUTS)


def _patient_of(case: str, origin: Origin) -> tuple[str, PatientBasis]:
    return (case, "image") if origin.patient is None else (origin.patient, "patient")


def _parts(folder: Path) -> list[_Part]:
    found = []
    for path in sorted(folder.iterdir()):
        for pattern, masks in _LAYOUTS:
            match = pattern.fullmatch(path.name)
            if match and path.is_dir():
                found.append(_Part(path, folder / masks.format(match[1])))
    return found


def _origins(folder: Path, parts: list[_Part]) -> dict[str, Origin] | None:
    """The union of all tables that name patients; None where there is no such table."""
    union: dict[str, Origin] | None = None
    for place in (folder, *(part.images for part in parts)):
        for path in sorted(place.glob("*.csv")):
            table = read_origins(path, patient_column=PATIENT_COLUMN, source_column=SOURCE_COLUMN)
            if table is None:
                continue
            union = union or {}
            for case, origin in table.items():
                if union.setdefault(case, origin).patient != origin.patient:
                    raise DataError(f"{path}: {case} has another patient than in another table of the folder")
    return union
