"""The torch operators `adpfl::*`: schemas, fakes for tracing, and the reference behind the compiled kernels.

`adpfl.kernels.ops` is the typed door to them and checks every argument. The operators themselves are what
`torch.compile` and a CUDA graph see, and take tensors where those need them:

- `clip_norm`: float64 (1,), so that a threshold found on a device is used without a stop at the host.
- `keystream`: int64 (5,), four words of key and the step; as secret as the key. A release draws the noise of
  that step and moves the step on, so a replayed graph never repeats its noise; beyond 2^32 steps it refuses.
- `tables`: `noise_tables` of the law and scale.
- `ranks`, with `window` and `min_clip_norm`: the clip norm is the percentile of the norms and the window,
  `clip_norm` where none of them is finite. NOT PRIVATE: `ops.PercentileClip`.
- `norms`, where the caller has them already: `unit_norms` of these gradients.

Counts are int64 (2,): units clipped, units not finite. `dp_release` returns the noised sum float32 (D,), the
clip norm float64 (1,), the norms float64 (B,) and the counts.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from math import ceil
from typing import Any, Final

import torch
from torch import Tensor

from adpfl.errors import PrivacyError
from adpfl.kernels import extension, reference
from adpfl.kernels.arguments import check_clip_norm
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale, Law, NormOrder

KEYSTREAM_WORDS: Final = 5
STEP_WORD: Final = 4

Released = tuple[Tensor, Tensor, Tensor, Tensor]

_SCHEMAS: Final = """
unit_norms(Tensor[] gradients, int order) -> Tensor
clip_accumulate_(Tensor(a!) total, Tensor[] gradients, Tensor norms, Tensor clip_norm, \
    int sensitivity) -> Tensor
release(Tensor total, Tensor clip_norm, Tensor(a!) keystream, Tensor tables, int sensitivity, \
    int scale_bits, bool gaussian) -> Tensor
dp_release(Tensor[] gradients, Tensor(a!) keystream, Tensor tables, int sensitivity, int scale_bits, \
    bool gaussian, int order, float clip_norm, Tensor? ranks=None, Tensor? window=None, \
    float min_clip_norm=0.0, Tensor? norms=None) -> (Tensor, Tensor, Tensor, Tensor)
"""

_new_library: Any = torch.library.Library  # torch leaves it untyped
_library: Final = _new_library("adpfl", "DEF")
for _schema in _SCHEMAS.strip().splitlines():
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def nearest_rank(percentile: float, count: int) -> int:
    """ceil(percentile * count / 100), at least 1, in exact arithmetic on the decimal number as written."""
    return max(1, ceil(Fraction(str(float(percentile))) * count / 100))


@cache
def percentile_ranks(percentile: float, most: int) -> Tensor:
    """The operators' `ranks`: the nearest rank for every number of finite norms, 0 to `most`.

    Returns:
        int64 (most + 1,) on the CPU; entry 0 is 0. Shared, not to be written.
    """
    return torch.tensor([0, *(nearest_rank(percentile, count) for count in range(1, most + 1))])


def _fake(function: Callable[..., Any]) -> Callable[..., Any]:
    name = function.__name__.removeprefix("_fake_")
    torch.library.register_fake(f"adpfl::{name}", function, lib=_library)
    return function


def _reference(function: Callable[..., Any]) -> Callable[..., Any]:
    name = function.__name__.removeprefix("_reference_")
    _library.impl(name, function, "CompositeExplicitAutograd")
    return function


@_fake
def _fake_unit_norms(gradients: Sequence[Tensor], order: int) -> Tensor:
    del order
    return gradients[0].new_empty((gradients[0].shape[0],), dtype=torch.float64)


@_fake
def _fake_clip_accumulate_(
    total: Tensor, gradients: Sequence[Tensor], norms: Tensor, clip_norm: Tensor, sensitivity: int
) -> Tensor:
    del gradients, norms, clip_norm, sensitivity
    return total.new_empty((2,))


@_fake
def _fake_release(total: Tensor, *_arguments: object) -> Tensor:
    return torch.empty_like(total, dtype=torch.float32)


@_fake
def _fake_dp_release(gradients: Sequence[Tensor], *_arguments: object, **_options: object) -> Released:
    first = gradients[0]
    dimension = sum(gradient.shape[1:].numel() for gradient in gradients)
    return (
        first.new_empty((dimension,), dtype=torch.float32),
        first.new_empty((1,), dtype=torch.float64),
        first.new_empty((first.shape[0],), dtype=torch.float64),
        first.new_empty((2,), dtype=torch.int64),
    )


@_reference
def _reference_unit_norms(gradients: Sequence[Tensor], order: NormOrder) -> Tensor:
    return reference.unit_norms(gradients, order=order)


@_reference
def _reference_clip_accumulate_(
    total: Tensor, gradients: Sequence[Tensor], norms: Tensor, clip_norm: Tensor, sensitivity: int
) -> Tensor:
    threshold = float(clip_norm)
    check_clip_norm(threshold)
    reference.clip_accumulate_(
        total, gradients, norms, clip_norm=threshold, lattice=LatticeScale(10, sensitivity)
    )
    finite = torch.isfinite(norms)
    return torch.stack([((norms > threshold) & finite).sum(), (~finite).sum()])


@_reference
def _reference_release(  # noqa: PLR0917 - torch calls it by position
    total: Tensor,
    clip_norm: Tensor,
    keystream: Tensor,
    tables: Tensor,
    sensitivity: int,
    scale_bits: int,
    gaussian: bool,  # noqa: FBT001 - torch calls it by position
) -> Tensor:
    del tables
    threshold = float(clip_norm)
    check_clip_norm(threshold)
    law: Law = "gaussian" if gaussian else "laplace"
    state = keystream.cpu().numpy()
    step = int(state[STEP_WORD])
    if step < 0 or step >> 32:
        raise PrivacyError(f"keystream step is {step}; must be 0 to 2^32 - 1")
    keystream[STEP_WORD] += 1
    with KeystreamKey.from_bytes(state[:STEP_WORD].tobytes()) as key:
        return reference.release(
            total,
            clip_norm=threshold,
            lattice=LatticeScale(scale_bits, sensitivity),
            law=law,
            key=key,
            step=step,
        )


@_reference
def _reference_dp_release(  # noqa: PLR0917 - torch calls it by position
    gradients: Sequence[Tensor],
    keystream: Tensor,
    tables: Tensor,
    sensitivity: int,
    scale_bits: int,
    gaussian: bool,  # noqa: FBT001 - torch calls it by position
    order: NormOrder,
    clip_norm: float,
    ranks: Tensor | None = None,
    window: Tensor | None = None,
    min_clip_norm: float = 0.0,
    norms: Tensor | None = None,
) -> Released:
    norms = reference.unit_norms(gradients, order=order) if norms is None else norms.clone()
    if ranks is not None:
        seen = norms if window is None else torch.cat([norms, window])
        seen = seen[torch.isfinite(seen)]
        if seen.numel():
            clip_norm = reference.kth_smallest(seen, int(ranks[seen.numel()]))
        clip_norm = max(clip_norm, min_clip_norm)
    dimension = sum(gradient.shape[1:].numel() for gradient in gradients)
    total = torch.zeros(dimension, dtype=torch.int64, device=norms.device)
    threshold = torch.tensor([clip_norm], dtype=torch.float64, device=norms.device)
    counts = _reference_clip_accumulate_(total, gradients, norms, threshold, sensitivity)
    noised = _reference_release(total, threshold, keystream, tables, sensitivity, scale_bits, gaussian)
    return noised, threshold, norms, counts


EXTENSION: Final = extension.load()
"""The compiled kernels that stand before the reference, or why there are none."""
