"""What a plan may say of a strategy, and what it writes of its own."""

import json

import pytest

from adpfl.config import parse
from adpfl.errors import ConfigError
from adpfl.federated.aggregation_plan import AggregationPlan
from adpfl.federated.run_plan import RunPlan


def plan_of(aggregation, *, quorum=5, fedprox_mu=0.0):
    document = {
        "run": "demo",
        "task": "skin_lesion",
        "image_size": [64, 64],
        "rounds": 4,
        "local": {"steps": 1, "learning_rate": 0.1, "fedprox_mu": fedprox_mu},
        "aggregation": aggregation,
        "cohort": {"sites": [f"s{n}" for n in range(8)], "quorum": quorum},
        "privacy": {"mode": "none", "sampling": {"mode": "full"}},
    }
    return parse(document, RunPlan, source="plan")


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
def test_parameters_that_are_left_out_are_written_into_the_plan(strategy):
    plan = plan_of({"strategy": strategy, "beta1": 0.5})
    written = json.loads(plan.canonical_json())["aggregation"]
    assert written == {
        "strategy": strategy,
        "weights": "uniform",
        "server_learning_rate": 0.01,
        "beta1": 0.5,
        "beta2": 0.99,
    }
    again = parse(json.loads(plan.canonical_json()), RunPlan, source="plan")
    assert again == plan
    assert RunPlan.model_validate_json(plan.model_dump_json()) == plan


def test_fedavg_keeps_the_canonical_form_that_it_always_had():
    assert json.loads(plan_of({}).canonical_json())["aggregation"] == {
        "strategy": "fedavg",
        "weights": "uniform",
    }


@pytest.mark.parametrize(
    ("strategy", "updates", "trimmed"),
    [
        ({"strategy": "fedavg"}, 9, None),
        ({"strategy": "fedadam"}, 9, None),
        ({"strategy": "median"}, 9, 4),
        ({"strategy": "median"}, 8, 3),
        ({"strategy": "trimmed_mean"}, 9, 1),
        ({"strategy": "trimmed_mean"}, 10, 2),
        ({"strategy": "trimmed_mean", "trim_fraction": 0.29}, 100, 29),
    ],
)
def test_how_many_values_are_left_out(strategy, updates, trimmed):
    assert AggregationPlan.model_validate(strategy).trimmed(updates) == trimmed


@pytest.mark.parametrize(
    ("aggregation", "said"),
    [
        ({"strategy": "krum"}, "aggregation.strategy is 'krum'"),
        ({"strategy": ["median"]}, "aggregation.strategy"),
        ({"tau": 0.1}, "tau is 0.1; must be absent with strategy fedavg"),
        (
            {"strategy": "median", "trim_fraction": 0.1},
            "trim_fraction is 0.1; must be absent with strategy median",
        ),
        ({"strategy": "fedadam", "trim_fraction": 0.1}, "trim_fraction is 0.1; must be absent with"),
        (
            {"strategy": "trimmed_mean", "beta1": 0.1},
            "beta1 is 0.1; must be absent with strategy trimmed_mean",
        ),
        ({"strategy": "trimmed_mean", "trim_fraction": 0.5}, "aggregation.trim_fraction is 0.5"),
        ({"strategy": "fedadam", "beta2": 1.0}, "aggregation.beta2 is 1.0"),
        ({"strategy": "fedadam", "tau": 0.0}, "aggregation.tau is 0.0"),
        ({"strategy": "fedadam", "server_learning_rate": -1.0}, "aggregation.server_learning_rate is -1.0"),
        (
            {"strategy": "median", "weights": "patients"},
            "weights is patients; must be uniform with strategy median",
        ),
        ({"strategy": "trimmed_mean", "weights": "patients"}, "must be uniform with strategy trimmed_mean"),
        ({"strategy": "fedprox"}, "local.fedprox_mu is 0.0; must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(aggregation, said):
    with pytest.raises(ConfigError, match=said):
        plan_of(aggregation)


@pytest.mark.parametrize(
    ("aggregation", "quorum", "said"),
    [
        ({"strategy": "median"}, 2, "leaves nothing out of 2 updates.*cohort.quorum must be at least 3"),
        ({"strategy": "trimmed_mean"}, 4, "trim_fraction must be at least 0.25, one in 4"),
    ],
)
def test_a_robust_mean_that_would_be_the_plain_one_is_refused(aggregation, quorum, said):
    with pytest.raises(ConfigError, match=said):
        plan_of(aggregation, quorum=quorum)
    plan_of(aggregation, quorum=quorum + 1)


def test_fedprox_is_fedavg_with_the_term():
    assert plan_of({"strategy": "fedprox"}, fedprox_mu=0.01).aggregation.trimmed(8) is None
