"""The figure of a mechanism asked for by its parameters, without a run."""

import re
from typing import Any, Final

from adpfl.config import parse
from adpfl.errors import ConfigError
from adpfl.privacy.accounting import guarantee
from adpfl.privacy.guarantee import Guarantee
from adpfl.privacy.plan import PaperPrivacy

_TYPED: Final = (
    (r"^options: ", ""),
    (r"(privacy\.)?nominal_epsilon is \S+ with privacy\.reading \S+: noise_multiplier", "--noise-multiplier"),
    (r"\bnominal_epsilon(?= is )", "--noise-multiplier"),
    (r"\bsampling\.probability(?= is )", "--sampling-probability"),
    (
        r"\bsampling: mode full takes every unit; probability",
        "--sampling full takes every unit; --sampling-probability",
    ),
    (r"\bdelta(?= is )", "--delta"),
)
"""A plan's keys as they stand in messages, and the options that were typed instead of them."""


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
        ConfigError: a parameter breaks a rule of the privacy plan, or no lattice carries this noise; told by
            the options of `adpfl epsilon`.
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
    try:
        plan = parse(document, PaperPrivacy, source="options")
        found = guarantee(plan, unit_count=unit_count or 1, dimension=dimension, steps=steps)
    except ConfigError as error:
        raise ConfigError(_as_typed(str(error))) from error
    return found.model_copy(update={"nominal_epsilon": None, "reading": None})


def _as_typed(message: str) -> str:
    for pattern, option in _TYPED:
        message = re.sub(pattern, option, message)
    return message
