"""How a site chooses the clip norm C of a step, and what that costs.

- `fixed` looks at nothing and costs nothing.
- `percentile` looks at raw norms and has no finite epsilon: the release's noise scale and lattice spacing
  follow C, and show a norm.
- `noisy_bits` looks at a noised count of units under C: 2.1 % more gradient noise, no epsilon of its own.
- `slack` looks at ten noised coordinates beside the gradient's: no epsilon, no noise.
- `exponential` looks at the norms of all units through a private choice: zCDP epsilon^2 / 8 a choice.

A private C is public from the moment of its release, and so are all that follow from it.
"""

import math
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from adpfl.config import FrozenModel
from adpfl.kernels.ops import nearest_rank_percentile
from adpfl.privacy.plan import (
    AnyThreshold,
    ExponentialThreshold,
    FixedThreshold,
    NoisyBitsThreshold,
    PercentileThreshold,
    SlackThreshold,
)

FiniteNorms = tuple[Annotated[float, Field(ge=0.0)], ...]
Norms = NDArray[np.float64]


class ThresholdState(FrozenModel):
    """What a threshold remembers between steps. Private to the site where it holds raw norms."""

    window: tuple[FiniteNorms, ...] = ()
    """`percentile`: finite norms of earlier steps, oldest first."""
    last_clip_norm: float | None = None
    """`percentile`: C of the last step; the private methods: C of the next one, which is public."""


def needs_norms_first(threshold: AnyThreshold) -> bool:
    """Whether C depends on the step's own norms: then all are needed before the first unit is clipped."""
    return threshold.method == "percentile"


def choose_clip_norm(
    threshold: AnyThreshold, norms: Norms, state: ThresholdState
) -> tuple[float, ThresholdState]:
    """C of this step, and the state with which to go on.

    Args:
        threshold: the plan's method.
        norms: (B,) raw norms of this step's units, for `percentile` alone; NaN and infinite ones are left
            out of the ranking.
        state: what earlier steps left.

    Returns:
        C > 0 and the next state. `percentile` with no finite norm in batch or window keeps C as it was.
        `initial_clip_norm` serves until there was another. C never falls under `min_clip_norm`.
    """
    match threshold:
        case FixedThreshold():
            return threshold.clip_norm, state
        case PercentileThreshold():
            return _percentile(threshold, norms, state)
        case NoisyBitsThreshold() | SlackThreshold() | ExponentialThreshold():
            current = state.last_clip_norm
            return threshold.initial_clip_norm if current is None else current, state


def bit_sum(norms: Norms, clip_norm: float) -> int:
    """Sum of units' bits in half-units: +1 for a norm at or under C, -1 for one above.

    A unit that was zeroed, or whose norm is NaN or infinite, gives 0 and not -1: the zero-out neighbour of a
    unit must differ by one half at most.
    """
    counted = np.isfinite(norms) & (norms > 0.0)
    under = int(np.count_nonzero(counted & (norms <= clip_norm)))
    return 2 * under - int(np.count_nonzero(counted))


def after_noisy_bits(
    threshold: NoisyBitsThreshold, clip_norm: float, released_bits: float, expected_units: float
) -> ThresholdState:
    """C <- clamp(C * exp(-rate * (f - p))) with f = released / m + 1/2 (Andrew et al. 2021).

    Args:
        threshold: the plan's.
        clip_norm: C, which the bits were taken at.
        released_bits: noised sum of +-1/2.
        expected_units: m = q*n, public.
    """
    share = released_bits / expected_units + 0.5
    return _moved(threshold, clip_norm, threshold.learning_rate * (share - threshold.percentile / 100.0))


def slack_sum(norms: Norms, *, clip_norm: float, sensitivity: int, coordinates: int, order: int) -> Norms:
    """Sum over units of the slack that each leaves of its clip, on the lattice.

    A unit of clipped norm r*C has slack in K coordinates, filled one after the other to a capacity each:
    sqrt(K) * (1 - r) in all and 1/sqrt(K) each for an L2 clip, 1 - r and 1/K for an L1 clip (in clip
    norms). For L2 its squares sum to at most (largest coordinate) * (sum) = (1 - r), so gradient and slack
    together have norm^2 <= r^2 + 1 - r <= 1; for L1 they have norm r + 1 - r = 1. Truncation to the lattice
    and the share 2^-30 kept back, as in the gradient's own factor, keep that exact. A zeroed, NaN or
    infinite unit gives no slack: its zero-out neighbour is itself.

    Args:
        norms: (B,) raw norms, in the order that is clipped.
        clip_norm: C.
        sensitivity: A, the clip norm in lattice units.
        coordinates: K.
        order: 2 or 1.

    Returns:
        int64 (K,): the sums, in lattice units.
    """
    counted = norms[np.isfinite(norms) & (norms > 0.0)]
    left = 1.0 - np.minimum(counted / clip_norm, 1.0)
    length = math.sqrt(coordinates) if order == 2 else 1.0
    capacity = length / coordinates
    filled = np.clip(length * left[:, None] - capacity * np.arange(coordinates)[None, :], 0.0, capacity)
    units = np.floor(filled * (sensitivity * (1.0 - 2.0**-30)))
    total: Norms = units.astype(np.int64).sum(axis=0)
    return total


def after_slack(
    threshold: SlackThreshold,
    clip_norm: float,
    released_slack: Norms,
    *,
    expected_units: float,
    order: int,
) -> ThresholdState:
    """Move C by what the noised slack says of the norms' distribution below it.

    Over its capacity and the public m, coordinate i is the mean share of units with norm under C * (1 -
    i/K), averaged over a tenth of C. While the first lies under the target share p, C grows by exp(rate * (p
    - share)). Else it falls by exp(-rate * sum of (share - p)), over the coordinates until the first that
    lies under p: the further down the percentile, the faster.

    Args:
        threshold: the plan's.
        clip_norm: C, which the slack was taken at.
        released_slack: (K,), noised sums, in the gradient's own scale.
        expected_units: m = q*n, public.
        order: the norm that is clipped.
    """
    coordinates = len(released_slack)
    capacity = clip_norm / (math.sqrt(coordinates) if order == 2 else coordinates)
    excess = released_slack / (capacity * expected_units) - threshold.percentile / 100.0
    under = np.flatnonzero(excess <= 0.0)
    end = int(under[0]) if under.size else coordinates
    move = float(excess[0]) if end == 0 else float(excess[:end].sum())
    return _moved(threshold, clip_norm, threshold.learning_rate * move)


def _moved(threshold: NoisyBitsThreshold | SlackThreshold, clip_norm: float, fall: float) -> ThresholdState:
    factor = math.exp(min(max(-fall, -50.0), 50.0))
    clamped = min(max(clip_norm * factor, threshold.min_clip_norm), threshold.max_clip_norm)
    return ThresholdState(last_clip_norm=clamped)


def _percentile(
    threshold: PercentileThreshold, norms: Norms, state: ThresholdState
) -> tuple[float, ThresholdState]:
    finite = norms[np.isfinite(norms)]
    ranked = np.concatenate([*(np.asarray(step, dtype=np.float64) for step in state.window), finite])
    value = nearest_rank_percentile(torch.from_numpy(ranked), threshold.percentile)
    if value is None:
        value = threshold.initial_clip_norm if state.last_clip_norm is None else state.last_clip_norm
    clip_norm = max(value, threshold.min_clip_norm)
    window = (
        (*state.window, tuple(finite.tolist()))[-threshold.window_steps :] if threshold.window_steps else ()
    )
    # Before any finite norm the initial value serves without being remembered as one that was found.
    remembered = clip_norm if ranked.size else state.last_clip_norm
    return clip_norm, ThresholdState(window=window, last_clip_norm=remembered)
