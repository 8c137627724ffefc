"""What the commands `epsilon` and `calibrate` answer."""

import json
from typing import Any

import pytest

from adpfl.errors import ConfigError
from adpfl.experiment.privacy_commands import (
    answer_rows,
    calibration_answer,
    epsilon_answer,
    threshold_of,
)

BASE: dict[str, Any] = {
    "mechanism": "laplace_l2",
    "dimension": 1_000_000,
    "sampling": "poisson",
    "sampling_probability": 0.1,
    "steps": 100,
    "delta": 1e-5,
}


def test_an_answer_holds_everything_it_refers_to() -> None:
    answer = json.loads(epsilon_answer(noise_multiplier=1.0, **BASE).model_dump_json())
    assert answer["epsilon"] == pytest.approx(7.97, abs=0.01)
    assert answer["accountant"] == "renyi"
    for key in ("mechanism", "delta", "unit", "neighboring_relation", "sampling", "steps", "threshold"):
        assert answer[key] is not None


def test_calibration_answers_with_noise_that_keeps_the_target() -> None:
    answer = calibration_answer(target_epsilon=7.97, **BASE)
    assert answer.epsilon <= 7.97
    assert answer.noise_multiplier == pytest.approx(1.0, rel=1e-3)


def test_rows_show_an_infinite_figure_with_its_companion() -> None:
    found = epsilon_answer(noise_multiplier=1.0, threshold=threshold_of("percentile"), **BASE)
    rows = dict(answer_rows(found))
    assert rows["epsilon"] == "inf"
    assert "not a guarantee of this run" in rows["epsilon_if_fixed"]
    assert "percentile" in rows["note"]


def test_rows_show_what_a_noisy_bit_leaves_to_the_gradient() -> None:
    found = epsilon_answer(noise_multiplier=2.0, threshold=threshold_of("noisy_bits"), **BASE)
    assert "2.04124 on the gradient" in dict(answer_rows(found))["noise multiplier"]


def test_threshold_options_reach_the_threshold() -> None:
    assert threshold_of("noisy_bits", bit_noise_ratio=4.0).bit_noise_ratio == 4.0  # type: ignore[union-attr]
    chosen = threshold_of("exponential", threshold_epsilon=0.1, refresh_steps=6)
    assert (chosen.epsilon, chosen.refresh_steps) == (0.1, 6)  # type: ignore[union-attr]
    assert threshold_of("slack").method == "slack"


@pytest.mark.parametrize(
    ("method", "options", "rule"),
    [
        ("median", {}, "--threshold is median; must be one of"),
        ("fixed", {"bit_noise_ratio": 2.0}, "--bit-noise-ratio is 2.0; goes with --threshold noisy_bits"),
        (
            "fixed",
            {"percentile": 50.0},
            "--percentile is 50.0; goes with --threshold percentile or noisy_bits",
        ),
        ("slack", {"percentile": 101.0}, "^--percentile is 101.0; must be"),
        ("exponential", {"refresh_steps": 3}, "--threshold-epsilon is missing"),
        ("exponential", {"threshold_epsilon": 0.1}, "--threshold-refresh-steps is missing"),
        ("noisy_bits", {"bit_noise_ratio": 0.1}, "^--bit-noise-ratio is 0.1; must be"),
    ],
)
def test_threshold_options_that_do_not_fit_are_named(method: str, options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        threshold_of(method, **options)
