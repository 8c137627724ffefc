"""What masks of each data set and year mean."""

import numpy as np
import pytest

from adpfl.data.labels import (
    BRAIN_STRUCTURES,
    CONVENTIONS,
    KIDNEY_STRUCTURES,
    label_voxels,
    lesion_labels,
    structures_of,
)
from adpfl.errors import DataError

MASK = np.array([[[0, 1, 2, 3, 4]]], np.uint8)


def members(convention: str) -> dict[str, set[int]]:
    """Which labels each structure holds, seen from outside: each known label in a voxel of its own."""
    known = [label for label in range(5) if label == 0 or label in CONVENTIONS[convention].meanings]
    found = structures_of(np.array([[known]], np.uint8), convention)
    names = KIDNEY_STRUCTURES if convention.startswith("kits") else BRAIN_STRUCTURES
    return {
        name: {label for label, inside in zip(known, row[0, 0], strict=True) if inside}
        for name, row in zip(names, found, strict=True)
    }


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        ("kits19", [{1, 2}, {2}, {2}]),
        ("kits21", [{1, 2, 3}, {2, 3}, {2}]),
        ("kits23", [{1, 2, 3}, {2, 3}, {2}]),
        ("brats2020", [{1, 2, 4}, {1, 4}, {4}, {1}]),
        ("brats2021", [{1, 2, 4}, {1, 4}, {4}, {1}]),
        ("fets2021", [{1, 2, 4}, {1, 4}, {4}, {1}]),
        ("fets2022", [{1, 2, 4}, {1, 4}, {4}, {1}]),
        ("brats2023", [{1, 2, 3}, {1, 3}, {3}, {1}]),
        ("brats2024", [{1, 2, 3}, {1, 3}, {3}, {1}]),
        ("msd_task01", [{1, 2, 3}, {2, 3}, {3}, {2}]),
    ],
)
def test_structures_by_year(convention: str, expected: list[set[int]]) -> None:
    assert list(members(convention).values()) == expected
    assert structures_of(np.zeros((2, 3, 4), np.uint8), convention).shape == (len(expected), 2, 3, 4)


def test_every_convention_is_tested() -> None:
    assert set(CONVENTIONS) == {
        *("kits19", "kits21", "kits23", "brats2020", "brats2021", "fets2021", "fets2022"),
        *("brats2023", "brats2024", "msd_task01"),
    }


@pytest.mark.parametrize(
    ("convention", "label"),
    [("kits19", 3), ("kits23", 4), ("brats2021", 3), ("brats2023", 4), ("msd_task01", 4)],
)
def test_another_years_label_is_refused(convention: str, label: int) -> None:
    with pytest.raises(
        DataError, match=rf"the mask holds label {label}; {convention} has only 0 background, 1 "
    ):
        structures_of(np.full((1, 2, 2), label, np.uint8), convention)


def test_unknown_labels_are_all_named() -> None:
    with pytest.raises(
        DataError, match=r"holds labels 9, 200; kits19 has only 0 background, 1 kidney, 2 tumor$"
    ):
        label_voxels(np.array([9, 200, 1], np.uint8), "kits19")
    with pytest.raises(DataError, match="the label convention is 'kits20'; must be one of kits19"):
        label_voxels(np.array([0], np.uint8), "kits20")


def test_voxels_are_counted() -> None:
    assert label_voxels(MASK, "brats2024") == {1: 1, 2: 1, 3: 1, 4: 1}
    assert label_voxels(np.zeros((2, 2, 2), np.uint8), "brats2024") == {}


def test_what_is_ill() -> None:
    assert lesion_labels("kits23") == {2, 3}
    assert lesion_labels("kits19") == {2}
    assert lesion_labels("brats2021") == {1, 2, 4}
    assert lesion_labels("brats2024") == {1, 2, 3}
