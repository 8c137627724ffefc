"""Turns everything that is wrong with a data folder into one line."""

from collections.abc import Callable, Sequence
from pathlib import Path

from adpfl.data.case import Case
from adpfl.errors import DataError

SHOWN = 5
"""Problems that a message names; the rest are counted."""


def folder_error(folder: Path, problems: Sequence[str]) -> DataError:
    """One `DataError` for all problems of a folder: the first few by name, and how many there are.

    Args:
        folder: what was read.
        problems: one phrase each, naming the case and the rule; at least one.
    """
    shown = "; ".join(problems[:SHOWN])
    if len(problems) == 1:
        return DataError(f"{folder}: {shown}")
    rest = len(problems) - SHOWN
    return DataError(f"{folder}: {len(problems)} problems: {shown}{f'; and {rest} more' if rest > 0 else ''}")


def layout_error(folder: Path, known: str, is_known: Callable[[Path], bool]) -> DataError:
    """What to say of a folder in which no layout was recognised.

    Args:
        folder: what was read.
        known: the layouts that were looked for.
        is_known: whether a folder is in one of them; a folder directly inside that is gets named.
    """
    entries = sorted(folder.iterdir())
    if not entries:
        return DataError(f"{folder}: is empty; must be one of {known}")
    inside = next((entry.name for entry in entries if entry.is_dir() and is_known(entry)), None)
    hint = "" if inside is None else f"; name the folder {inside} in it"
    return DataError(f"{folder}: has no known layout; must be one of {known}{hint}")


def checked_cases(folder: Path, cases: Sequence[Case], problems: Sequence[str]) -> list[Case]:
    """The cases, where there are any and nothing is wrong.

    Raises:
        DataError: there are problems, or no cases.
    """
    if problems:
        raise folder_error(folder, problems)
    if not cases:
        raise DataError(f"{folder}: holds no images")
    return list(cases)
