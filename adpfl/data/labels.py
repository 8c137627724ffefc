"""What the numbers in a mask mean, which differs between data sets and years."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from adpfl.errors import DataError

KIDNEY_STRUCTURES: Final = ("kidney_and_masses", "masses", "tumor")
"""What the KiTS challenges score: kidney with tumour and cyst; tumour with cyst; tumour."""
BRAIN_STRUCTURES: Final = ("whole_tumor", "tumor_core", "enhancing_tumor", "non_enhancing_core")
"""What the BraTS challenges score: three nested regions, and the core that takes up no contrast."""


@dataclass(frozen=True, slots=True)
class Convention:
    """One data set's labels.

    Attributes:
        meanings: label to what it marks; 0 is background and not named.
        structures: the labels that make up each structure, in the order of `KIDNEY_STRUCTURES` or
            `BRAIN_STRUCTURES`.
    """

    meanings: Mapping[int, str]
    structures: tuple[frozenset[int], ...]


_KITS_CYSTS = Convention(
    {1: "kidney", 2: "tumor", 3: "cyst"}, (frozenset({1, 2, 3}), frozenset({2, 3}), frozenset({2}))
)
_BRATS_ET_4 = Convention(
    {1: "non-enhancing core", 2: "edema", 4: "enhancing tumor"},
    (frozenset({1, 2, 4}), frozenset({1, 4}), frozenset({4}), frozenset({1})),
)
_BRATS_ET_3 = (frozenset({1, 2, 3}), frozenset({1, 3}), frozenset({3}), frozenset({1}))
_BRATS_MEANINGS = {1: "non-enhancing core", 2: "edema", 3: "enhancing tumor"}

CONVENTIONS: Final[Mapping[str, Convention]] = {
    "kits19": Convention({1: "kidney", 2: "tumor"}, (frozenset({1, 2}), frozenset({2}), frozenset({2}))),
    "kits21": _KITS_CYSTS,
    "kits23": _KITS_CYSTS,
    "brats2020": _BRATS_ET_4,
    "brats2021": _BRATS_ET_4,
    "fets2021": _BRATS_ET_4,
    "fets2022": _BRATS_ET_4,
    "brats2023": Convention(_BRATS_MEANINGS, _BRATS_ET_3),
    "brats2024": Convention(_BRATS_MEANINGS | {4: "resection cavity"}, _BRATS_ET_3),
    "msd_task01": Convention(
        {1: "edema", 2: "non-enhancing core", 3: "enhancing tumor"},
        (frozenset({1, 2, 3}), frozenset({2, 3}), frozenset({3}), frozenset({2})),
    ),
}
"""By the name that `Case.labels` carries."""


def label_volumes(labels: NDArray[np.uint8], convention: str) -> dict[int, int]:
    """How many voxels each label has, background left out, by label.

    Raises:
        DataError: the convention is unknown, or the mask holds a label that it does not have.
    """
    known = _of(convention).meanings
    counts = np.bincount(labels.ravel(), minlength=256)
    present = {int(label): int(counts[label]) for label in np.flatnonzero(counts) if label}
    unknown = [str(label) for label in present if label not in known]
    if unknown:
        allowed = ", ".join(f"{label} {meaning}" for label, meaning in known.items())
        raise DataError(
            f"the mask holds {'labels' if len(unknown) > 1 else 'label'} {', '.join(unknown)}; "
            f"{convention} has only 0 background, {allowed}"
        )
    return present


def structures_of(labels: NDArray[np.uint8], convention: str) -> NDArray[np.uint8]:
    """Labels as structures: (structures, slices, rows, columns), each in {0, 1}; they may overlap.

    Raises:
        DataError: the convention is unknown, or the mask holds a label that it does not have.
    """
    label_volumes(labels, convention)
    table = np.zeros((len(_of(convention).structures), 256), dtype=np.uint8)
    for row, members in zip(table, _of(convention).structures, strict=True):
        row[sorted(members)] = 1
    return table[:, labels]


def _of(convention: str) -> Convention:
    try:
        return CONVENTIONS[convention]
    except KeyError as error:
        raise DataError(
            f"the label convention is {convention!r}; must be one of {', '.join(CONVENTIONS)}"
        ) from error
