"""Every refusal of the policy and of the ledger, and the one code that the server hears of it."""

from dataclasses import replace

import pytest

from adpfl.errors import BudgetError, ConfigError
from adpfl.learning.initial_model import build_network
from adpfl.privacy.ledger import AcceptUnbounded, LedgerPolicy, SpendRequest
from adpfl.privacy.plan import FixedThreshold, PaperPrivacy, PercentileThreshold, RigorousPrivacy, Sampling
from adpfl.tasks.registry import get_task
from adpfl_client.guard import check, require_records
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.public_reason import public_reason

FULL = {"mode": "full"}
FIXED = {"method": "fixed", "clip_norm": 1.0}
COSTLY = {
    "mode": "paper",
    "reading": "multiplier",
    "nominal_epsilon": 0.01,
    "threshold": FIXED,
    "sampling": FULL,
}
RECORDS = {
    "mode": "rigorous",
    "noise_multiplier": 3.0,
    "unit": "record",
    "records_per_patient": 3,
    "threshold": FIXED,
    "sampling": FULL,
}


@pytest.mark.parametrize(
    ("plan", "policy", "site", "code"),
    [
        ({}, {}, {"site": "hospital9"}, "plan.cohort"),
        ({}, {"allowed_tasks": ["other"]}, {}, "policy.allowed_tasks"),
        ({}, {"maximum_rounds": 1}, {}, "policy.maximum_rounds"),
        ({}, {"minimum_patients": 99}, {}, "policy.minimum_patients"),
        ({}, {}, {"unit_count": 60}, "plan.unit"),
        ({}, {"accept_unbounded": []}, {}, "policy.accept_unbounded"),
        ({"privacy": COSTLY}, {}, {}, "policy.epsilon_cap"),
        ({}, {"require_approval": True}, {}, "policy.approved_plans"),
    ],
)
def test_a_refusal_of_the_policy_sends_its_code(make_plan, make_config, plan, policy, site, code):
    arguments = {"site": "hospital1", "training_patients": 50, "unit_count": 50, "dimension": 1000}
    with pytest.raises((BudgetError, ConfigError)) as refused:
        check(make_plan(**plan), make_config(**policy).policy, **(arguments | site))
    assert public_reason(refused.value) == code


def test_too_many_records_of_a_patient_send_the_code_of_the_unit(make_plan):
    with pytest.raises(ConfigError) as refused:
        require_records(make_plan(privacy=RECORDS), 4)
    assert public_reason(refused.value) == "plan.unit"


@pytest.mark.parametrize("size", [[32, 32, 32], [33, 32]])
def test_an_image_size_that_does_not_fit_sends_the_code_of_the_plan(make_plan, size):
    with pytest.raises(ConfigError) as refused:
        build_network(make_plan(image_size=size), get_task("skin_lesion"))
    assert public_reason(refused.value) == "plan"


NOW = 1_800_000_000.0
PAPER = PaperPrivacy(
    mode="paper",
    nominal_epsilon=10.0,
    reading="multiplier",
    threshold=FixedThreshold(method="fixed", clip_norm=1.0),
    sampling=Sampling(mode="full"),
)
ADAPTIVE = PAPER.model_copy(update={"threshold": PercentileThreshold(method="percentile")})
RIGOROUS = RigorousPrivacy(
    mode="rigorous",
    noise_multiplier=10.0,
    threshold=FixedThreshold(method="fixed", clip_norm=1.0),
    sampling=Sampling(mode="full"),
)
REQUEST = SpendRequest(
    run="first",
    plan_digest="a" * 64,
    privacy=PAPER,
    round_number=1,
    base_digest="b" * 64,
    data_set_id="clinic",
    patients=("ann", "bob"),
    unit_count=2,
    dimension=1000,
    first_step=0,
    steps=1,
    planned_steps=2,
    planned_rounds=2,
)
POLICY = LedgerPolicy(
    epsilon_cap=20.0, delta=1e-5, accept_unbounded=(AcceptUnbounded(run="open", reason="test", by="Ada"),)
)
OPEN = replace(REQUEST, run="open", plan_digest="c" * 64, privacy=ADAPTIVE)


@pytest.fixture
def ledger(tmp_path):
    with LedgerStore.open(tmp_path, NOW) as store:
        yield store


@pytest.mark.parametrize(
    ("before", "request_", "policy", "at", "code"),
    [
        ((), REQUEST, POLICY.model_copy(update={"epsilon_cap": 0.01}), 0, "policy.epsilon_cap"),
        (
            (REQUEST,),
            replace(REQUEST, round_number=2),
            POLICY.model_copy(update={"epsilon_cap": 0.01}),
            0,
            "policy.epsilon_cap",
        ),
        ((), replace(OPEN, run="other"), POLICY, 0, "policy.accept_unbounded"),
        ((OPEN,), replace(REQUEST, privacy=RIGOROUS), POLICY, 0, "policy.allow_rigorous_after_unbounded"),
        ((), REQUEST, POLICY, -3600, "ledger.clock"),
        ((), replace(REQUEST, round_number=3), POLICY, 0, "plan"),
        ((), replace(REQUEST, planned_steps=0), POLICY, 0, "plan"),
    ],
)
def test_a_refusal_of_the_ledger_sends_its_code(ledger, before, request_, policy, at, code):
    for earlier in before:
        ledger.reserve(earlier, POLICY, now=NOW)
    with pytest.raises((BudgetError, ConfigError)) as refused:
        ledger.reserve(request_, policy, now=NOW + at)
    assert public_reason(refused.value) == code


def test_a_cap_dedicated_to_another_plan_sends_its_code(ledger):
    """A plan calibrated to the very cap fits it only as a whole."""
    exact = RigorousPrivacy(
        mode="rigorous",
        target_epsilon=POLICY.epsilon_cap,
        total_steps=2,
        threshold=FixedThreshold(method="fixed", clip_norm=1.0),
        sampling=Sampling(mode="full"),
    )
    whole = replace(REQUEST, privacy=exact)
    assert ledger.foresee(whole, POLICY).dedicated
    ledger.reserve(whole, POLICY, now=NOW)
    with pytest.raises(BudgetError) as refused:
        ledger.reserve(replace(REQUEST, run="second", plan_digest="d" * 64), POLICY, now=NOW)
    assert public_reason(refused.value) == "ledger.dedicated"
