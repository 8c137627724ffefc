"""The exact tables of one law in the layout that the compiled kernels read (`csrc/dp_release.h`).

The thresholds are those of `digit_tables`; nothing is computed a second time in another language. A digit's
guide has 2^11 entries, small enough for the first-level cache and for a GPU's shared memory. Most of its
buckets hold no threshold or one, so a single load gives the digit below and the place of the step up; a
bucket with several, and a word that ties with a threshold, are settled by search.
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adpfl.kernels.digit_tables import (
    DIGIT_BITS,
    LEADING_BITS,
    TAIL_BITS,
    acceptance_tables,
    digit_table,
)
from adpfl.kernels.lattice import Law, check_scale

GUIDE_BITS: Final = 11

_BUCKET_BITS: Final = LEADING_BITS - GUIDE_BITS
_WORD: Final = (1 << 32) - 1
_Table = npt.NDArray[np.uint32]


@cache
def noise_tables(law: Law, scale_bits: int) -> Tensor:
    """Every table of a law and scale.

    Returns:
        int32 (n,) on the CPU, to be read as unsigned; shared, not to be written.

    Raises:
        PrivacyError: the scale is not one of the law's.
    """
    check_scale(law, scale_bits)
    parts: list[_Table] = []
    for position in range(scale_bits // DIGIT_BITS + 1):
        table = digit_table(scale_bits, position)
        parts += [_guide(table.leading), _exact(table.thresholds).reshape(-1)]
    if law == "gaussian":
        for piece in acceptance_tables(scale_bits):
            parts += [piece.leading, _exact(piece.thresholds)[:, 1:].reshape(-1)]
    return torch.from_numpy(np.concatenate(parts).view(np.int32))


def _guide(leading: _Table) -> _Table:
    """For each bucket of U: the place of its threshold, the digit below, whether there are several."""
    edges = np.arange((1 << GUIDE_BITS) + 1, dtype=np.uint64) << np.uint64(_BUCKET_BITS)
    below = np.searchsorted(leading.astype(np.uint64), edges, side="left")
    first, held = below[:-1], np.diff(below)
    following = np.append(leading, np.uint32(1 << LEADING_BITS))[first].astype(np.uint64)
    place = np.where(held > 0, following - edges[:-1], np.uint64(1 << _BUCKET_BITS))
    several = (held > 1).astype(np.uint64)
    entry = several << np.uint64(31) | first.astype(np.uint64) << np.uint64(_BUCKET_BITS + 1) | place
    return entry.astype(np.uint32)


def _exact(thresholds: tuple[int, ...]) -> _Table:
    """(n, 4): the 31 leading bits, then the 95 tail bits shifted left by one, most significant word first."""
    rows = []
    for threshold in thresholds:
        tail = (threshold & ((1 << TAIL_BITS) - 1)) << 1
        rows.append((threshold >> TAIL_BITS, tail >> 64, tail >> 32 & _WORD, tail & _WORD))
    return np.array(rows, dtype=np.uint32)
