from collections.abc import Callable
from typing import Any

import pytest

from adpfl.privacy.plan import PaperPrivacy, Sampling

Plans = Callable[..., PaperPrivacy]


@pytest.fixture
def paper_plan() -> Plans:
    """Builds plans of mode `paper`; noise of scale C, clip norm 1 and every unit in every step by default."""

    def build(**changes: Any) -> PaperPrivacy:
        keys: dict[str, Any] = {
            "mode": "paper",
            "nominal_epsilon": 1.0,
            "reading": "multiplier",
            "threshold": {"method": "fixed", "clip_norm": 1.0},
            "sampling": Sampling(mode="full"),
        }
        return PaperPrivacy(**(keys | changes))

    return build
