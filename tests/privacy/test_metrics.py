"""A noised mean score: its size, its sensitivity, its noise, its price."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from adpfl.errors import PrivacyError
from adpfl.kernels.keystream import KeystreamKey
from adpfl.privacy import accounting
from adpfl.privacy.metrics import MetricPlan, release_mean

KEY = bytes(range(32))
METRIC = MetricPlan(epsilon=0.5, every_rounds=3)


def released(scores: list[float | None], *, metric: MetricPlan = METRIC, step: int = 0) -> float:
    with KeystreamKey.from_bytes(KEY) as key:
        return release_mean(scores, metric, key=key, step=step)


@pytest.mark.parametrize("other", [0.0, None, math.nan, -3.0, -math.inf])
def test_one_patient_moves_the_mean_by_at_most_one_nth(other: float | None) -> None:
    # The same key draws the same noise, so the difference is the contribution alone.
    others = [0.3, 0.9, 0.6]
    for score in (1.0, 7.5, math.inf):
        assert released([score, *others]) - released([other, *others]) == pytest.approx(1 / 4, rel=1e-6)


def test_a_clamped_score_never_exceeds_the_sensitivity() -> None:
    for epsilon in (1e-6, 0.3, 1.0, 64.0):
        lattice = MetricPlan(epsilon=epsilon).lattice()
        assert int(1.0 * lattice.sensitivity) == lattice.sensitivity
        assert lattice.inverse_noise_multiplier <= epsilon


@pytest.mark.parametrize(("scale", "accepted"), [(1.0, True), (0.9, False), (1.1, False)])
def test_the_noise_has_the_scale_that_is_charged(scale: float, accepted: bool) -> None:
    """Laplace noise of scale 1/(n*epsilon): by the mean absolute value of 4000 draws."""
    count, patients = 4000, 10
    noise = np.array([released([0.5] * patients, step=step) - 0.5 for step in range(count)])
    expected = scale / (patients * METRIC.epsilon)
    deviations = abs(np.abs(noise).mean() - expected) / (expected / math.sqrt(count))
    assert (deviations < 4.0) == accepted


def test_the_charge_is_the_requested_pure_epsilon_a_report() -> None:
    charge = METRIC.charge(reports=METRIC.reports(10))
    assert charge.count == 3
    assert accounting.pure_epsilon(charge.event) == pytest.approx(0.5, rel=1e-8)
    assert accounting.certify([charge], 1e-12).epsilon <= 1.5
    assert [METRIC.is_due(number) for number in (1, 3, 4, 6)] == [False, True, False, True]


def test_no_patients_no_report() -> None:
    with pytest.raises(PrivacyError, match="scores is empty"):
        released([])


@pytest.mark.parametrize(
    "change", [{"epsilon": 0.0}, {"epsilon": 65.0}, {"every_rounds": 0}, {"name": "loss"}]
)
def test_a_metric_that_breaks_a_rule_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MetricPlan.model_validate({"epsilon": 1.0} | change)
