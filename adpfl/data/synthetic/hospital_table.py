"""The table beside generated volumes that says whose they are and where they come from."""

import csv
from collections.abc import Sequence
from pathlib import Path

from adpfl.data.case import Case

TABLE = "metadata.csv"
COLUMNS = ("case", "patient", "site")


def write_table(cases: Sequence[Case], folder: Path) -> None:
    """Write `metadata.csv`: one row a case with its patient and its site."""
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([case.case, case.patient, case.source or ""] for case in cases)
