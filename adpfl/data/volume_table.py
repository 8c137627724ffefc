"""The table beside volumes that says whose they are: `metadata.csv` with case, patient, site and labels.

Challenges do not ship it; folders that were dealt out or generated have it, so that a case keeps its patient,
its source and its label convention wherever it goes. Columns but `case` may be absent or empty.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from adpfl.data.case import Case
from adpfl.data.labels import CONVENTIONS
from adpfl.data.site_table import divided_patients
from adpfl.errors import DataError

TABLE: Final = "metadata.csv"
COLUMNS: Final = ("case", "patient", "site", "labels")


@dataclass(frozen=True, slots=True)
class VolumeOrigin:
    """What the table says of one case; None where it is silent."""

    patient: str | None
    source: str | None
    labels: str | None


def read_volume_table(folder: Path) -> dict[str, VolumeOrigin] | None:
    """The table of a folder, by case; None where it has none, or another table of that name.

    Raises:
        DataError: the table cannot be read, gives a case twice differently, or names an unknown convention.
    """
    path = folder / TABLE
    if not path.is_file():
        return None
    found: dict[str, VolumeOrigin] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            if "case" not in (table.fieldnames or ()):
                return None
            for row in table:
                case, patient, source, labels = ((row.get(name) or "").strip() for name in COLUMNS)
                origin = VolumeOrigin(patient or None, source or None, labels or None)
                if labels and labels not in CONVENTIONS:
                    raise DataError(
                        f"{path}: line {table.line_num}: labels is {labels!r}; "
                        f"must be one of {', '.join(CONVENTIONS)}"
                    )
                if found.setdefault(case, origin) != origin:
                    raise DataError(f"{path}: line {table.line_num}: {case} stands twice, differently")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    return found


def with_origins(
    cases: Sequence[Case], table: Mapping[str, VolumeOrigin] | None
) -> tuple[list[Case], list[str]]:
    """Cases with the patient and source that the table gives them, and what is wrong between the two.

    Args:
        cases: all of the folder.
        table: from `read_volume_table`; without one the cases stay as they are.
    """
    if table is None:
        return list(cases), []
    known = {case.case for case in cases}
    problems = [f"{case} is missing in {TABLE}" for case in sorted(known - table.keys())]
    problems += [f"{case} is listed in {TABLE}, but absent" for case in sorted(table.keys() - known)]
    given = []
    for case in cases:
        origin = table.get(case.case, VolumeOrigin(None, None, None))
        given.append(
            replace(case, patient=origin.patient or case.patient, source=origin.source or case.source)
        )
    return given, problems + divided_patients(given)


def told_labels(case: str, table: Mapping[str, VolumeOrigin] | None) -> str | None:
    """The label convention that the table gives a case."""
    origin = None if table is None else table.get(case)
    return None if origin is None else origin.labels


def write_volume_table(cases: Sequence[Case], folder: Path) -> None:
    """Write the table for these cases."""
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([case.case, case.patient, case.source or "", case.labels or ""] for case in cases)
