"""Units that withdrew: their places stay, they contribute nothing, whatever the sampling."""

from typing import Any

import numpy as np
import pytest
import torch

from adpfl.errors import PrivacyError
from adpfl.kernels.keystream import KeystreamKey
from adpfl.privacy.engine import EngineState, PrivacyEngine
from adpfl.privacy.plan import PaperPrivacy, PrivacyPlan, UnsafeNonePrivacy

KEY = bytes(range(32))
UNITS = 20
SAMPLINGS = (
    {"mode": "full"},
    {"mode": "poisson", "probability": 0.5},
    {"mode": "partition", "probability": 0.25},
)


def unsafe(sampling: dict[str, Any]) -> UnsafeNonePrivacy:
    return UnsafeNonePrivacy.model_validate({"mode": "none", "sampling": sampling})


def engine(plan: PrivacyPlan, **changes: Any) -> PrivacyEngine:
    return PrivacyEngine(plan, unit_count=UNITS, dimension=3, key=KeystreamKey.from_bytes(KEY), **changes)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda sampling: sampling["mode"])
def test_the_draw_is_the_same_and_the_excluded_are_left_out_of_it(sampling: dict[str, Any]) -> None:
    everybody, fewer = engine(unsafe(sampling)), engine(unsafe(sampling), excluded=(3, 4))
    for step in range(8):
        drawn, kept = everybody.sample(step), fewer.sample(step)
        assert kept.tolist() == [unit for unit in drawn.tolist() if unit not in (3, 4)]
        for one, indices in ((everybody, drawn), (fewer, kept)):
            one.release(step, [[torch.ones(len(indices), 3)]])


def test_the_divisor_stays_that_of_the_declared_number() -> None:
    fewer = engine(unsafe({"mode": "full"}), excluded=range(10))
    assert len(fewer.sample(0)) == 10
    released = fewer.release(0, [[torch.ones(10, 3)]])
    assert released.mean_gradient.tolist() == [0.5, 0.5, 0.5]  # 10 of a declared 20
    assert fewer.participating.tolist() == list(range(10, 20))


def test_norms_of_who_withdrew_are_forgotten_and_only_then() -> None:
    plan = PaperPrivacy.model_validate(
        {
            "mode": "paper",
            "reading": "multiplier",
            "threshold": {"method": "percentile", "window_steps": 5},
            "sampling": {"mode": "full"},
        }
    )
    first = engine(plan)
    first.sample(0)
    first.release(0, [[torch.ones(UNITS, 3)]])
    state = first.state
    assert engine(plan, state=state).state.threshold.window
    after = engine(plan, state=state, excluded=(7,))
    assert after.state.threshold.window == ()
    after.sample(0)
    after.release(0, [[torch.ones(UNITS - 1, 3)]])
    assert engine(plan, state=after.state, excluded=(7,)).state.threshold.window


@pytest.mark.parametrize("excluded", [(-1,), (UNITS,)])
def test_a_position_that_is_no_unit_is_refused(excluded: tuple[int, ...]) -> None:
    with pytest.raises(PrivacyError, match="excluded holds positions outside 0 to 19"):
        engine(unsafe({"mode": "full"}), excluded=excluded)


def test_an_older_state_reads_as_nobody_excluded() -> None:
    assert EngineState.model_validate({"steps_taken": 3}).excluded == ()
    assert np.array_equal(engine(unsafe({"mode": "full"})).participating, np.arange(UNITS))
