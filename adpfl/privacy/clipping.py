"""From per-unit gradients to a sum in which no unit counts for more than C.

Knows nothing of noise or accounting.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adpfl.errors import PrivacyError
from adpfl.kernels.lattice import LatticeScale, NormOrder
from adpfl.kernels.ops import clip_accumulate_, unit_norms

GradientChunks = Iterable[Sequence[Tensor]]
"""Re-iterable. Each iteration yields the same chunks; a chunk is a list of (B_c, *shape) tensors, one a
parameter."""


@dataclass(frozen=True)
class UnitSum:
    """A sum over units and what was met on the way."""

    total: Tensor
    """(D,): int64 lattice units when clipped, float64 when not."""
    norms: NDArray[np.float64]
    """Raw norms, (B,)."""
    clipped: int
    nonfinite: int


def gradient_norms(chunks: GradientChunks, *, order: NormOrder = 2) -> NDArray[np.float64]:
    """Raw norms of all units, float64 (B,); NaN or infinite where an entry is; (0,) without units."""
    return _joined([unit_norms(chunk, order=order) for chunk in chunks])


def clipped_lattice_sum(
    chunks: GradientChunks,
    *,
    clip_norm: float,
    lattice: LatticeScale,
    dimension: int,
    order: NormOrder = 2,
) -> UnitSum:
    """Sum of units, each clipped to norm C over all its coordinates, truncated to the lattice.

    Guarantee: replacing one unit by zero moves the total by at most A lattice units in the norm of `order`,
    that is by C. A unit with a NaN or infinite norm contributes zero and is counted. Without units the
    total is zero.

    Args:
        chunks: the units; chunking changes no bit of the total.
        clip_norm: C > 0.
        lattice: whose unit is C/A.
        dimension: D, the coordinates of one unit over all tensors.
        order: the norm that is clipped, 2 or 1.

    Raises:
        PrivacyError: a chunk has another number of coordinates.
    """
    total = torch.zeros(dimension, dtype=torch.int64)
    norms: list[Tensor] = []
    clipped = nonfinite = 0
    for chunk in chunks:
        _require_dimension(chunk, dimension)
        total = total.to(chunk[0].device)
        norms.append(unit_norms(chunk, order=order))
        counts = clip_accumulate_(total, chunk, norms[-1], clip_norm=clip_norm, lattice=lattice)
        clipped += counts.clipped
        nonfinite += counts.nonfinite
    return UnitSum(total, _joined(norms), clipped, nonfinite)


def unsafe_plain_sum(chunks: GradientChunks, *, dimension: int) -> UnitSum:
    """Sum of units as they are: no bound on what one unit adds. Only for runs that claim no privacy.

    A unit with a NaN or infinite norm contributes zero and is counted, so that one bad image cannot end a
    run.

    Raises:
        PrivacyError: a chunk has another number of coordinates.
    """
    total = torch.zeros(dimension, dtype=torch.float64)
    norms: list[Tensor] = []
    nonfinite = 0
    for chunk in chunks:
        _require_dimension(chunk, dimension)
        total = total.to(chunk[0].device)
        norms.append(unit_norms(chunk))
        finite = torch.isfinite(norms[-1])
        nonfinite += int((~finite).sum())
        total += torch.cat([tensor.flatten(1)[finite].sum(dim=0, dtype=torch.float64) for tensor in chunk])
    return UnitSum(total, _joined(norms), 0, nonfinite)


def _require_dimension(chunk: Sequence[Tensor], dimension: int) -> None:
    found = sum(tensor[0].numel() if len(tensor) else tensor.flatten(1).shape[1] for tensor in chunk)
    if found != dimension:
        raise PrivacyError(
            f"gradients have {found} coordinates a unit; must have {dimension}, as was accounted for"
        )


def _joined(norms: list[Tensor]) -> NDArray[np.float64]:
    if not norms:
        return np.zeros(0)
    joined: NDArray[np.float64] = (
        torch.cat([chunk.cpu() for chunk in norms]).numpy().astype(np.float64, copy=False)
    )
    return joined
