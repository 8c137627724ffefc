"""The least noise for a target: never above it, and no less noise would do."""

from typing import Any

import pytest

from adpfl.errors import ConfigError
from adpfl.privacy.accounting import guarantee
from adpfl.privacy.calibration import calibrate, resolve_noise, rigorous_multiplier
from adpfl.privacy.certificate import certify_configuration
from adpfl.privacy.plan import ExponentialThreshold, RigorousPrivacy

CONFIGURATIONS: list[dict[str, Any]] = [
    {"mechanism": "gaussian", "steps": 100},
    {"mechanism": "gaussian", "steps": 300, "sampling": "poisson", "sampling_probability": 0.05},
    {"mechanism": "laplace_l2", "steps": 300, "sampling": "poisson", "sampling_probability": 0.05},
    {"mechanism": "laplace_l1", "epochs": 20, "sampling": "partition", "sampling_probability": 0.1},
    {
        "mechanism": "gaussian",
        "steps": 50,
        "threshold": ExponentialThreshold(method="exponential", epsilon=0.05, refresh_steps=5),
    },
]


@pytest.mark.parametrize("target", [0.3, 8.0])
@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda chosen: chosen["mechanism"])
def test_never_above_the_target_and_no_less_noise_would_do(
    configuration: dict[str, Any], target: float
) -> None:
    common = {"dimension": 10_000, "delta": 1e-5, **configuration}
    found = calibrate(target_epsilon=target, **common)
    assert 0.999 * target < found.epsilon <= target
    less = certify_configuration(noise_multiplier=found.noise_multiplier * (1.0 - 2e-4), **common)
    assert less.epsilon > target


def test_the_known_figure_leads_back_to_its_noise() -> None:
    found = calibrate(target_epsilon=9.9973, mechanism="gaussian", dimension=10, delta=1e-5, steps=100)
    assert found.noise_multiplier == pytest.approx(5.0, rel=1e-4)


def test_a_target_that_the_weakest_noise_keeps_gets_the_weakest_noise() -> None:
    found = calibrate(target_epsilon=1e14, mechanism="laplace_l1", dimension=10, delta=1e-5, steps=1)
    assert found.noise_multiplier == 2.0**-21


@pytest.mark.parametrize("target", [0.0, -1.0, float("inf"), float("nan")])
def test_a_target_out_of_range_is_refused(target: float) -> None:
    with pytest.raises(ConfigError, match="target_epsilon is"):
        calibrate(target_epsilon=target, mechanism="gaussian", dimension=1, delta=1e-5, steps=1)


def test_a_target_below_what_the_threshold_alone_costs_is_refused() -> None:
    dear = ExponentialThreshold(method="exponential", epsilon=5.0, refresh_steps=1)
    with pytest.raises(ConfigError, match="target_epsilon is 1; noise of"):
        calibrate(
            target_epsilon=1.0, mechanism="gaussian", dimension=1, delta=1e-5, steps=100, threshold=dear
        )


def rigorous(**changes: Any) -> RigorousPrivacy:
    keys: dict[str, Any] = {
        "mode": "rigorous",
        "target_epsilon": 4.0,
        "total_steps": 60,
        "sampling": {"mode": "poisson", "probability": 0.2},
    }
    return RigorousPrivacy.model_validate(keys | changes)


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace_l2"])
def test_a_run_with_a_target_keeps_it_with_the_noise_that_is_drawn(mechanism: str) -> None:
    plan = rigorous(mechanism=mechanism)
    found = guarantee(plan, unit_count=200, dimension=5000, steps=60)
    assert 0.995 * 4.0 < found.epsilon <= 4.0
    assert found.target_epsilon == 4.0
    assert found.noise_multiplier == rigorous_multiplier(plan, 5000)
    assert found.threshold == "noisy_bits"


def test_every_site_finds_the_same_noise() -> None:
    plan = rigorous(mechanism="laplace_l2")
    assert resolve_noise(plan, 50, 1000) == resolve_noise(plan, 5000, 1000)


def test_a_target_needs_the_steps_it_is_spread_over() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.total_steps is missing"):
        resolve_noise(rigorous(total_steps=None), 100, 100)


def test_given_noise_is_taken_as_it_is() -> None:
    plan = rigorous(target_epsilon=None, total_steps=None, noise_multiplier=3.0)
    assert rigorous_multiplier(plan, 10) == 3.0
    noise = resolve_noise(plan, 10, 10)
    assert noise is not None
    assert noise.scale(2.0) == pytest.approx(2.0 * 3.0 * 1.0206, rel=1e-4)


def test_noise_that_no_lattice_carries_is_refused() -> None:
    plan = rigorous(target_epsilon=None, total_steps=None, noise_multiplier=1e9)
    with pytest.raises(ConfigError, match=r"privacy\.noise_multiplier for mechanism gaussian"):
        resolve_noise(plan, 10, 10)
