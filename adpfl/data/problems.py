"""Turns everything that is wrong with a data folder into one line."""

from collections.abc import Sequence
from pathlib import Path

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
