"""The figure of a mechanism asked for by its parameters, without a run."""

from typing import Any

from adpfl.config import parse
from adpfl.privacy.accounting import guarantee
from adpfl.privacy.guarantee import Guarantee
from adpfl.privacy.plan import PaperPrivacy


def guarantee_of_noise(
    *,
    mechanism: str,
    noise_multiplier: float,
    dimension: int,
    sampling_mode: str,
    sampling_probability: float,
    steps: int,
    delta: float,
    unit_count: int | None = None,
) -> Guarantee:
    """Epsilon of `steps` releases whose threshold was fixed in advance.

    Args:
        mechanism: `laplace_l2`.
        noise_multiplier: b/C, on the sum.
        dimension: coordinates of one unit's gradient.
        sampling_mode: `poisson`, `partition` or `full`.
        sampling_probability: share of the units in a step.
        steps: releases, composed.
        delta: in (0, 1).
        unit_count: units of the data set; only a caveat on delta depends on it.

    Raises:
        ConfigError: a parameter breaks a rule of the privacy plan.
        PrivacyError: no lattice carries this noise.
    """
    document: dict[str, Any] = {
        "mode": "paper",
        # b = epsilon * C: under this reading the nominal epsilon IS the noise multiplier.
        "reading": "multiplier",
        "nominal_epsilon": noise_multiplier,
        "mechanism": mechanism,
        "threshold": {"method": "fixed", "clip_norm": 1.0},
        "sampling": {"mode": sampling_mode, "probability": sampling_probability},
        "delta": delta,
    }
    plan = parse(document, PaperPrivacy, source="options")
    found = guarantee(plan, unit_count=unit_count or 1, dimension=dimension, steps=steps)
    return found.model_copy(update={"nominal_epsilon": None, "reading": None})
