"""The arms differ only where they claim to."""

import pytest

from adpfl.experiment.arms import ARMS, privacy_of_arm


@pytest.mark.parametrize("reading", ["multiplier", "multiplier_mean", "budget", "budget_n"])
def test_dp_fl_and_adp_fl_differ_only_in_the_threshold(reading):
    fixed = privacy_of_arm("dp-fl", reading=reading).model_dump()
    adaptive = privacy_of_arm("adp-fl", reading=reading).model_dump()
    assert {key for key in fixed if fixed[key] != adaptive[key]} == {"threshold"}
    assert fixed["threshold"]["method"] == "fixed"
    assert adaptive["threshold"]["method"] == "percentile"


def test_fl_shares_unit_and_sampling():
    plain, private = privacy_of_arm("fl"), privacy_of_arm("adp-fl")
    assert plain.mode == "none"
    assert (plain.unit, plain.sampling) == (private.unit, private.sampling)


@pytest.mark.parametrize("arm", ARMS)
def test_the_plan_calls_the_arm_by_its_name(arm, plan_of):
    assert plan_of(arm).arm == arm
