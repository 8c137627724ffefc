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
        painted: how structures become labels again: pairs of a structure's place and a label, the later over
            the earlier.
    """

    meanings: Mapping[int, str]
    structures: tuple[frozenset[int], ...]
    painted: tuple[tuple[int, int], ...]


_KITS_CYSTS = Convention(
    {1: "kidney", 2: "tumor", 3: "cyst"},
    (frozenset({1, 2, 3}), frozenset({2, 3}), frozenset({2})),
    painted=((0, 1), (1, 3), (2, 2)),
)
_BRATS_ET_4 = Convention(
    {1: "non-enhancing core", 2: "edema", 4: "enhancing tumor"},
    (frozenset({1, 2, 4}), frozenset({1, 4}), frozenset({4}), frozenset({1})),
    painted=((0, 2), (1, 1), (3, 1), (2, 4)),
)
_BRATS_ET_3 = (frozenset({1, 2, 3}), frozenset({1, 3}), frozenset({3}), frozenset({1}))
_BRATS_PAINTED = ((0, 2), (1, 1), (3, 1), (2, 3))
_BRATS_MEANINGS = {1: "non-enhancing core", 2: "edema", 3: "enhancing tumor"}

CONVENTIONS: Final[Mapping[str, Convention]] = {
    "kits19": Convention(
        {1: "kidney", 2: "tumor"},
        (frozenset({1, 2}), frozenset({2}), frozenset({2})),
        painted=((0, 1), (1, 1), (2, 2)),
    ),
    "kits21": _KITS_CYSTS,
    "kits23": _KITS_CYSTS,
    "brats2020": _BRATS_ET_4,
    "brats2021": _BRATS_ET_4,
    "fets2021": _BRATS_ET_4,
    "fets2022": _BRATS_ET_4,
    "brats2023": Convention(_BRATS_MEANINGS, _BRATS_ET_3, _BRATS_PAINTED),
    "brats2024": Convention(_BRATS_MEANINGS | {4: "resection cavity"}, _BRATS_ET_3, _BRATS_PAINTED),
    "msd_task01": Convention(
        {1: "edema", 2: "non-enhancing core", 3: "enhancing tumor"},
        (frozenset({1, 2, 3}), frozenset({2, 3}), frozenset({3}), frozenset({2})),
        painted=((0, 1), (1, 2), (3, 2), (2, 3)),
    ),
}
"""By the name that `Case.labels` carries."""


def label_voxels(labels: NDArray[np.uint8], convention: str) -> dict[int, int]:
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


def lesion_labels(convention: str) -> frozenset[int]:
    """What is ill: tumour and cyst of a kidney, the whole tumour of a brain.

    Raises:
        DataError: the convention is unknown.
    """
    structures = _of(convention).structures
    return structures[1] if len(structures) == len(KIDNEY_STRUCTURES) else structures[0]


def structures_of(labels: NDArray[np.uint8], convention: str) -> NDArray[np.uint8]:
    """Labels as structures: (structures, slices, rows, columns), each in {0, 1}; they may overlap.

    Raises:
        DataError: the convention is unknown, or the mask holds a label that it does not have.
    """
    label_voxels(labels, convention)
    table = np.zeros((len(_of(convention).structures), 256), dtype=np.uint8)
    for row, members in zip(table, _of(convention).structures, strict=True):
        row[sorted(members)] = 1
    return table[:, labels]


def labels_of(structures: NDArray[np.uint8], convention: str) -> NDArray[np.uint8]:
    """Structures (structures, slices, rows, columns) as one mask of labels: what `structures_of` undoes.

    Where predicted structures contradict one another, the more special one wins: enhancing tumour over
    non-enhancing core over oedema, tumour over cyst over kidney. A mass that is no tumour is a cyst, which
    masks of 2019 count as kidney.

    Raises:
        DataError: the convention is unknown.
    """
    labels = np.zeros(structures.shape[1:], dtype=np.uint8)
    for structure, label in _of(convention).painted:
        labels[structures[structure] != 0] = label
    return labels


def _of(convention: str) -> Convention:
    try:
        return CONVENTIONS[convention]
    except KeyError as error:
        raise DataError(
            f"the label convention is {convention!r}; must be one of {', '.join(CONVENTIONS)}"
        ) from error
