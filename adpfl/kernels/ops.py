"""The calls that turn per-unit gradients into a noised sum; the rest of the project knows only these.

One logical batch is released once. It may be accumulated from several physical ones:

    for gradients in physical_batches:
        norms = unit_norms(gradients)
        counts = clip_accumulate_(total, gradients, norms, clip_norm=C, lattice=lattice)
    noised_sum = release(total, clip_norm=C, lattice=lattice, law="laplace", key=key, step=step)

`dp_release` is the same for a batch that fits, to the bit. Sums are integers, so the order of the physical
batches and of the units changes nothing. Gradients are a list of (B, ...) tensors, float32, bfloat16 or
float16, on one device; a unit's gradient is its row of each tensor, flattened, in list order: D coordinates.
B may be 0.

Guarantee of one release: over the units' gradients, zero-out neighbours (one unit replaced by zero) differ by
an integer vector of norm at most A before noise of scale 2^s, for the L2 or L1 norm that was clipped; A and s
are the lattice's. It holds for a clip norm that does not depend on the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from adpfl.kernels import operators, reference
from adpfl.kernels.arguments import (
    check_clip_norm,
    check_gradients,
    check_lattice,
    check_noise,
    check_norms,
    check_order,
    check_percentile,
    check_total,
)
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale, Law, NormOrder
from adpfl.kernels.placement import keystream_on, ranks_on, tables_on


class ClipCounts(NamedTuple):
    """What a clip did to its units. Private: no part of a release."""

    clipped: int
    """Units with a finite norm above the clip norm."""
    nonfinite: int
    """Units with a NaN or infinite norm; they contributed zero."""


@dataclass(frozen=True)
class PercentileClip:
    """The paper's threshold: a percentile of this batch's norms and earlier ones.

    NOT PRIVATE: the released scale shows a unit's norm, so the honest epsilon of such a release is infinite.

    Attributes:
        percentile: 0 to 100, nearest rank over the finite norms.
        initial_clip_norm: serves until there is a finite norm.
        min_clip_norm: the clip norm never falls below it; above 0.
        earlier_norms: float64 (W,): the window of earlier norms, or None. Best on the gradients' device.
    """

    percentile: float
    initial_clip_norm: float
    min_clip_norm: float
    earlier_norms: Tensor | None = None

    def __post_init__(self) -> None:
        check_percentile(self.percentile)
        check_clip_norm(self.initial_clip_norm, name="initial_clip_norm")
        check_clip_norm(self.min_clip_norm, name="min_clip_norm")
        if self.earlier_norms is not None:
            check_norms(self.earlier_norms)


@dataclass(frozen=True)
class Release:
    """What `dp_release` gives. `noised_sum` and C may leave the site; norms and counts are private.

    The tensors are on the gradients' device and may still be queued there: only `clip_norm` and `counts`,
    which are numbers, wait for it.

    Attributes:
        noised_sum: float32 (D,).
        threshold: float64 (1,): C.
        norms: float64 (B,), the raw norms.
        clip_counts: int64 (2,): units clipped, units not finite.
    """

    noised_sum: Tensor
    threshold: Tensor
    norms: Tensor
    clip_counts: Tensor

    @property
    def clip_norm(self) -> float:
        """C.

        Raises:
            PrivacyError: a percentile on a device left the range of float32; `noised_sum` is NaN throughout.
        """
        clip_norm = float(self.threshold.item())
        check_clip_norm(clip_norm)
        return clip_norm

    @property
    def counts(self) -> ClipCounts:
        """What the clip did."""
        return _counts(self.clip_counts)


def active_backend() -> str:
    """One line on what runs behind these calls: the compiled kernels, or the reference and why."""
    return str(operators.EXTENSION)


@torch.no_grad()
def unit_norms(gradients: Sequence[Tensor], *, order: NormOrder = 2) -> Tensor:
    """Norm of each unit's gradient over all tensors together.

    The additions have one fixed order (`adpfl.kernels.reference`), so every backend gives the same bits.

    Args:
        gradients: per-unit gradients.
        order: 2 or 1.

    Returns:
        float64 (B,). NaN or infinite where an entry of the unit is; 0 where D is 0.

    Raises:
        PrivacyError: an argument breaks its rule.
    """
    check_order(order)
    check_gradients(gradients)
    norms: Tensor = torch.ops.adpfl.unit_norms(gradients, order)
    return norms


def nearest_rank_percentile(norms: Tensor, percentile: float) -> float | None:
    """The smallest finite norm with at least `percentile` % of the finite norms at or below it.

    The rank is ceil(percentile * n / 100), at least 1, in exact arithmetic on the decimal number as written:
    7 % of 100 norms is the 7th.

    Args:
        norms: float64 (n,); NaN and infinite entries are passed over. For a window, concatenate.
        percentile: 0 to 100.

    Returns:
        One of the norms, or None where none is finite.

    Raises:
        PrivacyError: an argument breaks its rule.
    """
    check_norms(norms)
    check_percentile(percentile)
    finite = norms[torch.isfinite(norms)]
    if finite.numel() == 0:
        return None
    return reference.kth_smallest(finite, operators.nearest_rank(percentile, finite.numel()))


@torch.no_grad()
def clip_accumulate_(
    total: Tensor, gradients: Sequence[Tensor], norms: Tensor, *, clip_norm: float, lattice: LatticeScale
) -> ClipCounts:
    """Clip each unit to norm C, truncate it to the lattice, and add it to `total` in place.

    A unit adds v = trunc(g * f), f = A * (1 - 2^-30) / max(norm, C): its norm is at most A, and its removal
    changes `total` by exactly v. A zero unit adds zero. A unit with a NaN or infinite norm adds zero and is
    counted.

    Args:
        total: int64 (D,), contiguous; zeros before the first call. Written only if every check passes.
        gradients: per-unit gradients of D coordinates.
        norms: float64 (B,): `unit_norms` of these very gradients, in the order that is clipped. The bound on
            v is void for any other numbers.
        clip_norm: C.
        lattice: A; over all calls into one total at most 2^61 / A units.

    Returns:
        How many units were clipped, and how many were not finite.

    Raises:
        PrivacyError: an argument breaks its rule; `total` is unchanged.
    """
    units, dimension = check_gradients(gradients)
    device = gradients[0].device
    check_total(total, dimension=dimension, device=device)
    check_norms(norms, units=units, device=device)
    check_clip_norm(clip_norm)
    check_lattice(lattice, units=units)
    threshold = _filled(clip_norm, device)
    return _counts(torch.ops.adpfl.clip_accumulate_(total, gradients, norms, threshold, lattice.sensitivity))


@torch.no_grad()
def release(
    total: Tensor, *, clip_norm: float, lattice: LatticeScale, law: Law, key: KeystreamKey, step: int
) -> Tensor:
    """Add the noise of (key, step) to the lattice sum and give it back in the gradients' own scale.

    Each coordinate is float32(float64(2 * total + 2y) * (C / (2 A))), 2y the draw of its index: everything
    after the integer addition is post-processing.

    Args:
        total: int64 (D,), contiguous; not changed. All zeros (an empty batch) gives pure noise.
        clip_norm: C, the one the total was clipped to; public with the release.
        lattice: the one the total was clipped on.
        law: `laplace`, or `gaussian` at 10 or 20 scale bits.
        key: the secret key. It serves each step once, in rising order: a second release under the same noise
            would give away the difference of the sums.
        step: the step within the key's life, from 0.

    Returns:
        float32 (D,): the noised SUM over the units.

    Raises:
        PrivacyError: an argument breaks its rule, the key was wiped, or it has released this step already.
        KeystreamExhaustedError: the step has more than 32 bits.
    """
    check_total(total)
    check_clip_norm(clip_norm)
    check_noise(lattice=lattice, law=law, key=key, step=step)
    device = total.device
    tables = tables_on(device, law, lattice.scale_bits)
    threshold = _filled(clip_norm, device)
    key.claim_step(step)
    with keystream_on(device, key, step) as keystream:
        noised: Tensor = torch.ops.adpfl.release(
            total, threshold, keystream, tables, lattice.sensitivity, lattice.scale_bits, law == "gaussian"
        )
    return noised


@torch.no_grad()
def dp_release(
    gradients: Sequence[Tensor],
    *,
    clip_norm: float | PercentileClip,
    lattice: LatticeScale,
    law: Law,
    key: KeystreamKey,
    step: int,
    order: NormOrder = 2,
) -> Release:
    """Norms, threshold, clip, sum and noise of one whole batch: the three calls in one, to the bit.

    On a GPU the call only queues work. It waits where something is needed there for the first time: the law's
    tables, the percentile's ranks, the key, or a window of norms that lies elsewhere.

    Args:
        gradients: per-unit gradients.
        clip_norm: C, or the rule that finds it from the norms (not private).
        lattice: sensitivity and noise scale.
        law: the noise.
        key: the secret key; see `release`.
        step: the step within the key's life.
        order: the norm that is clipped, 2 or 1.

    Returns:
        The noised sum and what the site may learn from the step.

    Raises:
        PrivacyError: as the three calls; nothing is released and the step is not used up.
        KeystreamExhaustedError: the step has more than 32 bits.
    """
    units, _ = check_gradients(gradients)
    if not isinstance(clip_norm, PercentileClip):
        check_clip_norm(clip_norm)
    check_order(order)
    check_noise(lattice=lattice, law=law, key=key, step=step)
    check_lattice(lattice, units=units)
    device = gradients[0].device
    chosen = _chosen(clip_norm, gradients, order)
    tables = tables_on(device, law, lattice.scale_bits)
    key.claim_step(step)
    with keystream_on(device, key, step) as keystream:
        noised_sum, threshold, norms, counts = torch.ops.adpfl.dp_release(
            gradients,
            keystream,
            tables,
            lattice.sensitivity,
            lattice.scale_bits,
            law == "gaussian",
            order,
            **chosen,
        )
    return Release(noised_sum=noised_sum, threshold=threshold, norms=norms, clip_counts=counts)


def _chosen(
    clip_norm: float | PercentileClip, gradients: Sequence[Tensor], order: NormOrder
) -> dict[str, float | Tensor | None]:
    """The operator's arguments that say what C is.

    On the CPU a percentile is found here, so that one out of range is refused before anything is written. On
    a device the operator finds it, and answers one out of range with NaN.
    """
    if not isinstance(clip_norm, PercentileClip):
        return {"clip_norm": clip_norm}
    rule, device = clip_norm, gradients[0].device
    window = None if rule.earlier_norms is None else rule.earlier_norms.to(device)
    if device.type == "cpu":
        norms = unit_norms(gradients, order=order)
        found = nearest_rank_percentile(
            norms if window is None else torch.cat([window, norms]), rule.percentile
        )
        threshold = max(rule.min_clip_norm, rule.initial_clip_norm if found is None else found)
        check_clip_norm(threshold)
        return {"clip_norm": threshold, "norms": norms}
    seen = gradients[0].shape[0] + (0 if window is None else window.shape[0])
    return {
        "clip_norm": rule.initial_clip_norm,
        "ranks": ranks_on(device, rule.percentile, seen),
        "window": window,
        "min_clip_norm": rule.min_clip_norm,
    }


def _filled(clip_norm: float, device: torch.device) -> Tensor:
    """C as the operators take it. Filled on the device: a copy would make the host wait."""
    return torch.full((1,), clip_norm, dtype=torch.float64, device=device)


def _counts(counts: Tensor) -> ClipCounts:
    clipped, nonfinite = counts.tolist()
    return ClipCounts(clipped, nonfinite)
