"""A plan as it was offered, and what it has cost."""

import json
import math

import pytest

from adpfl.errors import ConfigError, ProtocolError
from adpfl.privacy import accounting
from adpfl.privacy.ledger import Reservation
from adpfl.privacy.run_guarantee import spent_guarantee
from adpfl.wire.chunks import sha256_hex
from adpfl.wire.messages import RunOffer, RunStatus
from adpfl_client.rounds.local_run import read_plan

POISSON = {"mode": "poisson", "probability": 0.1}


def offer(text, run="derm"):
    return RunOffer(run, text, sha256_hex(text), RunStatus.RUNNING)


def test_the_plan_that_was_offered_is_the_plan_that_is_read(make_plan):
    plan = make_plan()
    assert read_plan(offer(plan.canonical_json())) == plan


def test_a_plan_that_reads_differently_here_is_of_another_version(make_plan):
    text = json.dumps(make_plan().model_dump(mode="json"), indent=1).encode()
    with pytest.raises(ProtocolError, match="different versions"):
        read_plan(offer(text))


def test_a_plan_under_a_false_name_is_refused(make_plan):
    with pytest.raises(ProtocolError, match="calls itself derm"):
        read_plan(offer(make_plan().canonical_json(), run="other"))


@pytest.mark.parametrize(("text", "error"), [(b"not json", ProtocolError), (b'{"run": "derm"}', ConfigError)])
def test_what_is_no_plan_is_refused(text, error):
    with pytest.raises(error, match="plan of run derm") as refusal:
        read_plan(offer(text))
    assert getattr(refusal.value, "rule", "plan") == "plan"


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_plan_nested_without_end_is_refused_and_not_followed(opening):
    with pytest.raises(ProtocolError, match="plan of run derm is nested too deeply"):
        read_plan(offer(opening * 100_000))


@pytest.mark.parametrize("depth", [300, 900])
def test_a_plan_with_a_deep_value_is_refused(make_plan, depth):
    text = make_plan().canonical_json()[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises((ProtocolError, ConfigError), match="plan of run derm"):
        read_plan(offer(text))


@pytest.fixture
def fixed_plan(make_plan):
    privacy = {
        "mode": "paper",
        "reading": "budget",
        "threshold": {"method": "fixed", "clip_norm": 1.0},
        "sampling": POISSON,
    }
    return make_plan(privacy=privacy)


def reservations(plan, attempts):
    return tuple(
        Reservation(
            id=f"r{index}",
            run=plan.run,
            plan_digest=plan.digest(),
            round_number=round_number,
            attempt=attempt,
            base_digest="a" * 64,
            data_set_id="set1",
            cohort="c",
            patients=50,
            first_step=0,
            steps=plan.local.steps,
            charges=accounting.charges(
                plan.privacy, unit_count=50, dimension=1000, steps=plan.local.steps, repeated=attempt > 1
            ),
        )
        for index, (round_number, attempt) in enumerate(attempts)
    )


def test_nothing_reserved_costs_nothing(fixed_plan):
    spent = spent_guarantee(fixed_plan.privacy, (), unit_count=50, dimension=1000)
    assert (spent.epsilon, spent.steps) == (0.0, 0)


def test_an_attempt_that_was_lost_costs_as_much_as_one_that_was_sent(fixed_plan):
    lost, sent = (
        spent_guarantee(fixed_plan.privacy, reservations(fixed_plan, made), unit_count=50, dimension=1000)
        for made in ([(1, 1), (1, 2)], [(1, 1), (2, 1)])
    )
    expected = accounting.guarantee(fixed_plan.privacy, unit_count=50, dimension=1000, steps=4)
    assert lost.epsilon == sent.epsilon == expected.epsilon > 0.0
    assert lost.steps == 4


def test_a_percentile_run_is_unbounded_and_carries_the_other_figure(make_plan):
    plan = make_plan()
    spent = spent_guarantee(plan.privacy, reservations(plan, [(1, 1)]), unit_count=50, dimension=1000)
    assert spent.epsilon == math.inf
    assert spent.epsilon_if_fixed is not None
    assert math.isfinite(spent.epsilon_if_fixed)
