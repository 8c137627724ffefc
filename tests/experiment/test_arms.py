"""The arms differ only where they claim to."""

import pytest

from adpfl.experiment.arms import ARMS, privacy_of_arm
from adpfl_client.guard import SitePolicy


@pytest.mark.parametrize("reading", ["multiplier", "multiplier_mean", "budget", "budget_n"])
def test_dp_fl_and_adp_fl_differ_only_in_the_threshold(reading):
    fixed = privacy_of_arm("dp-fl", reading=reading).model_dump()
    adaptive = privacy_of_arm("adp-fl", reading=reading).model_dump()
    assert {key for key in fixed if fixed[key] != adaptive[key]} == {"threshold"}
    assert fixed["threshold"]["method"] == "fixed"
    assert adaptive["threshold"]["method"] == "percentile"


def test_fl_shares_unit_and_sampling():
    plain, private = privacy_of_arm("fl"), privacy_of_arm("adp-fl")
    rigorous = privacy_of_arm("rigorous", total_steps=60)
    assert (plain.mode, rigorous.mode) == ("none", "rigorous")
    for other in (private, rigorous):
        assert (plain.unit, plain.sampling) == (other.unit, other.sampling)


def test_the_rigorous_arm_aims_at_what_a_policy_allows_by_default():
    privacy = privacy_of_arm("rigorous", total_steps=60)
    policy = SitePolicy(data_set_id="lesions", allowed_tasks=("skin_lesion",))
    assert (privacy.target_epsilon, privacy.delta) == (policy.epsilon_cap, policy.delta)
    assert (privacy.mechanism, privacy.threshold.method) == ("gaussian", "noisy_bits")


@pytest.mark.parametrize("arm", ARMS)
def test_the_plan_calls_the_arm_by_its_name(arm, plan_of):
    assert plan_of(arm).arm == arm
