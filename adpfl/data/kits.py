"""The folders of the KiTS challenges of 2019, 2021 and 2023: kidneys, tumours and cysts in abdominal CT.

All have `case_XXXXX/imaging.nii.gz`. The mask is `segmentation.nii.gz` in 2019 and 2023 and
`aggregated_MAJ_seg.nii.gz`, the majority of three annotations, in 2021. Stored axes are (slices, rows,
columns), pointing I, P, L.

| convention | 1 | 2 | 3 | told by |
| --- | --- | --- | --- | --- |
| `kits19` | kidney, with its cysts | tumour | | `kits.json` beside it |
| `kits21` | kidney | tumour | cyst | `aggregated_MAJ_seg.nii.gz` |
| `kits23` | kidney | tumour | cyst | `instances/` in a case, `kits23.json` beside it, a number over 299 |

A case with `segmentation.nii.gz` alone may be of 2019 or 2023, and goes with the cases that tell more. A
folder that tells no more is read as `kits23`, whose labels include those of 2019. One case is one patient.
All cases of a folder must be stored in one orientation: nothing else gives away an affine that is wrong in an
image and its mask alike.
"""

import re
from pathlib import Path
from typing import Final

from adpfl.data.case import Case
from adpfl.data.case_years import common_convention, strangers
from adpfl.data.geometry import check_geometry, check_orientations
from adpfl.data.volume_table import read_volume_table, told_labels, with_origins
from adpfl.data.volumes import ORIENTATION, Volume, read_header, read_volume
from adpfl.errors import DataError

IMAGE: Final = "imaging.nii.gz"
MASK: Final = "segmentation.nii.gz"
MASK_2021: Final = "aggregated_MAJ_seg.nii.gz"

_OTHERWISE: Final = "kits23"
"""What is read where nothing tells the year."""
_PLAIN_YEARS: Final = ("kits19", "kits23")
"""Whose masks are `MASK`."""
_CASE = re.compile(r"case_([0-9A-Za-z][\w-]*)")
_TEST_2019 = range(210, 300)
"""Cases whose masks the challenge of 2019 kept to itself."""


def is_kits(folder: Path) -> bool:
    """Whether the folder holds at least one case of KiTS."""
    return any(_case_folders(folder))


def read_kits(folder: Path, *, with_masks: bool = True) -> tuple[list[Case], list[str]]:
    """All cases, sound or not, ordered by case, and what is wrong; headers are compared, voxels are not read.

    The test cases of 2019, which have no masks, are passed over where masks are wanted.

    Raises:
        DataError: a `metadata.csv` in the folder cannot be read; see `adpfl.data.volume_table`.
    """
    places = _case_folders(folder)
    table = read_volume_table(folder)
    told = {place.name: _conventions(place, told_labels(place.name, table)) for place in places}
    common = common_convention(told, otherwise=_OTHERWISE)
    problems = strangers(told, common)
    cases: list[Case] = []
    orientations: dict[Path, str] = {}
    for place in places:
        convention = _chosen(told[place.name], common)
        if with_masks and _is_test_case(place, convention):
            continue
        mask = place / mask_name(convention) if with_masks else None
        wrong = check_geometry([place / IMAGE] if mask is None else [place / IMAGE, mask])
        problems += wrong
        if not wrong:
            orientations[place / IMAGE] = read_header(place / IMAGE).orientation
        cases.append(Case(place.name, place.name, place / IMAGE, mask, labels=convention))
    problems += check_orientations(orientations, usual=ORIENTATION, masks=with_masks)
    cases, wrong = with_origins(cases, table)
    return cases, problems + wrong


def mask_name(convention: str) -> str:
    """The file of the mask in a case's folder."""
    return MASK_2021 if convention == "kits21" else MASK


def read_kidney_image(case: Case) -> Volume:
    """The CT in Hounsfield units, float32 (slices, rows, columns).

    Raises:
        DataError: the file cannot be read or has other than three dimensions.
    """
    volume = read_volume(case.image)
    if volume.array.ndim != 3:
        raise DataError(f"{case.case}: {case.image.name} has {volume.array.ndim} dimensions; must have 3")
    return volume


def _case_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _CASE.fullmatch(path.name) and path.is_dir())


def _conventions(place: Path, listed: str | None) -> tuple[str, ...]:
    """The years that a case can be of; empty where it tells nothing.

    Args:
        place: the case's folder.
        listed: what the folder's table says.
    """
    year = listed or _year(place)
    if year is not None:
        return (year,)
    return _PLAIN_YEARS if (place / MASK).exists() else ()


def _chosen(possible: tuple[str, ...], common: str) -> str:
    """How a case is read: as most are, unless its layout says otherwise."""
    if not possible or common in possible:
        return common
    return _OTHERWISE if _OTHERWISE in possible else possible[0]


def _year(place: Path) -> str | None:
    """What a case's folder, or a table beside it, tells of its year alone."""
    number = place.name.removeprefix("case_")
    if (place / MASK_2021).exists():
        return "kits21"
    if (place / "instances").is_dir() or (place.parent / "kits23.json").exists():
        return "kits23"
    if number.isdecimal() and int(number) >= _TEST_2019.stop:
        return "kits23"
    return "kits19" if (place.parent / "kits.json").exists() else None


def _is_test_case(place: Path, convention: str) -> bool:
    number = place.name.removeprefix("case_")
    return (
        convention == "kits19"
        and number.isdecimal()
        and int(number) in _TEST_2019
        and not (place / MASK).exists()
    )
