"""How much privacy noise a round's mean update holds, as far as the plan and declared patients tell it."""

import math
from collections.abc import Sequence

from adpfl.errors import ConfigError
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.plan import LocalPlan
from adpfl.privacy import registry
from adpfl.privacy.noise import Noise, noise_of, paper_noise
from adpfl.privacy.plan import FixedThreshold, PaperPrivacy, RigorousPrivacy, UnsafeNonePrivacy
from adpfl.privacy.sampling import expected_units


def noise_in_mean_update(plan: RunPlan, sites: Sequence[tuple[float, int]]) -> float | None:
    """Standard deviation of the noise in one coordinate of the sites' weighted mean update.

    It is known where the clip norm and the noise multiplier stand in the plan: not with an adaptive
    threshold, a target epsilon (each site finds its own noise) or a registered mechanism. With unit `record`
    it is an upper bound: a site has at least as many records as patients, and so no more noise in its mean.

    Args:
        plan: the run's.
        sites: weight in the mean, and number of training patients, of each site.

    Returns:
        The deviation; None where it is not known, and 0 where the plan adds no noise.
    """
    variance = 0.0
    for weight, patients in sites:
        deviation = _noise_in_step(plan, patients)
        if deviation is None:
            return None
        variance += (weight * deviation) ** 2
    found = math.sqrt(variance) * noise_gain(plan.local)
    return found if math.isfinite(found) else None


def noise_gain(local: LocalPlan) -> float:
    """Deviation of a site's update over that of the independent noise in each of its mean gradients.

    Momentum, weight decay and the proximal term act on noise linearly: with c = weight_decay + fedprox_mu,
    noise e in a step moves v <- momentum*v + e + c*x and x <- x - learning_rate*v from zero, and the steps
    that follow carry it on with e = 0. The gain is the root of the sum of squares of that response.
    """
    feedback = local.weight_decay + local.fedprox_mu
    velocity, moved, total = 1.0, -local.learning_rate, 0.0
    for _ in range(local.steps):
        total += moved * moved
        velocity = local.momentum * velocity + feedback * moved
        moved -= local.learning_rate * velocity
        if not math.isfinite(moved) or not math.isfinite(total):
            return math.inf
    return math.sqrt(total)


def _noise_in_step(plan: RunPlan, patients: int) -> float | None:
    """Deviation of the noise in one coordinate of a site's mean gradient."""
    privacy = plan.privacy
    if isinstance(privacy, UnsafeNonePrivacy):
        return 0.0 if privacy.mechanism is None else None
    if patients < 1 or not isinstance(privacy.threshold, FixedThreshold):
        return None
    try:
        noise = _noise(privacy, patients)
    except ConfigError:  # no lattice carries it: no site can train, and none adds noise
        return None
    if noise is None:
        return None
    scale = noise.scale(privacy.threshold.clip_norm)
    deviation = scale if noise.law == "gaussian" else math.sqrt(2.0) * scale
    return deviation / expected_units(privacy.sampling, patients)


def _noise(privacy: PaperPrivacy | RigorousPrivacy, patients: int) -> Noise | None:
    if isinstance(privacy, PaperPrivacy):
        return paper_noise(privacy, patients)
    if privacy.noise_multiplier is None or privacy.mechanism.startswith(registry.PREFIX):
        return None
    return noise_of(privacy.mechanism, privacy.noise_multiplier, privacy.threshold)
