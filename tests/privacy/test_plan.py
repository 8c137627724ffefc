"""What a privacy plan accepts, and what stops the start."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from adpfl.privacy.plan import PaperPrivacy, PrivacyPlan, UnsafeNonePrivacy

PLAN: TypeAdapter[Any] = TypeAdapter(PrivacyPlan)
PAPER: dict[str, Any] = {
    "mode": "paper",
    "reading": "multiplier",
    "threshold": {"method": "percentile"},
    "sampling": {"mode": "poisson", "probability": 0.1},
}


def test_defaults_are_the_papers_and_the_reading_must_be_chosen() -> None:
    plan = PLAN.validate_python(PAPER)
    assert isinstance(plan, PaperPrivacy)
    assert (plan.nominal_epsilon, plan.mechanism, plan.unit) == (0.001, "laplace_l2", "patient")
    with pytest.raises(ValidationError, match="reading"):
        PLAN.validate_python({key: value for key, value in PAPER.items() if key != "reading"})


def test_mode_none_takes_no_privacy_keys() -> None:
    assert isinstance(PLAN.validate_python({"mode": "none", "sampling": {"mode": "full"}}), UnsafeNonePrivacy)
    with pytest.raises(ValidationError, match="delta"):
        PLAN.validate_python({"mode": "none", "sampling": {"mode": "full"}, "delta": 1e-5})


@pytest.mark.parametrize(
    "change",
    [
        {"nominal_epsilon": 0.0},
        {"nominal_epsilon": -1.0},
        {"nominal_epsilon": float("inf")},
        {"delta": 0.0},
        {"delta": 1.0},
        {"reading": "generous"},
        {"mechanism": "gauss"},
        {"unit": "slice"},
        {"threshold": {"method": "fixed", "clip_norm": 0.0}},
        {"threshold": {"method": "fixed"}},
        {"threshold": {"method": "percentile", "percentile": 101}},
        {"threshold": {"method": "percentile", "percentile": -1}},
        {"threshold": {"method": "percentile", "clip_norm": 1.0}},
        {"sampling": {"mode": "poisson", "probability": 0.0}},
        {"sampling": {"mode": "poisson", "probability": 1.5}},
        {"sampling": {"mode": "full", "probability": 0.5}},
        {"sampling": {"mode": "shuffle"}},
        {"noise_multiplier": 1.0},
    ],
)
def test_contradictions_and_values_out_of_range_stop_the_start(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PLAN.validate_python(PAPER | change)
