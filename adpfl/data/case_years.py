"""Finds the data set that most cases of a folder come from, and those that come from another."""

from collections import Counter
from collections.abc import Mapping, Sequence


def common_convention(told: Mapping[str, Sequence[str]], *, otherwise: str) -> str:
    """The convention that most cases can be of; ties go to `otherwise`, then to the first by name.

    Args:
        told: by case, the conventions that it can be of; empty where it tells nothing.
        otherwise: what holds where no case tells anything.
    """
    counts = Counter(convention for possible in told.values() for convention in possible)
    return min(
        counts,
        key=lambda convention: (-counts[convention], convention != otherwise, convention),
        default=otherwise,
    )


def strangers(told: Mapping[str, Sequence[str]], common: str) -> list[str]:
    """A problem for each case that tells of another data set or year than most, ordered by case."""
    return [
        f"{case} is laid out as {' or '.join(possible)} among cases of {common}; "
        "keep years and data sets apart"
        for case, possible in sorted(told.items())
        if possible and common not in possible
    ]
