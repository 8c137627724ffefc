"""Which plans the operator is warned of."""

import pytest
from pydantic import TypeAdapter

from adpfl.privacy.plan import PrivacyPlan
from adpfl_server.privacy_notice import PERCENTILE, UNSAFE_NONE, privacy_warning

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
