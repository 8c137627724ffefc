"""How a site chooses the clip norm C of a step, and what that costs.

`fixed` looks at no data and costs nothing. `percentile` is the paper's: C is read off the site's raw norms
and then revealed by the release itself (its noise scale and lattice spacing follow C), so no finite epsilon
holds.
"""

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from adpfl.config import FrozenModel
from adpfl.kernels.ops import nearest_rank_percentile
from adpfl.privacy.plan import FixedThreshold, PercentileThreshold, Threshold

FiniteNorms = tuple[Annotated[float, Field(ge=0.0)], ...]


class ThresholdState(FrozenModel):
    """What a threshold remembers between steps. Private to the site: it holds raw norms."""

    window: tuple[FiniteNorms, ...] = ()
    """Finite norms of earlier steps, oldest first."""
    last_clip_norm: float | None = None


def needs_norms_first(threshold: Threshold) -> bool:
    """Whether C depends on the step's own norms: then all are needed before the first unit is clipped."""
    return threshold.method == "percentile"


def choose_clip_norm(
    threshold: Threshold, norms: NDArray[np.float64], state: ThresholdState
) -> tuple[float, ThresholdState]:
    """C of this step, and the state after it.

    Args:
        threshold: the plan's method.
        norms: (B,) raw norms of this step's units; NaN and infinite ones are left out of the ranking.
        state: what earlier steps left.

    Returns:
        C > 0 and the next state. With no finite norm in batch or window, C stays what it was;
        `initial_clip_norm` serves until there was one. C never falls under `min_clip_norm`.
    """
    match threshold:
        case FixedThreshold():
            return threshold.clip_norm, state
        case PercentileThreshold():
            return _percentile(threshold, norms, state)


def _percentile(
    threshold: PercentileThreshold, norms: NDArray[np.float64], state: ThresholdState
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
