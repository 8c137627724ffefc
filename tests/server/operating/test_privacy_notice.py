"""Which plans the operator is warned of."""

import pytest
from pydantic import TypeAdapter

from adpfl.privacy.plan import PrivacyPlan
from adpfl_server.operating.privacy_notice import (
    ENORMOUS,
    FINITE,
    NO_GUARANTEE,
    PERCENTILE,
    UNSAFE_NONE,
    guarantee_kind,
    privacy_warning,
)

FULL = {"mode": "full"}
PAPER = {"mode": "paper", "reading": "multiplier", "sampling": FULL}


@pytest.mark.parametrize(
    ("privacy", "warning"),
    [
        ({"mode": "none", "sampling": FULL}, UNSAFE_NONE),
        (PAPER | {"threshold": {"method": "percentile"}}, PERCENTILE),
        (PAPER | {"threshold": {"method": "fixed", "clip_norm": 1.0}}, None),
    ],
)
def test_an_infinite_epsilon_is_said_aloud(privacy, warning):
    assert privacy_warning(TypeAdapter(PrivacyPlan).validate_python(privacy)) == warning


FIXED = {"threshold": {"method": "fixed", "clip_norm": 1.0}}
RIGOROUS = {"mode": "rigorous", "sampling": FULL}


@pytest.mark.parametrize(
    ("privacy", "kind"),
    [
        ({"mode": "none", "sampling": FULL}, NO_GUARANTEE),
        (PAPER | {"threshold": {"method": "percentile"}}, NO_GUARANTEE),
        (PAPER | FIXED, ENORMOUS),
        (PAPER | FIXED | {"nominal_epsilon": 5.0}, FINITE),
        (PAPER | FIXED | {"reading": "budget"}, FINITE),
        (PAPER | FIXED | {"reading": "budget", "nominal_epsilon": 50.0}, ENORMOUS),
        (PAPER | FIXED | {"reading": "budget_n"}, FINITE),
        (PAPER | FIXED | {"reading": "multiplier_mean"}, FINITE),
        (RIGOROUS | {"noise_multiplier": 0.01}, ENORMOUS),
        (RIGOROUS | {"noise_multiplier": 1.0}, FINITE),
    ],
)
def test_the_kind_of_guarantee_follows_from_the_plan(privacy, kind):
    assert guarantee_kind(TypeAdapter(PrivacyPlan).validate_python(privacy)) == kind


def test_a_target_is_told_as_it_stands():
    plan = RIGOROUS | {"target_epsilon": 8.0, "total_steps": 10}
    told = guarantee_kind(TypeAdapter(PrivacyPlan).validate_python(plan))
    assert told.startswith("epsilon 8 at delta 1e-05 over the whole run, unit patient")
