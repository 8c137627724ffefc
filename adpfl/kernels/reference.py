"""The kernels in plain PyTorch and NumPy: slow and obvious, the oracle of every faster form and its fallback.

The caller has checked the arguments (`adpfl.kernels.arguments`).

**The order of a norm's additions** is fixed, so that a parallel kernel can follow it to the bit. Each tensor
is flattened per unit, row-major, and cut into chunks of 16384 consecutive elements, the last one short. A
"lane sum" adds n numbers in 1024 logical lanes: lane l adds elements l, l + 1024, l + 2048, ... in order;
then lane l takes lane l + 512 for l < 512, then l + 256 for l < 256, and so on down to lane 0. Absent
elements count as +0.

1. Each chunk gives one partial: the lane sum of its squares (of its absolute values for L1).
2. The unit's partials, tensors in list order and chunks in order within each, give one lane sum. That is the
   L1 norm; its correctly rounded square root is the L2 norm.

All of it is in double, where the squares of float32, bfloat16 and float16 numbers are exact, so that a fused
multiply-add changes nothing; +0 changes nothing either, as no term is negative. For P partials a unit, the
relative error of a norm is below (40 + P/1024) * 2^-53; the clip factor keeps 2^-30 in reserve.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale, Law, NormOrder, gaussian_draws, laplace_draws

LANES: Final = 1024
CHUNK: Final = 16 * LANES
NORM_RESERVE: Final = 1.0 - 2.0**-30
"""Share of A that a clipped unit may use; the rest covers the rounding of norm, factor and product."""

_BLOCK_ELEMENTS: Final = 1 << 20  # doubles held at a time, or one chunk of every unit


def unit_norms(gradients: Sequence[Tensor], *, order: NormOrder) -> Tensor:
    """Norms in the order of additions that the module's docstring fixes; see `ops.unit_norms`."""
    first = gradients[0]
    units = first.shape[0]
    partials = [torch.zeros(units, 0, dtype=torch.float64, device=first.device)]
    for gradient in gradients:
        for block in _double_blocks(gradient, multiple_of=CHUNK):
            terms = block.square_() if order == 2 else block.abs_()
            whole = terms.shape[1] // CHUNK
            if whole:
                chunks = terms[:, : whole * CHUNK].reshape(units * whole, CHUNK)
                partials.append(_lane_sum(chunks).view(units, whole))
            if terms.shape[1] % CHUNK:
                partials.append(_lane_sum(terms[:, whole * CHUNK :]).view(units, 1))
    sums = _lane_sum(torch.cat(partials, dim=1))
    return _root(sums) if order == 2 else sums


def clip_accumulate_(
    total: Tensor, gradients: Sequence[Tensor], norms: Tensor, *, clip_norm: float, lattice: LatticeScale
) -> None:
    """Add the clipped, truncated units to `total`; see `ops.clip_accumulate_`.

    f = (A * (1 - 2^-30)) / max(norm, C): one product, one division, each rounded to double; v = trunc(g * f).
    """
    finite = torch.isfinite(norms)
    every_unit_is_finite = bool(finite.all())
    # A tensor above the line: torch computes number / tensor as number * reciprocal, with a second rounding.
    reserved = torch.tensor(lattice.sensitivity * NORM_RESERVE, dtype=torch.float64, device=norms.device)
    factors = torch.div(reserved, torch.clamp(norms, min=clip_norm))
    offset = 0
    for gradient in gradients:
        for block in _double_blocks(gradient, multiple_of=1):
            block.mul_(factors[:, None])
            if not every_unit_is_finite:
                block[~finite] = 0.0
            columns = block.shape[1]
            total[offset : offset + columns] += block.trunc_().to(torch.int64).sum(dim=0)
            offset += columns


def release(
    total: Tensor, *, clip_norm: float, lattice: LatticeScale, law: Law, key: KeystreamKey, step: int
) -> Tensor:
    """The noised sum; see `ops.release`.

    R = 2 * total + 2y in int64; float32(float64(R) * (C / (2 A))), the factor computed once in double.
    """
    draw = laplace_draws if law == "laplace" else gaussian_draws
    factor = clip_norm / (2 * lattice.sensitivity)
    noised = torch.empty(total.shape, dtype=torch.float32, device=total.device)
    for start in range(0, total.numel(), _BLOCK_ELEMENTS):
        piece = total[start : start + _BLOCK_ELEMENTS]
        draws = draw(key, scale_bits=lattice.scale_bits, step=step, first_index=start, count=piece.numel())
        doubled = piece * 2 + torch.from_numpy(draws).to(total.device)
        noised[start : start + _BLOCK_ELEMENTS] = doubled.to(torch.float64).mul_(factor)
    return noised


def kth_smallest(values: Tensor, rank: int) -> float:
    """The `rank`-th smallest (from 1) of a non-empty vector."""
    return float(torch.kthvalue(values, rank).values)


def _root(sums: Tensor) -> Tensor:
    """Square roots rounded as IEEE 754 says. torch's own, by MKL, miss the last bit now and then."""
    return torch.from_numpy(np.sqrt(sums.cpu().numpy())).to(sums.device)


def _double_blocks(gradient: Tensor, *, multiple_of: int) -> Iterator[Tensor]:
    """Fresh double copies of consecutive columns of the (B, d) view, each about `_BLOCK_ELEMENTS` large."""
    units = gradient.shape[0]
    flat = gradient.detach().reshape(units, gradient.shape[1:].numel())
    columns = max(1, _BLOCK_ELEMENTS // max(1, units) // multiple_of) * multiple_of
    for start in range(0, flat.shape[1], columns):
        yield flat[:, start : start + columns].to(torch.float64, copy=True)


def _lane_sum(terms: Tensor) -> Tensor:
    """Lane sums of the rows of `terms` (n, m), non-negative or NaN: float64 (n,). Zero where m is 0."""
    rows, length = terms.shape
    if length == 0:
        return terms.new_zeros(rows)
    # Fewer lanes where the row is short: the absent lanes hold +0, and their additions change nothing.
    lanes = min(LANES, 1 << (length - 1).bit_length())
    depth = -(-length // lanes)
    padded = torch.nn.functional.pad(terms, (0, depth * lanes - length)).view(rows, depth, lanes)
    sums = padded[:, 0].clone()
    for level in range(1, depth):
        sums += padded[:, level]
    while lanes > 1:
        lanes //= 2
        sums = sums[:, :lanes] + sums[:, lanes:]
    return sums[:, 0]
