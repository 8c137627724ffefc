"""`adpfl epsilon` and `adpfl calibrate` as they are typed: published figures, terms, one line on an error."""

import json
import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

from adpfl.errors import ConfigError
from adpfl.experiment.cli import app
from adpfl.experiment.figure_commands import CALIBRATE_EXAMPLE, EPSILON_EXAMPLE

EPSILON = (
    "epsilon --mechanism laplace_l2 --noise-multiplier 10 --dimension 1000000 --sampling poisson "
    "--sampling-probability 0.1 --steps 1000 --delta 1e-5"
)
SAMPLED = "--sampling poisson --sampling-probability"
CALIBRATE = "calibrate --target-epsilon 8 --delta 1e-5 --dimension 1000 --steps 100"


def typed(line: str) -> str:
    result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def figures(line: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(typed(f"{line} --json"))
    return answer


@pytest.mark.parametrize(
    ("options", "expected", "within", "accountant"),
    [
        (
            f"--mechanism gaussian --noise-multiplier 1 --dimension 1000 {SAMPLED} 0.01 --steps 1000",
            1.828,
            5e-4,
            "pld",
        ),
        (
            "--mechanism gaussian --noise-multiplier 5 --dimension 1000 --sampling full --steps 100",
            9.997,
            5e-4,
            "pld",
        ),
        (
            "--mechanism laplace_l1 --noise-multiplier 10 --dimension 1000 --sampling full --steps 100",
            4.220,
            5e-4,
            "pld",
        ),
        (
            "--mechanism laplace_l2 --noise-multiplier 10 --dimension 10000 --sampling full --steps 1000",
            19.05,
            0.01,
            "renyi",
        ),
        (
            f"--mechanism laplace_l2 --noise-multiplier 1 --dimension 1000000 {SAMPLED} 0.1 --steps 100",
            7.97,
            0.01,
            "renyi",
        ),
    ],
)
def test_published_figures(options: str, expected: float, within: float, accountant: str) -> None:
    answer = figures(f"epsilon {options} --delta 1e-5")
    assert answer["epsilon"] == pytest.approx(expected, abs=within)
    assert answer["accountant"] == accountant


@pytest.mark.parametrize("example", [EPSILON_EXAMPLE, CALIBRATE_EXAMPLE])
def test_the_examples_of_the_help_are_answered(example: str) -> None:
    assert "epsilon" in typed(example.removeprefix("Example: adpfl "))


def test_an_answer_as_json_and_in_words() -> None:
    answer = figures(EPSILON)
    assert 1.3 < answer["epsilon"] < 1.35
    terms = {"accountant", "unit", "neighboring_relation", "sampling", "steps", "mechanism", "threshold"}
    assert terms <= answer.keys()
    words = " ".join(typed(EPSILON).split())
    for part in ("delta 1e-05", "laplace_l2", "poisson, probability 0.1", "steps 1000", "zero-out"):
        assert part in words


def test_only_a_poisson_sample_is_amplified() -> None:
    partition = EPSILON.replace("poisson", "partition")
    assert figures(EPSILON)["epsilon"] < figures(partition)["epsilon"]


def test_epochs_are_counted_as_the_steps_they_are() -> None:
    by_epochs = figures(EPSILON.replace("--steps 1000", "--epochs 100"))
    assert by_epochs == figures(EPSILON)


def test_a_patient_of_several_records_is_protected_less() -> None:
    line = "epsilon --mechanism gaussian --noise-multiplier 5 --dimension 9 --steps 10 --delta 1e-5"
    several = figures(f"{line} --records-per-patient 3")
    assert several["epsilon"] > figures(line)["epsilon"]
    assert several["unit"] == "patient of at most 3 records"


def test_thresholds_cost_what_they_cost() -> None:
    line = "epsilon --mechanism gaussian --noise-multiplier 5 --dimension 9 --steps 10 --delta 1e-5"
    plain = figures(line)["epsilon"]
    bits = figures(f"{line} --threshold noisy_bits --percentile 80 --bit-noise-ratio 1")
    assert bits["gradient_noise_multiplier"] > bits["noise_multiplier"]
    assert bits["epsilon"] == pytest.approx(plain, rel=1e-6)
    choice = "--threshold exponential --threshold-epsilon 0.5 --threshold-refresh-steps 5"
    assert figures(f"{line} {choice}")["epsilon"] > plain
    ranked = figures(f"{line} --threshold percentile --percentile 50")
    assert ranked["epsilon"] == "inf"
    assert ranked["epsilon_if_fixed"] == pytest.approx(plain)
    assert "not a guarantee of this run" in " ".join(typed(f"{line} --threshold percentile").split())


def test_a_delta_that_suits_so_few_units_badly_is_told() -> None:
    line = "epsilon --mechanism gaussian --noise-multiplier 5 --dimension 9 --steps 10 --delta 0.1"
    assert not figures(f"{line} --units 9")["caveats"]
    assert "not below 1/10" in typed(f"{line} --units 10")


def test_calibration_returns_the_least_noise_that_keeps_the_target() -> None:
    found = figures(CALIBRATE)
    assert 7.99 < found["epsilon"] <= 8.0
    again = "epsilon --mechanism gaussian --dimension 1000 --steps 100 --delta 1e-5 --noise-multiplier"
    z = found["noise_multiplier"]
    assert figures(f"{again} {z}")["epsilon"] == found["epsilon"]
    assert figures(f"{again} {z * 0.999}")["epsilon"] > 8.0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"{EPSILON} --noise-multiplier -1", r"^--noise-multiplier is -1\.0; must be above 0"),
        (f"{EPSILON} --noise-multiplier 1e300", r"^--noise-multiplier is 1e\+300; must be"),
        (f"{EPSILON} --noise-multiplier nan", r"^--noise-multiplier is nan; must be"),
        (f"{EPSILON} --delta 2", r"^--delta is 2\.0; must be above 0 and below 1$"),
        (f"{EPSILON} --sampling-probability 7", r"^--sampling-probability is 7\.0; must be"),
        (f"{EPSILON} --dimension 0", "^--dimension is 0; must be at least 1$"),
        (f"{EPSILON} --steps 0", "^--steps is 0; must be at least 1$"),
        (f"{EPSILON} --epochs 3", "^--steps and --epochs: exactly one must be given$"),
        (f"{EPSILON} --units 0", "^--units is 0; must be at least 1$"),
        (f"{EPSILON} --records-per-patient 0", "^--records-per-patient is 0; must be at least 1$"),
        (
            f"{EPSILON} --sampling full",
            r"^--sampling-probability is 0\.1; must be 1 or absent with --sampling full$",
        ),
        (f"{EPSILON} --threshold slack --percentile 101", r"^--percentile is 101\.0; must be"),
        (f"{EPSILON} --threshold exponential", "^--threshold-epsilon is missing"),
        (
            f"{EPSILON} --mechanism laplace_l1 --threshold noisy_bits",
            "^--threshold noisy_bits adds Gaussian noise",
        ),
        (f"{CALIBRATE} --target-epsilon 0", r"^--target-epsilon is 0\.0; must be a finite number above 0$"),
        (f"{CALIBRATE} --target-epsilon 1e-9 --steps 100000000", r"^--target-epsilon is 1e-09; noise of"),
    ],
)
def test_a_bad_value_is_told_by_the_option_that_was_typed(line: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        typed(line)
