"""What every backend's arguments must satisfy, checked before a byte is written.

Each check raises `PrivacyError` with one line that names the argument, its value and the rule.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from adpfl.errors import PrivacyError
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import MAX_COORDINATES, MAX_SENSITIVITY, LatticeScale, Law, check_scale

GRADIENT_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)
MIN_CLIP_NORM: Final = 2.0**-126
MAX_CLIP_NORM: Final = 2.0**127
"""The normal range of float32, which the release is written in; no factor can then leave the range of
double."""

_MAX_TOTAL: Final = 1 << 61


def check_order(order: int) -> None:
    """The norm is L1 or L2."""
    if order not in MAX_SENSITIVITY:
        raise PrivacyError(f"order is {order!r}; must be 1 or 2")


def check_gradients(gradients: Sequence[Tensor]) -> tuple[int, int]:
    """A non-empty list of (B, ...) tensors of one B and one device, in a dtype of the kernels.

    Returns:
        B, the number of units, and D, the number of coordinates of a unit.
    """
    if not isinstance(gradients, list | tuple):
        raise PrivacyError(f"gradients is a {type(gradients).__name__}; must be a list of (B, ...) tensors")
    if not gradients:
        raise PrivacyError("gradients is empty; must hold at least one (B, ...) tensor")
    dimension = 0
    for place, gradient in enumerate(gradients):
        name = f"gradients[{place}]"
        _check_gradient(name, gradient)
        if gradient.shape[0] != gradients[0].shape[0]:
            raise PrivacyError(
                f"{name} has {gradient.shape[0]} units; must have {gradients[0].shape[0]} as gradients[0]"
            )
        if gradient.device != gradients[0].device:
            raise PrivacyError(f"{name} is on {gradient.device}; must be on {gradients[0].device}")
        dimension += gradient.shape[1:].numel()
    if dimension > MAX_COORDINATES:
        raise PrivacyError(f"gradients have {dimension} coordinates; must have at most 2^58")
    return gradients[0].shape[0], dimension


def check_norms(norms: Tensor, *, units: int | None = None, device: torch.device | None = None) -> None:
    """Norms are float64 (B,); with `units` and `device`, of those units."""
    if not isinstance(norms, Tensor):
        raise PrivacyError(f"norms is a {type(norms).__name__}; must be a tensor")
    if norms.dtype != torch.float64 or norms.dim() != 1:
        raise PrivacyError(f"norms is {_show(norms)}; must be float64 of one dimension")
    if units is not None and norms.shape[0] != units:
        raise PrivacyError(f"norms has {norms.shape[0]} units; must have {units} as the gradients")
    if device is not None and norms.device != device:
        raise PrivacyError(f"norms is on {norms.device}; must be on {device}")


def check_total(total: Tensor, *, dimension: int | None = None, device: torch.device | None = None) -> None:
    """The lattice sum is contiguous int64 (D,); with `dimension` and `device`, of those gradients."""
    if not isinstance(total, Tensor):
        raise PrivacyError(f"total is a {type(total).__name__}; must be a tensor")
    if total.dtype != torch.int64 or total.dim() != 1 or not total.is_contiguous():
        raise PrivacyError(f"total is {_show(total)}; must be contiguous int64 of one dimension")
    if dimension is not None and total.shape[0] != dimension:
        raise PrivacyError(f"total has {total.shape[0]} coordinates; must have {dimension} as the gradients")
    if device is not None and total.device != device:
        raise PrivacyError(f"total is on {total.device}; must be on {device}")


def check_clip_norm(clip_norm: float, *, name: str = "clip_norm") -> None:
    """A clip norm is a number within the normal range of float32."""
    if isinstance(clip_norm, bool) or not isinstance(clip_norm, float | int):
        raise PrivacyError(f"{name} is a {type(clip_norm).__name__}; must be a number")
    if not MIN_CLIP_NORM <= clip_norm <= MAX_CLIP_NORM:
        raise PrivacyError(f"{name} is {clip_norm}; must be {MIN_CLIP_NORM:.3g} to {MAX_CLIP_NORM:.3g}")


def check_percentile(percentile: float) -> None:
    """A percentile is a number from 0 to 100."""
    if isinstance(percentile, bool) or not isinstance(percentile, float | int):
        raise PrivacyError(f"percentile is a {type(percentile).__name__}; must be a number")
    if not 0.0 <= percentile <= 100.0:
        raise PrivacyError(f"percentile is {percentile}; must be 0 to 100")


def check_lattice(lattice: LatticeScale, *, units: int | None = None) -> None:
    """A lattice on which the sum of `units` clipped units fits int64 with room for the noise."""
    if not isinstance(lattice, LatticeScale):
        raise PrivacyError(f"lattice is a {type(lattice).__name__}; must be a LatticeScale")
    if units is not None and units > _MAX_TOTAL // lattice.sensitivity:
        most = _MAX_TOTAL // lattice.sensitivity
        raise PrivacyError(f"gradients have {units} units; this lattice sums at most {most}")


def check_noise(*, lattice: LatticeScale, law: Law, key: KeystreamKey, step: int) -> None:
    """A law that the lattice's scale carries, a live key, a step of 32 bits."""
    check_lattice(lattice)
    check_scale(law, lattice.scale_bits)
    if not isinstance(key, KeystreamKey):
        raise PrivacyError(f"key is a {type(key).__name__}; must be a KeystreamKey")
    key.require_alive()
    if isinstance(step, bool) or not isinstance(step, int):
        raise PrivacyError(f"step is a {type(step).__name__}; must be an integer")


def _check_gradient(name: str, gradient: Tensor) -> None:
    if not isinstance(gradient, Tensor):
        raise PrivacyError(f"{name} is a {type(gradient).__name__}; must be a tensor")
    if gradient.dtype not in GRADIENT_DTYPES:
        raise PrivacyError(f"{name} is {gradient.dtype}; must be float32, bfloat16 or float16")
    if gradient.layout != torch.strided:
        raise PrivacyError(f"{name} is {gradient.layout}; must be a dense tensor")
    if gradient.dim() == 0:
        raise PrivacyError(f"{name} has no dimension; must be (B, ...)")


def _show(tensor: Tensor) -> str:
    stride = "" if tensor.is_contiguous() else ", not contiguous"
    return f"{tensor.dtype} {tuple(tensor.shape)}{stride}"
