"""Behaviour of a step as a whole: what is released, what is carried on, what is refused."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from adpfl.errors import PrivacyError, StateError
from adpfl.kernels.keystream import KeystreamKey
from adpfl.privacy.engine import EngineState, PrivacyEngine, ReleasedStep
from adpfl.privacy.plan import PaperPrivacy, PrivacyPlan, Sampling, UnsafeNonePrivacy

Plans = Callable[..., PaperPrivacy]
DIMENSION = 12
UNITS = 20


class Gradients:
    """Fixed gradients of chosen units in chunks; counts how often they were computed."""

    def __init__(self, indices: np.ndarray, *, chunk: int = 100, scale: float = 1.0) -> None:
        self.rows = scale * table()[torch.from_numpy(indices)]
        self.chunk = chunk
        self.passes = 0

    def __iter__(self) -> Iterator[list[Tensor]]:
        self.passes += 1
        for start in range(0, len(self.rows), self.chunk):
            rows = self.rows[start : start + self.chunk]
            yield [rows[:, :8].reshape(-1, 2, 4), rows[:, 8:]]


def table() -> Tensor:
    return torch.randn(UNITS, DIMENSION, generator=torch.Generator().manual_seed(0))


def engine_for(
    plan: PrivacyPlan, *, state: EngineState | None = None, key: KeystreamKey | None = None
) -> PrivacyEngine:
    key = key or KeystreamKey.from_bytes(bytes(range(32)))
    return PrivacyEngine(plan, unit_count=UNITS, dimension=DIMENSION, key=key, state=state)


def one_step(engine: PrivacyEngine, step: int = 0, **gradients: float) -> ReleasedStep:
    return engine.release(step, Gradients(engine.sample(step), **gradients))


def test_mean_is_the_clipped_sum_over_the_public_divisor(paper_plan: Plans) -> None:
    plan = paper_plan(nominal_epsilon=2.0**-20, sampling=Sampling(mode="poisson", probability=0.5))
    engine = engine_for(plan)
    indices = engine.sample(0)
    step = engine.release(0, Gradients(indices))
    rows = table()[torch.from_numpy(indices)].double()
    clipped = rows / rows.norm(dim=1, keepdim=True).clamp(min=1.0)
    # Divided by q*n = 10, never by the secret number of sampled units; noise of a millionth is left in.
    assert step.mean_gradient.dtype == torch.float32
    assert torch.allclose(step.mean_gradient.double(), clipped.sum(0) / 10, atol=1e-5)
    assert step.units == len(indices) == len(step.norms)
    assert step.clipped == int((rows.norm(dim=1) > 1).sum())
    assert step.noise_scale == pytest.approx(2.0**-20)


def test_noise_has_the_scale_it_is_said_to_have(paper_plan: Plans) -> None:
    plan = paper_plan(nominal_epsilon=3.0, threshold={"method": "fixed", "clip_norm": 0.25})
    key = KeystreamKey.from_bytes(bytes(range(32)))
    engine = PrivacyEngine(plan, unit_count=4, dimension=40_000, key=key)
    engine.sample(0)
    step = engine.release(0, [[torch.zeros(4, 40_000)]])
    spread = float(step.mean_gradient.abs().double().mean()) * 4  # mean absolute value of Laplace(b) is b
    assert step.noise_scale == pytest.approx(0.75)
    assert spread == pytest.approx(0.75, rel=0.02)


def test_an_empty_sample_is_released_as_noise_and_counts_as_a_step(paper_plan: Plans) -> None:
    plan = paper_plan(sampling=Sampling(mode="poisson", probability=1e-9))
    engine = engine_for(plan)
    assert engine.sample(0).size == 0
    step = engine.release(0, [])
    assert step.units == 0
    assert torch.count_nonzero(step.mean_gradient) == DIMENSION
    assert engine.state.steps_taken == 1


def test_percentile_ranks_all_chunks_before_the_first_clip(paper_plan: Plans) -> None:
    plan = paper_plan(threshold={"method": "percentile", "percentile": 25})
    whole, pieces = engine_for(plan), engine_for(plan)
    in_one = Gradients(whole.sample(0))
    in_many = Gradients(pieces.sample(0), chunk=3)
    first, second = whole.release(0, in_one), pieces.release(0, in_many)
    assert torch.equal(first.mean_gradient, second.mean_gradient)
    assert first.clip_norm == second.clip_norm == np.sort(first.norms)[4]
    assert (in_one.passes, in_many.passes) == (1, 2)


def test_fixed_threshold_computes_gradients_once(paper_plan: Plans) -> None:
    engine = engine_for(paper_plan())
    gradients = Gradients(engine.sample(0), chunk=3)
    engine.release(0, gradients)
    assert gradients.passes == 1


def test_percentile_follows_the_gradients(paper_plan: Plans) -> None:
    engine = engine_for(paper_plan(threshold={"method": "percentile"}))
    large, small = one_step(engine, 0, scale=10.0), one_step(engine, 1, scale=0.1)
    assert large.clip_norm == pytest.approx(100 * small.clip_norm, rel=1e-5)
    assert large.noise_scale == pytest.approx(100 * small.noise_scale, rel=1e-5)


def test_mode_none_is_the_plain_mean() -> None:
    plan = UnsafeNonePrivacy(mode="none", sampling=Sampling(mode="full"))
    engine = PrivacyEngine(plan, unit_count=UNITS, dimension=DIMENSION, key=None)
    step = one_step(engine, chunk=7)
    assert torch.allclose(step.mean_gradient, table().mean(0), atol=1e-6)
    assert (step.clip_norm, step.noise_scale, step.clipped) == (None, None, 0)


def test_a_step_is_released_once(paper_plan: Plans) -> None:
    engine = engine_for(paper_plan())
    one_step(engine)
    with pytest.raises(PrivacyError, match="step is 0"):
        engine.release(0, [])
    with pytest.raises(PrivacyError, match="step is 0; must be above 0"):
        engine.sample(0)


def test_two_engines_never_share_the_noise_of_a_key(paper_plan: Plans) -> None:
    key = KeystreamKey.fresh()
    one_step(engine_for(paper_plan(), key=key))
    with pytest.raises(PrivacyError, match="step"):
        one_step(engine_for(paper_plan(), key=key))


@pytest.mark.parametrize("rows", [UNITS - 1, UNITS + 1])
@pytest.mark.parametrize("threshold", [{"method": "percentile"}, {"method": "fixed", "clip_norm": 1.0}])
def test_rows_must_be_the_sampled_units(paper_plan: Plans, rows: int, threshold: dict[str, object]) -> None:
    engine = engine_for(paper_plan(threshold=threshold))
    engine.sample(0)
    with pytest.raises(PrivacyError, match=f"hold {rows} units; must hold the 20 sampled ones"):
        engine.release(0, [[torch.zeros(rows, DIMENSION)]])


def test_a_one_shot_iterator_that_cannot_be_read_twice_is_found_out(paper_plan: Plans) -> None:
    engine = engine_for(paper_plan(threshold={"method": "percentile"}))
    once = iter(Gradients(engine.sample(0), chunk=3))
    with pytest.raises(PrivacyError, match="hold 0 units"):
        engine.release(0, once)


def test_epochs_go_on_over_rounds_under_fresh_keys() -> None:
    plan = UnsafeNonePrivacy(mode="none", sampling=Sampling(mode="partition", probability=0.25))
    state, seen = None, []
    for _ in range(2):  # two rounds of three steps: one epoch of four and a half
        engine = engine_for(plan, state=state, key=KeystreamKey.fresh())
        for step in range(3):
            seen.append(engine.sample(step))
            engine.release(step, Gradients(seen[-1]))
        state = EngineState.model_validate_json(engine.state.model_dump_json())
    assert sorted(np.concatenate(seen[:4]).tolist()) == list(range(UNITS))
    assert set(seen[4].tolist()).isdisjoint(seen[5].tolist())


def test_state_of_other_units_is_refused(paper_plan: Plans) -> None:
    engine = engine_for(paper_plan())
    one_step(engine)
    with pytest.raises(StateError, match="unit_count is 21; must be 20"):
        PrivacyEngine(
            paper_plan(), unit_count=21, dimension=DIMENSION, key=KeystreamKey.fresh(), state=engine.state
        )


def test_noise_without_a_key_is_refused(paper_plan: Plans) -> None:
    with pytest.raises(PrivacyError, match="key is None"):
        PrivacyEngine(paper_plan(), unit_count=2, dimension=2, key=None)


@pytest.mark.parametrize("name", ["unit_count", "dimension"])
def test_counts_must_be_positive(paper_plan: Plans, name: str) -> None:
    counts = {"unit_count": 2, "dimension": 2} | {name: 0}
    with pytest.raises(PrivacyError, match=f"{name} is 0; must be at least 1"):
        PrivacyEngine(paper_plan(), key=KeystreamKey.fresh(), **counts)
