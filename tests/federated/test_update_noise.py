"""The noise in a mean update, and the tau that follows from it."""

import math

import numpy as np
import pytest

from adpfl.config import parse
from adpfl.federated.run_plan import RunPlan
from adpfl.federated.update_noise import noise_gain, noise_in_mean_update
from adpfl.learning.plan import LocalPlan

GAUSSIAN = {
    "mode": "rigorous",
    "mechanism": "gaussian",
    "noise_multiplier": 2.0,
    "threshold": {"method": "fixed", "clip_norm": 0.5},
    "sampling": {"mode": "poisson", "probability": 0.25},
}
PAPER = {
    "mode": "paper",
    "reading": "multiplier_mean",
    "nominal_epsilon": 0.01,
    "threshold": {"method": "fixed", "clip_norm": 2.0},
    "sampling": {"mode": "full"},
}


def plan_of(privacy, **local):
    document = {
        "run": "demo",
        "task": "skin_lesion",
        "image_size": [64, 64],
        "rounds": 4,
        "local": {"steps": 1, "learning_rate": 0.1} | local,
        "cohort": {"sites": ["a", "b"], "quorum": 1},
        "privacy": privacy,
    }
    return parse(document, RunPlan, source="plan")


@pytest.mark.parametrize(
    "local",
    [
        {"steps": 1},
        {"steps": 20},
        {"steps": 20, "momentum": 0.9},
        {"steps": 20, "momentum": 0.5, "weight_decay": 0.3, "fedprox_mu": 0.2},
    ],
)
def test_the_gain_is_that_of_the_sites_own_descent(local):
    plan = LocalPlan(learning_rate=0.1, **local)
    generator = np.random.default_rng(0)
    moved = velocity = np.zeros(200_000)
    for _ in range(plan.steps):  # g' = g + weight_decay*w + mu*(w - w0), of noise alone
        noise = generator.standard_normal(moved.size)
        velocity = plan.momentum * velocity + noise + (plan.weight_decay + plan.fedprox_mu) * moved
        moved = moved - plan.learning_rate * velocity
    assert noise_gain(plan) == pytest.approx(moved.std(), rel=0.01)


def test_gaussian_noise_of_sites_of_different_size():
    plan = plan_of(GAUSSIAN, steps=4)
    # z*C / (q*n) in a step, four independent steps, weighted sites.
    deviations = [0.1 * 2.0 * (2.0 * 0.5) / (0.25 * n) for n in (40, 10)]
    expected = math.hypot(0.8 * deviations[0], 0.2 * deviations[1])
    assert noise_in_mean_update(plan, [(0.8, 40), (0.2, 10)]) == pytest.approx(expected, rel=1e-5)


def test_laplace_noise_of_scale_b_has_root_two_b_as_its_deviation():
    expected = 0.1 * math.sqrt(2) * 0.01 * 2.0
    assert noise_in_mean_update(plan_of(PAPER), [(1.0, 30)]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("privacy", "found"),
    [
        ({"mode": "none", "sampling": {"mode": "full"}}, 0.0),
        (PAPER | {"threshold": {"method": "percentile"}}, None),
        (GAUSSIAN | {"threshold": {"method": "noisy_bits"}}, None),
        (
            {key: value for key, value in GAUSSIAN.items() if key != "noise_multiplier"}
            | {"target_epsilon": 8.0, "total_steps": 4},
            None,
        ),
        (GAUSSIAN | {"mechanism": "registered:mine"}, None),
        (GAUSSIAN | {"noise_multiplier": 1e-12}, None),
    ],
    ids=["none", "percentile", "noisy bits", "target", "registered", "no lattice"],
)
def test_what_the_plan_does_not_know_is_not_guessed(privacy, found):
    assert noise_in_mean_update(plan_of(privacy), [(1.0, 30)]) == found


def test_a_descent_that_explodes_gives_no_figure():
    assert noise_in_mean_update(plan_of(GAUSSIAN, steps=2000, fedprox_mu=1000.0), [(1.0, 30)]) is None


@pytest.mark.parametrize(
    ("tau", "patients", "expected"),
    [(None, (8, 8), 0.1 * 1.0 / 2.0 / math.sqrt(2)), (None, (10**6, 10**6), 1e-3), (1e-5, (8, 8), 1e-5)],
    ids=["the noise", "the least", "the plan"],
)
def test_tau_is_no_less_than_the_noise_and_stands_in_the_record(federation, tau, patients, expected):
    rule = {"strategy": "fedadam"} | ({} if tau is None else {"tau": tau})
    run = federation(
        np.zeros(8, np.float32),
        sites=2,
        rounds=1,
        patients=patients,
        aggregation=rule,
        privacy=GAUSSIAN,
        local={"steps": 1, "learning_rate": 0.1},
    )
    run.play(np.ones(8, np.float32), np.ones(8, np.float32))
    assert run.closed[0].tau == pytest.approx(expected, rel=1e-5)
    assert run.asked[0].optimize.rule.tau == run.closed[0].tau
