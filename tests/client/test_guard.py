"""The policy against plans of every kind."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from adpfl.errors import BudgetError, ConfigError, PrivacyError
from adpfl.federated.run_plan import RunPlan
from adpfl.privacy.guarantee import shown_epsilon
from adpfl.privacy.ledger import Forecast, Spent
from adpfl_client.guard import RunCost, SitePolicy, check, check_metrics, check_update, require_records

PAPER = {
    "mode": "paper",
    "nominal_epsilon": 1.0,
    "reading": "multiplier",
    "threshold": {"method": "fixed", "clip_norm": 1.0},
    "sampling": {"mode": "full"},
}
NONE = {"mode": "none", "sampling": {"mode": "full"}}
PERCENTILE = PAPER | {"threshold": {"method": "percentile"}}
RECORDS = {"mode": "rigorous", "noise_multiplier": 3.0, "sampling": {"mode": "full"}, "unit": "record"}
SIGNED = {"run": "first", "reason": "public images", "by": "Dr. Ada"}

Checks = Callable[..., RunCost]


def run_plan(**changes: Any) -> RunPlan:
    document: dict[str, Any] = {
        "run": "first",
        "task": "skin_lesion",
        "image_size": (64, 64),
        "rounds": 2,
        "local": {"steps": 5, "learning_rate": 0.1},
        "cohort": {"sites": ("hospital1", "hospital2"), "quorum": 1},
        "privacy": PAPER,
    }
    return RunPlan.model_validate(document | changes)


def site_policy(**changes: Any) -> SitePolicy:
    document: dict[str, Any] = {
        "data_set_id": "clinic",
        "allowed_tasks": ("skin_lesion",),
        "epsilon_cap": 20.0,
    }
    return SitePolicy.model_validate(document | changes)


def checked(plan: RunPlan | None = None, policy: SitePolicy | None = None, **changes: Any) -> RunCost:
    arguments: dict[str, Any] = {
        "site": "hospital1",
        "training_patients": 50,
        "unit_count": 50,
        "dimension": 10**6,
    }
    return check(plan or run_plan(), policy or site_policy(), **(arguments | changes))


def test_the_whole_run_is_priced_before_the_site_joins() -> None:
    cost = checked()
    assert cost.guarantee.steps == 10
    assert cost.guarantee.epsilon == pytest.approx(19.047, abs=1e-3)
    text = "\n".join(cost.lines())
    for part in (
        "19.05 of a cap of 20",
        "unit patient",
        "zero-out",
        "sampling full",
        "laplace_l2",
        "10 steps",
    ):
        assert part in text
    assert "epsilon = 1 with reading multiplier; that names its noise and is no guarantee" in text
    assert cost.plan_digest in text
    again = checked(run_plan(rounds=5), site_policy(epsilon_cap=100.0)).patient_epsilon
    assert f"up to 3 rounds more, each charged: epsilon {shown_epsilon(again)} at most" in "\n".join(
        checked(policy=site_policy(epsilon_cap=100.0)).lines()
    )
    assert "each charged: epsilon 20 at most, never above the cap" in text


def test_the_cap_counts_at_the_policys_delta_not_at_the_plans() -> None:
    generous = run_plan(privacy=PAPER | {"delta": 0.001})
    assert checked(generous).guarantee.epsilon < checked(generous).at_policy.epsilon
    with pytest.raises(
        BudgetError, match=r"would cost epsilon 19\.05 at delta 1e-05 in 10 steps.*epsilon_cap is 18"
    ):
        checked(generous, site_policy(epsilon_cap=18.0))


@pytest.mark.parametrize(
    ("plan", "policy", "changes", "message"),
    [
        (
            run_plan(task="brain_tumor"),
            site_policy(),
            {},
            "task is brain_tumor; policy.allowed_tasks is skin_lesion",
        ),
        (run_plan(), site_policy(maximum_rounds=1), {}, "rounds is 2; policy.maximum_rounds is 1"),
        (
            run_plan(),
            site_policy(),
            {"training_patients": 9, "unit_count": 9},
            "9 patients; policy.minimum_patients is 10",
        ),
        (run_plan(), site_policy(), {"site": "hospital9"}, "cohort.sites does not name hospital9"),
        (run_plan(), site_policy(), {"unit_count": 60}, "60 units for 50 patients"),
    ],
)
def test_a_plan_against_the_policy_is_refused_with_the_rule(
    plan: RunPlan, policy: SitePolicy, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(plan, policy, **changes)


def test_records_may_outnumber_patients_where_the_record_is_the_unit() -> None:
    cost = checked(run_plan(privacy=PAPER | {"unit": "record"}), unit_count=60)
    assert cost.guarantee.unit == "record"


@pytest.mark.parametrize("privacy", [NONE, PERCENTILE], ids=["none", "percentile"])
def test_no_finite_guarantee_needs_a_signature_for_that_very_run(privacy: dict[str, Any]) -> None:
    plan = run_plan(privacy=privacy)
    with pytest.raises(
        BudgetError, match=r"run first has no finite guarantee .*accept_unbounded must name it"
    ):
        checked(plan)
    with pytest.raises(BudgetError):
        checked(plan, site_policy(accept_unbounded=(SIGNED | {"run": "other"},)))
    cost = checked(plan, site_policy(accept_unbounded=(SIGNED,)))
    assert cost.guarantee.epsilon == math.inf
    text = "\n".join(cost.lines())
    assert "epsilon infinite" in text
    assert "accepted without a finite guarantee by Dr. Ada: public images" in text
    assert ("not a guarantee of this run" in text) == (privacy is PERCENTILE)


def test_an_acceptance_that_a_finite_run_does_not_need_is_not_shown() -> None:
    cost = checked(policy=site_policy(accept_unbounded=(SIGNED,)))
    assert "accepted without" not in "\n".join(cost.lines())
    assert "19.05 of a cap of 20" in "\n".join(cost.lines())


def test_approval_by_hand_is_of_the_very_plan() -> None:
    plan = run_plan()
    with pytest.raises(
        BudgetError, match=f"approval of plan {plan.digest()} by: adpfl-client approve first; epsilon 19"
    ):
        checked(plan, site_policy(require_approval=True))
    approved = site_policy(require_approval=True, approved_plans=(plan.digest(),))
    assert checked(plan, approved).plan_digest == plan.digest()
    with pytest.raises(BudgetError, match="awaits approval"):
        checked(run_plan(seed=1), approved)


def test_approval_from_the_ledger_counts_like_one_in_the_file() -> None:
    plan, policy = run_plan(), site_policy(require_approval=True)
    assert checked(plan, policy, approved={plan.digest()}).plan_digest == plan.digest()
    with pytest.raises(BudgetError, match="awaits approval"):
        checked(plan, policy, approved={"0" * 64})


def test_excluded_patients_do_not_count_towards_the_minimum() -> None:
    policy = site_policy(minimum_patients=50)
    assert checked(policy=policy).guarantee.epsilon > 0
    with pytest.raises(ConfigError, match=r"would train on 49 patients; policy\.minimum_patients is 50"):
        checked(policy=policy, excluded=1)


@pytest.mark.parametrize("dedicated", [False, True])
def test_what_the_ledger_foresees_is_shown(dedicated: bool) -> None:
    text = "\n".join(checked(forecast=Forecast(19.5, dedicated=dedicated)).lines())
    assert "all runs on these patients stand at epsilon 19.5" in text
    assert ("no other run may ever follow on these patients" in text) == dedicated


def test_what_was_spent_before_is_shown() -> None:
    spent = Spent("clinic", math.inf, 3.25, 1e-5, 4, 1_800_000_000.0)
    text = "\n".join(checked(spent=spent).lines())
    assert "runs so far have spent 3.25" in text
    assert "no finite guarantee since 2027-01-15 08:00 UTC" in text


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        ({"w": (2, 3), "b": (3,), "extra": (1,)}, "extra is not part of the model"),
        ({"w": (2, 3)}, r"tensor b is missing; must have shape \[3\]"),
        ({"w": (3, 2), "b": (3,)}, r"tensor w is \[3, 2\]; must have shape \[2, 3\]"),
    ],
)
def test_nothing_but_the_update_leaves(offered: dict[str, tuple[int, ...]], message: str) -> None:
    base = {"w": (2, 3), "b": (3,)}
    check_update(base, base)
    with pytest.raises(PrivacyError, match=message):
        check_update(offered, base)


def test_metrics_leave_only_named_and_noised() -> None:
    policy = site_policy(allowed_metrics=("dice",))
    check_metrics({"dice": 0.7}, noised=frozenset({"dice"}), policy=policy)
    with pytest.raises(PrivacyError, match=r"metric loss is not in policy\.allowed_metrics"):
        check_metrics({"dice": 0.7, "loss": 0.123}, noised=frozenset({"dice", "loss"}), policy=policy)
    with pytest.raises(PrivacyError, match="metric dice was not noised") as refused:
        check_metrics({"dice": 0.123}, noised=frozenset(), policy=policy)
    assert "0.123" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon_cap": 0.0},
        {"delta": 1.0},
        {"minimum_patients": 0},
        {"allowed_tasks": ()},
        {"accept_unbounded": ({"run": "first", "reason": "", "by": "x"},)},
        {"accept_unbounded": (SIGNED, SIGNED)},
        {"approved_plans": ("abc",)},
        {"epsilon_limit": 3.0},
    ],
)
def test_a_policy_that_breaks_a_rule_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        site_policy(**change)


def test_noise_calibrated_to_another_length_is_no_plan() -> None:
    rigorous = {"mode": "rigorous", "target_epsilon": 8.0, "sampling": {"mode": "full"}}
    assert run_plan(privacy=rigorous | {"total_steps": 10}).arm == "rigorous"
    for steps in (9, 11, None):
        with pytest.raises(ValidationError, match="must be 10, rounds times local"):
            run_plan(privacy=rigorous | {"total_steps": steps})


def test_a_fixed_threshold_is_no_run_without_privacy() -> None:
    fixed = {"method": "fixed", "clip_norm": 1.0}
    rigorous = {"mode": "rigorous", "noise_multiplier": 3.0, "sampling": {"mode": "full"}, "threshold": fixed}
    assert [run_plan(privacy=one).arm for one in (rigorous, PAPER, PERCENTILE, NONE)] == [
        "rigorous",
        "dp-fl",
        "adp-fl",
        "fl",
    ]


def test_a_patient_with_more_records_than_the_plan_counts_is_refused() -> None:
    plan = run_plan(privacy=RECORDS | {"records_per_patient": 3})
    require_records(plan, 3)
    with pytest.raises(ConfigError, match="records_per_patient is 3; a patient here has 4"):
        require_records(plan, 4)


@pytest.mark.parametrize("privacy", [RECORDS, PAPER | {"unit": "record"}], ids=["rigorous", "paper"])
def test_a_plan_that_counts_records_in_silence_is_refused_where_a_patient_has_several(privacy: Any) -> None:
    plan = run_plan(privacy=privacy)
    require_records(plan, 1)
    with pytest.raises(ConfigError, match="records_per_patient is absent; a patient here has 40") as caught:
        require_records(plan, 40)
    assert caught.value.rule == "plan.unit"


def test_patients_and_unbounded_runs_are_not_counted_by_records() -> None:
    require_records(run_plan(privacy=PAPER), 40)
    require_records(run_plan(privacy=PERCENTILE | {"unit": "record"}), 40)
