"""Steps of mode `rigorous`: each mechanism and threshold, on the lattice, resumable."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from adpfl.errors import PrivacyError
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import threshold_draw
from adpfl.privacy.accounting import charges
from adpfl.privacy.engine import EngineState, PrivacyEngine, ReleasedStep
from adpfl.privacy.events import ExponentialEvent, GaussianEvent
from adpfl.privacy.plan import RigorousPrivacy

UNITS, DIMENSION = 30, 12
ROWS = torch.randn(UNITS, DIMENSION, generator=torch.Generator().manual_seed(1))
EXPONENTIAL = {"method": "exponential", "epsilon": 1.0, "refresh_steps": 3}


def plan(**changes: Any) -> RigorousPrivacy:
    keys: dict[str, Any] = {"mode": "rigorous", "noise_multiplier": 1.0, "sampling": {"mode": "full"}}
    return RigorousPrivacy.model_validate(keys | changes)


def key(start: int = 0) -> KeystreamKey:
    return KeystreamKey.from_bytes(bytes(range(start, start + 32)))


def engine_for(
    chosen: RigorousPrivacy, *, state: EngineState | None = None, secret: KeystreamKey | None = None
) -> PrivacyEngine:
    return PrivacyEngine(chosen, unit_count=UNITS, dimension=DIMENSION, key=secret or key(), state=state)


def one_step(engine: PrivacyEngine, step: int = 0, rows: torch.Tensor = ROWS) -> ReleasedStep:
    indices = torch.from_numpy(engine.sample(step))
    return engine.release(step, [[rows[indices]]])


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace_l2", "laplace_l1"])
@pytest.mark.parametrize("threshold", [{"method": "fixed", "clip_norm": 1.0}, {"method": "slack"}])
def test_the_mean_is_clipped_in_the_mechanisms_norm(mechanism: str, threshold: dict[str, Any]) -> None:
    step = one_step(engine_for(plan(mechanism=mechanism, threshold=threshold, noise_multiplier=2.0**-10)))
    order = 1 if mechanism == "laplace_l1" else 2
    lengths = torch.linalg.vector_norm(ROWS.double(), ord=order, dim=1, keepdim=True)
    expected = (ROWS.double() / lengths.clamp(min=1.0)).mean(0)
    assert step.mean_gradient.shape == (DIMENSION,)
    assert torch.allclose(step.mean_gradient.double(), expected, atol=1e-3)
    assert step.norms == pytest.approx(lengths[:, 0].numpy())


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace_l2", "laplace_l1"])
def test_the_noise_has_the_law_and_scale_that_it_is_said_to_have(mechanism: str) -> None:
    chosen = plan(mechanism=mechanism, noise_multiplier=3.0, threshold={"method": "fixed", "clip_norm": 0.25})
    engine = PrivacyEngine(chosen, unit_count=2, dimension=40_000, key=key())
    engine.sample(0)
    step = engine.release(0, [[torch.zeros(2, 40_000)]])
    assert step.noise_scale == pytest.approx(0.75)
    noise = step.mean_gradient.double().numpy() * 2 / 0.75
    law, other = (stats.norm, stats.laplace) if mechanism == "gaussian" else (stats.laplace, stats.norm)
    assert stats.kstest(noise, law.cdf).pvalue > 1e-3
    assert stats.kstest(noise, other.cdf).pvalue < 1e-6
    assert stats.kstest(noise * 1.04, law.cdf).pvalue < 1e-3


def test_noisy_bits_leave_a_little_less_room_for_the_gradient() -> None:
    step = one_step(engine_for(plan(noise_multiplier=3.0)))
    assert step.noise_scale == pytest.approx(3.0 * 1.0206, rel=1e-4)
    event = charges(plan(noise_multiplier=3.0), unit_count=UNITS, dimension=DIMENSION, steps=1)[0].event
    assert isinstance(event, GaussianEvent)
    assert event.signal == pytest.approx(1 / 3.0, rel=1e-5)
    assert event.signal <= 1 / 3.0 * (1 + 1e-9)
    assert event.bit_sensitivity == math.floor(2**20 / 15.0)


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace_l2"])
def test_c_of_the_next_step_follows_the_noised_bits(mechanism: str) -> None:
    engine = engine_for(plan(mechanism=mechanism, noise_multiplier=1.0))
    step = one_step(engine)
    draw = threshold_draw(key(), scale_bits=20, step=0)
    half_units = int(np.sum(np.where(step.norms <= 1.0, 1, -1)))
    bit = math.floor(2**20 / 5.0)
    share = (2 * bit * half_units + draw) / (4 * bit) / UNITS + 0.5
    released = engine.state.threshold.last_clip_norm
    assert released == pytest.approx(math.exp(-0.2 * (share - 0.5)), rel=1e-12)
    assert one_step(engine, 1).clip_norm == released


@pytest.mark.parametrize("threshold", [{"method": "noisy_bits"}, {"method": "slack"}, EXPONENTIAL])
@pytest.mark.parametrize("mechanism", ["gaussian", "laplace_l2"])
def test_a_run_cut_in_two_goes_on_as_if_it_were_one(mechanism: str, threshold: dict[str, Any]) -> None:
    chosen = plan(mechanism=mechanism, threshold=threshold)
    whole, first = engine_for(chosen), engine_for(chosen)
    expected = [one_step(whole, step) for step in range(5)]
    found = [one_step(first, step) for step in range(2)]
    saved = EngineState.model_validate_json(first.state.model_dump_json())
    # A second engine under a key of the same bytes; in production it would be a fresh one.
    second = engine_for(chosen, state=saved)
    found += [one_step(second, step) for step in range(2, 5)]
    for one, other in zip(expected, found, strict=True):
        assert one.clip_norm == other.clip_norm
        assert torch.equal(one.mean_gradient, other.mean_gradient)
    assert second.state == whole.state


@pytest.mark.parametrize("threshold", [{"method": "noisy_bits"}, {"method": "slack"}])
def test_thresholds_follow_the_gradients_without_looking_at_them_raw(threshold: dict[str, Any]) -> None:
    engine = engine_for(plan(threshold=threshold, noise_multiplier=0.05))
    for step in range(60):
        released = one_step(engine, step, rows=20.0 * ROWS)
    median = float(np.median(released.norms))
    assert released.clip_norm == pytest.approx(median, rel=0.25)


@pytest.mark.parametrize("threshold", [{"method": "noisy_bits"}, {"method": "slack"}])
def test_an_empty_sample_moves_c_by_noise_and_a_missing_half_alone(threshold: dict[str, Any]) -> None:
    chosen = plan(threshold=threshold, sampling={"mode": "poisson", "probability": 1e-9})
    engine = engine_for(chosen)
    engine.sample(0)
    step = engine.release(0, [])
    assert torch.count_nonzero(step.mean_gradient) == DIMENSION
    assert engine.state.threshold.last_clip_norm is not None


@pytest.mark.parametrize("threshold", [{"method": "noisy_bits"}, {"method": "slack"}])
def test_nan_units_add_nothing_to_a_threshold(threshold: dict[str, Any]) -> None:
    broken = ROWS.clone()
    broken[3] = math.nan
    zeroed = ROWS.clone()
    zeroed[3] = 0.0
    engines = engine_for(plan(threshold=threshold)), engine_for(plan(threshold=threshold))
    steps = [one_step(engine, rows=rows) for engine, rows in zip(engines, (broken, zeroed), strict=True)]
    assert torch.equal(steps[0].mean_gradient, steps[1].mean_gradient)
    assert engines[0].state.threshold == engines[1].state.threshold
    assert steps[0].nonfinite == 1


def test_the_noise_of_a_bit_is_the_lattice_gaussian_and_not_one_two_percent_off() -> None:
    secret, count = key(3), 30_000
    drawn = np.array([threshold_draw(secret, scale_bits=10, step=step) for step in range(count)])
    assert np.all(drawn % 2 != 0)
    # Exact bins: 2y is odd and edges are even, so no draw lies on one; the law is summed on the lattice.
    y = np.arange(-8 * 1024, 8 * 1024) + 0.5
    law = np.exp(-0.5 * np.square(y / 1024))
    edges = 2 * (1024 * stats.norm.ppf(np.linspace(0, 1, 13)[1:-1])).astype(int)
    cells = np.bincount(np.searchsorted(edges, 2 * y), weights=law / law.sum(), minlength=12)
    counts = np.bincount(np.searchsorted(edges, drawn), minlength=12)
    assert stats.chisquare(counts, count * cells).pvalue > 1e-3
    squares = float(np.sum(np.square(drawn / 2048.0)))  # draws are 2y, of deviation 2 * 2^10
    for scale, accepted in ((1.0, True), (1.02, False), (0.98, False)):
        place = float(stats.chi2.cdf(squares / scale**2, count))
        assert (1e-4 < place < 1.0 - 1e-4) is accepted


def test_an_exponential_choice_serves_until_the_next_is_due() -> None:
    engine = engine_for(plan(threshold=EXPONENTIAL))
    chosen = [one_step(engine, step).clip_norm for step in range(7)]
    assert chosen[0] == chosen[1] == chosen[2]
    assert chosen[3] == chosen[4] == chosen[5]
    assert len({chosen[0], chosen[3], chosen[6]}) > 1


def test_an_exponential_choice_over_a_sample_needs_all_units_first() -> None:
    chosen = plan(threshold=EXPONENTIAL, sampling={"mode": "poisson", "probability": 0.3})
    engine = engine_for(chosen)
    assert engine.needs_all_units(0)
    engine.sample(0)
    with pytest.raises(PrivacyError, match="needs choose_threshold over all units"):
        engine.release(0, [[ROWS[:1]]])
    with pytest.raises(PrivacyError, match="must hold all 30"):
        engine.choose_threshold(0, [[ROWS[:5]]])
    picked = engine.choose_threshold(0, [[ROWS]])
    assert not engine.needs_all_units(0)
    with pytest.raises(PrivacyError, match="each is made once"):
        engine.choose_threshold(0, [[ROWS]])
    assert one_step(engine).clip_norm == picked
    assert not engine.needs_all_units(1)


@pytest.mark.parametrize(
    ("first", "steps", "choices"), [(0, 7, 3), (0, 3, 1), (3, 3, 1), (4, 2, 0), (2, 2, 1)]
)
def test_choices_are_charged_where_they_fall(first: int, steps: int, choices: int) -> None:
    spent = charges(
        plan(threshold=EXPONENTIAL), unit_count=UNITS, dimension=DIMENSION, steps=steps, first_step=first
    )
    counts = [charge.count for charge in spent if isinstance(charge.event, ExponentialEvent)]
    assert counts == [choices]
