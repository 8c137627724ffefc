"""Finds the data set that most cases of a folder come from, and those that come from another."""

from collections import Counter
from collections.abc import Mapping


def common_convention(told: Mapping[str, str | None], *, otherwise: str) -> str:
    """The convention that most cases tell; ties go to the first by name.

    Args:
        told: convention by case, None where a case tells nothing.
        otherwise: what holds where no case tells anything.
    """
    counts = Counter(convention for convention in told.values() if convention is not None)
    return min(counts, key=lambda convention: (-counts[convention], convention), default=otherwise)


def strangers(told: Mapping[str, str | None], common: str) -> list[str]:
    """A problem for each case that tells of another data set or year than most, ordered by case."""
    return [
        f"{case} is laid out as {convention} among cases of {common}; keep years and data sets apart"
        for case, convention in sorted(told.items())
        if convention not in {None, common}
    ]
