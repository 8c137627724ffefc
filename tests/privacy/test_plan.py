"""What a privacy plan accepts, and what stops the start."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from adpfl.privacy.plan import PaperPrivacy, PrivacyPlan, RigorousPrivacy, UnsafeNonePrivacy

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


RIGOROUS: dict[str, Any] = {
    "mode": "rigorous",
    "noise_multiplier": 2.0,
    "sampling": {"mode": "poisson", "probability": 0.1},
}


def test_rigorous_defaults_to_gaussian_noise_and_noisy_bits() -> None:
    plan = PLAN.validate_python(RIGOROUS)
    assert isinstance(plan, RigorousPrivacy)
    assert (plan.mechanism, plan.threshold.method, plan.unit, plan.delta) == (
        "gaussian",
        "noisy_bits",
        "patient",
        1e-5,
    )
    assert PLAN.validate_json(PLAN.dump_json(plan)) == plan


EXPONENTIAL = {"method": "exponential", "epsilon": 0.1, "refresh_steps": 5}


@pytest.mark.parametrize(
    "change",
    [
        {"mechanism": "laplace_l2"},
        {"mechanism": "laplace_l1", "threshold": {"method": "slack"}},
        {"mechanism": "laplace_l1", "threshold": EXPONENTIAL},
        {"threshold": {"method": "fixed", "clip_norm": 1.0}},
        {"noise_multiplier": None, "target_epsilon": 8.0, "total_steps": 100},
        {"unit": "record", "records_per_patient": 4},
        {"mechanism": "registered:staircase", "threshold": EXPONENTIAL},
    ],
)
def test_rigorous_takes(change: dict[str, Any]) -> None:
    PLAN.validate_python(RIGOROUS | change)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"threshold": {"method": "percentile"}}, "percentile has no finite epsilon"),
        ({"mechanism": "laplace_l1"}, "noisy_bits adds Gaussian noise"),
        ({"target_epsilon": 8.0}, "exactly one must be given"),
        ({"noise_multiplier": None}, "exactly one must be given"),
        ({"total_steps": 10}, "total_steps goes with target_epsilon"),
        ({"records_per_patient": 4}, "records_per_patient goes with unit record"),
        ({"mechanism": "gauss"}, "mechanism"),
        ({"mechanism": "registered:staircase"}, "must be fixed or exponential"),
        ({"reading": "budget"}, "reading"),
        ({"nominal_epsilon": 0.001}, "nominal_epsilon"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"delta": 1.0}, "delta"),
        ({"threshold": {"method": "noisy_bits", "percentile": 101.0}}, "percentile"),
        ({"threshold": {"method": "noisy_bits", "bit_noise_ratio": 0.5}}, "bit_noise_ratio"),
        ({"threshold": {"method": "slack", "min_clip_norm": 2.0}}, "must rise in this order"),
        ({"threshold": EXPONENTIAL | {"grid_points": 1}}, "grid_points"),
        ({"threshold": {"method": "exponential", "epsilon": 0.1}}, "refresh_steps"),
    ],
)
def test_contradictions_in_mode_rigorous_stop_the_start(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        PLAN.validate_python(RIGOROUS | change)


@pytest.mark.parametrize("method", ["noisy_bits", "slack", "exponential"])
def test_mode_paper_stays_as_it_was_published(method: str) -> None:
    with pytest.raises(ValidationError, match="threshold"):
        PLAN.validate_python(PAPER | {"threshold": {"method": method}})


def test_mode_none_takes_a_registered_mechanism_whole_or_not_at_all() -> None:
    plain = {"mode": "none", "sampling": {"mode": "full"}}
    PLAN.validate_python(plain | {"mechanism": "registered:own", "noise_multiplier": 1.0, "clip_norm": 1.0})
    with pytest.raises(ValidationError, match="goes with mechanism: both or neither"):
        PLAN.validate_python(plain | {"mechanism": "registered:own", "noise_multiplier": 1.0})
