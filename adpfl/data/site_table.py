"""Tables that say which site a case came from: CSV or JSON, one case a row.

Known as they are: the hospitals of KiTS19 as JSON records (`case`, `site`, `silo`), FeTS's
`partitioning_1.csv` (`Partition_ID`, `Subject_ID`), HAM10000's metadata (`image_id`, `dataset`), and any
table with a `case` and a `site` column. A JSON object that maps cases to sites is taken too. An empty site,
null or -1 says that a case belongs to no site.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from adpfl.data.case import Case
from adpfl.data.problems import folder_error
from adpfl.errors import DataError

CASE_COLUMNS: Final = ("case", "case_id", "image_id", "image", "image_name", "isic_id", "subject_id")
SITE_COLUMNS: Final = ("site", "hospital", "institution", "silo", "partition_id", "dataset", "source")
"""Looked for in this order, in upper or lower case."""

_NO_SITE: Final = frozenset({"", "-1"})
_MAXIMUM_BYTES: Final = 1 << 26
_PLAIN_WORDS: Final = {"partition_id": "institution"}
_Row = Mapping[str, object]


def read_site_table(path: Path, *, column: str | None = None) -> dict[str, str | None]:
    """The site of each case; None where the table says that it has none.

    Raises:
        DataError: as `survey_site_table`, or the table gives cases two sites.
    """
    found, contested = _sites(path, column)
    if contested:
        raise folder_error(path, contested)
    return found


def survey_site_table(path: Path, *, column: str | None = None) -> tuple[dict[str, str | None], list[str]]:
    """The site of each case, the first where the table gives two, and a problem for each such case.

    Sites that are bare numbers get the column's name before them: `silo-1`, `institution-7`.

    Args:
        path: ends in `.json` or `.csv`.
        column: which column names the site; None takes the first of `SITE_COLUMNS` that is there.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """
    found, contested = _sites(path, column)
    return found, [f"{path.name}: {problem}" for problem in contested]


def place_cases(
    cases: Sequence[Case], table: Mapping[str, str | None], name: str
) -> tuple[list[Case], list[str]]:
    """Cases with the source that a table gives them, and what is wrong between the two.

    Args:
        cases: all that a layout reader found.
        table: from `read_site_table`.
        name: of the table, for the messages.

    Returns:
        Every case, its source None where the table knows none; and a problem for each case that is not in the
        table, that the table lists and the folder lacks, or whose patient has another case elsewhere.
    """
    present = {case.case for case in cases}
    problems = [f"{case} is not listed in {name}" for case in sorted(present - table.keys())]
    problems += [f"{case} is listed in {name}, but absent" for case in sorted(table.keys() - present)]
    placed = [replace(case, source=table.get(case.case)) for case in cases]
    return placed, problems + divided_patients(placed)


def divided_patients(cases: Sequence[Case]) -> list[str]:
    """A problem for each case whose patient stands in another source than the patient's first case."""
    first: dict[str, Case] = {}
    problems = []
    for case in sorted(cases, key=lambda case: case.case):
        if case.source is None:
            continue
        before = first.setdefault(case.patient, case)
        if before.source != case.source:
            problems.append(
                f"{case.case} is in {case.source}, but its patient's {before.case} is in {before.source}; "
                "a patient must be in one"
            )
    return problems


def _sites(path: Path, column: str | None) -> tuple[dict[str, str | None], list[str]]:
    """The first site of each case, and each case that has two."""
    rows = _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path)
    if not rows:
        raise DataError(f"{path}: holds no cases")
    columns = {name.strip().lower(): name for name in rows[0] if isinstance(name, str)}
    cases = _column(columns, CASE_COLUMNS, path, "case")
    sites = _column(columns, SITE_COLUMNS if column is None else (column.lower(),), path, "site")
    word = _PLAIN_WORDS.get(sites.strip().lower(), sites.strip().lower())
    found: dict[str, str | None] = {}
    contested: dict[str, str] = {}
    for row in rows:
        case, site = _text(row.get(cases), path), _text(row.get(sites), path)
        if not case:
            continue
        named = None if site in _NO_SITE else (f"{word}-{site}" if site.isdecimal() else site)
        if found.setdefault(case, named) != named:
            contested.setdefault(case, f"{case} stands twice, with sites {found[case]!r} and {named!r}")
    return found, list(contested.values())


def _column(columns: Mapping[str, str], wanted: Sequence[str], path: Path, what: str) -> str:
    for name in wanted:
        if name in columns:
            return columns[name]
    raise DataError(f"{path}: has no column for the {what}; must have {' or '.join(wanted)}")


def _text(value: object, path: Path) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{path}: holds {value!r}; cases and sites must be words or whole numbers")
    return str(value).strip()


def _csv_rows(path: Path) -> list[_Row]:
    try:
        _check_size(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error


def _json_rows(path: Path) -> list[_Row]:
    try:
        _check_size(path)
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if isinstance(document, dict):
        return [{"case": case, "site": site} for case, site in document.items()]
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise DataError(f"{path}: must be a list of records, or an object that maps cases to sites")
    return document


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > _MAXIMUM_BYTES:
        raise DataError(f"{path}: has {size} bytes; must be at most {_MAXIMUM_BYTES}")
