"""A privacy figure that never stands alone: epsilon with everything needed to read it."""

import math
from decimal import ROUND_CEILING, Context
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

from adpfl.config import FrozenModel


def _json_epsilon(epsilon: float) -> float | str:
    return "inf" if math.isinf(epsilon) else epsilon


def _read_epsilon(value: Any) -> Any:
    return math.inf if value == "inf" else value


Epsilon = Annotated[
    float,
    Field(ge=0.0, allow_inf_nan=True),
    BeforeValidator(_read_epsilon),
    PlainSerializer(_json_epsilon, when_used="json-unless-none"),
]
"""Infinite where no finite guarantee holds; JSON, which has no infinity, holds the text "inf"."""


def shown_epsilon(epsilon: float, *, digits: int = 4) -> str:
    """An epsilon at reading precision, rounded up: what is shown is a bound too. "infinite" where it is."""
    if math.isinf(epsilon):
        return "infinite"
    upwards = Context(prec=digits, rounding=ROUND_CEILING)
    return f"{float(upwards.create_decimal(repr(float(epsilon)))):.{digits}g}"


IF_FIXED_MEANING = (
    "what this noise would give had the thresholds been fixed without looking at the data; "
    "not a guarantee of this run"
)
"""Must stand wherever `epsilon_if_fixed` is shown to a person."""


class Guarantee(FrozenModel):
    """(epsilon, delta) of one run at one site, with the conditions under which it holds.

    It reads: replace one unit's contribution by zero throughout the run, and the probability of any set of
    outcomes O goes from P(O) to P'(O) with P(O) <= exp(epsilon) * P'(O) + delta, and the same in reverse.
    """

    epsilon: Epsilon
    epsilon_if_fixed: Epsilon | None
    """See `IF_FIXED_MEANING`; None where `epsilon` is finite or nothing is noised."""
    delta: float
    unit: str
    neighboring_relation: str
    sampling: str
    mechanism: str
    steps: int
    accountant: str
    nominal_epsilon: float | None = None
    reading: str | None = None
    caveats: tuple[str, ...] = ()
    threshold: str | None = None
    """How the clip norm is chosen; None where nothing is clipped."""
    noise_multiplier: float | None = None
    """sigma/C or b/C that was asked for, on the sum."""
    target_epsilon: float | None = None
    """What the noise was calibrated to."""
    records_per_patient: int | None = None
    epsilon_per_patient: Epsilon | None = None
    """Where the unit is the record: the figure of a patient with at most `records_per_patient` of them."""
