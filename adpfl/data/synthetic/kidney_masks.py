"""Reads real kidney and tumour masks to paint on: an npz of volumes with a JSON table beside it.

The npz holds one uint8 volume (slices, rows, columns) a case, inferior, posterior and left growing, of
3 mm voxels, 0 background, 1 kidney, 2 tumour. The table, of the same name but `.json`, is a list of records
with the case's name (`case`), the hospital that took the real scan (`site`), and the distance of its slices
in mm (`sz`). KiTS19 is the source of such masks.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from adpfl.config import load_json
from adpfl.data.problems import folder_error
from adpfl.errors import DataError

MASK_SPACING_MM: Final = 3.0
_MOST_VOXELS: Final = 1 << 24
_LABELS: Final = frozenset({0, 1, 2})


@dataclass(frozen=True, slots=True)
class RealMask:
    """One patient's annotation.

    Attributes:
        case: its name in the data set.
        labels: uint8 (slices, rows, columns) of 3 mm voxels, 1 kidney and 2 tumour.
        hospital: the number of the hospital that took the scan.
        slice_mm: distance of the real scan's slices.
    """

    case: str
    labels: NDArray[np.uint8]
    hospital: int
    slice_mm: float


def read_masks(path: Path) -> list[RealMask]:
    """Every mask of an npz, ordered by case.

    Raises:
        DataError: npz or table cannot be read, or cases are missing in one of them or hold anything else; the
            first few problems by name, and how many there are.
    """
    table = _read_table(path.with_suffix(".json"))
    volumes = _read_volumes(path)
    problems = [f"{case} has no record in the table" for case in sorted(volumes.keys() - table.keys())]
    problems += [f"{case} has a record, but no mask" for case in sorted(table.keys() - volumes.keys())]
    masks = []
    for case in sorted(volumes.keys() & table.keys()):
        wrong = _problem(volumes[case], table[case])
        if wrong is not None:
            problems.append(f"{case} {wrong}")
        else:
            record = table[case]
            masks.append(RealMask(case, volumes[case], int(record["site"]), float(record["sz"])))
    if problems:
        raise folder_error(path, problems)
    if not masks:
        raise DataError(f"{path}: holds no masks")
    return masks


def _problem(labels: NDArray[Any], record: dict[str, Any]) -> str | None:
    """What is wrong with a mask or its record; None where nothing is."""
    if labels.ndim != 3 or labels.dtype != np.uint8 or not 0 < labels.size <= _MOST_VOXELS:
        return f"has shape {labels.shape} and type {labels.dtype}; must be three-dimensional uint8"
    strange = sorted(set(np.unique(labels).tolist()) - _LABELS)
    if strange:
        return f"holds the label {strange[0]}; must be 0, 1 or 2"
    if not labels.any():
        return "is empty; must hold a kidney or a tumour"
    if not isinstance(record.get("site"), int) or record["site"] < 0:
        return f"has site {record.get('site')!r}; must be a whole number >= 0"
    if not isinstance(record.get("sz"), int | float) or not 0.0 < record["sz"] <= 20.0:
        return f"has sz {record.get('sz')!r}; must be > 0 and <= 20 mm"
    return None


def _read_volumes(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as npz: {error}") from error


def _read_table(path: Path) -> dict[str, dict[str, Any]]:
    try:
        records = load_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(records, list) or not all(
        isinstance(record, dict) and isinstance(record.get("case"), str) for record in records
    ):
        raise DataError(f"{path}: must be a list of records that name a case")
    return {record["case"]: record for record in records}
