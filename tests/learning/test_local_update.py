"""A round of local training: the order of release and descent, empty samples, broken units, refusals."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adpfl.data.case import Case
from adpfl.errors import ModelMismatchError
from adpfl.federated.run_plan import RunPlan
from adpfl.kernels.keystream import KeystreamKey
from adpfl.learning.initial_model import build_network, model_layout
from adpfl.learning.local_update import DivergedError, LocalUpdate, TrainingStoppedError, local_update
from adpfl.learning.networks import dimension, weights_of
from adpfl.learning.per_sample import microbatch_gradients, units_within
from adpfl.learning.units import TrainingUnits
from adpfl.privacy.engine import PrivacyEngine, ReleasedStep
from adpfl.tasks.task import Task

CaseOf = Callable[[str, str], Case]
PlanOf = Callable[..., RunPlan]

PERCENTILE = {
    "mode": "paper",
    "reading": "multiplier",
    "threshold": {"method": "percentile", "percentile": 50.0},
    "sampling": {"mode": "full"},
}
POISSON = {
    "mode": "paper",
    "reading": "multiplier_mean",
    "threshold": {"method": "fixed", "clip_norm": 0.5},
    "sampling": {"mode": "poisson", "probability": 0.001},
}
FIXED: dict[str, Any] = {
    "mode": "rigorous",
    "noise_multiplier": 1.0,
    "threshold": {"method": "fixed", "clip_norm": 0.5},
    "sampling": {"mode": "full"},
}

EXPONENTIAL: dict[str, Any] = {
    "mode": "rigorous",
    "noise_multiplier": 1.0,
    "threshold": {
        "method": "exponential",
        "epsilon": 100.0,
        "refresh_steps": 2,
        "min_clip_norm": 1e-3,
        "max_clip_norm": 1e3,
        "grid_points": 4096,
    },
}


class ScriptedEngine:
    """Releases chosen gradients, whatever it is given, and counts the units that it was given."""

    def __init__(self, released: list[Tensor], units: int) -> None:
        self.released = released
        self.units = units
        self.rows: list[int] = []

    def needs_all_units(self, step: int) -> bool:
        assert step == len(self.rows)
        return False

    def sample(self, step: int) -> np.ndarray:
        assert step == len(self.rows)
        return np.arange(self.units, dtype=np.int64)

    def release(self, step: int, gradients: Any) -> ReleasedStep:
        norms = [torch.cat([t.flatten(1) for t in chunk], dim=1).norm(dim=1) for chunk in gradients]
        self.rows.append(sum(len(part) for part in norms))
        return ReleasedStep(
            mean_gradient=self.released[step],
            clip_norm=0.5,
            noise_scale=0.25,
            norms=torch.cat(norms).double().numpy(),
            units=self.units,
            clipped=1,
            nonfinite=0,
        )


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def base_weights(plan: RunPlan, task: Task) -> dict[str, Tensor]:
    return weights_of(build_network(plan, task))


def real_engine(
    plan: RunPlan, task: Task, units: TrainingUnits, *, key: int = 0, excluded: tuple[int, ...] = ()
) -> PrivacyEngine:
    return PrivacyEngine(
        plan.privacy,
        unit_count=len(units),
        dimension=dimension(model_layout(plan, task)),
        key=KeystreamKey.from_bytes(bytes([key] * 32)),
        excluded=excluded,
    )


def train(plan: RunPlan, task: Task, cases: list[Case], **keys: Any) -> LocalUpdate:
    units = TrainingUnits(cases, task=task, plan=plan)
    engine = keys.pop("engine", None) or real_engine(plan, task, units)
    base = keys.pop("base", None) or base_weights(plan, task)
    return local_update(base, plan=plan, task=task, units=units, engine=engine, **{"round_number": 1, **keys})


@pytest.fixture
def cases(case_of: CaseOf) -> list[Case]:
    return [case_of(f"case-{index}", f"p{index}") for index in range(5)]


def test_plain_training_is_gradient_descent(blob_task: Task, cases: list[Case], plan_of: PlanOf) -> None:
    plan = plan_of(local={"steps": 1, "learning_rate": 0.25})
    units = TrainingUnits(cases, task=blob_task, plan=plan)
    batch = units.batch(np.arange(5), round_number=1, step=0)
    gradients = microbatch_gradients(build_network(plan, blob_task), batch, blob_task.loss)
    wanted = -0.25 * torch.cat([tensor.mean(dim=0).flatten() for tensor in gradients])
    delta = flat(train(plan, blob_task, cases).delta)
    assert float((delta - wanted).norm()) <= 1e-4 * float(wanted.norm())


def test_training_learns(blob_task: Task, cases: list[Case], plan_of: PlanOf) -> None:
    for privacy in (None, PERCENTILE):
        plan = plan_of(local={"steps": 12, "learning_rate": 0.2, "momentum": 0.5}, privacy=privacy)
        base = base_weights(plan, blob_task)
        update = train(plan, blob_task, cases)
        model = build_network(plan, blob_task)
        batch = TrainingUnits(cases, task=blob_task, plan=plan).batch(np.arange(5), round_number=9, step=0)

        def loss(model: nn.Module = model, batch: Any = batch) -> float:
            with torch.no_grad():
                return float(blob_task.loss(model(batch.images[:, 0]), batch.masks[:, 0]))

        before = loss()
        model.load_state_dict({name: base[name] + update.delta[name] for name in base})
        assert loss() < 0.9 * before


def test_momentum_decay_and_proximal_term_follow_the_release(
    blob_task: Task, cases: list[Case], plan_of: PlanOf
) -> None:
    rate, momentum, decay, mu = 0.1, 0.9, 0.01, 0.5
    plan = plan_of(
        local={
            "steps": 3,
            "learning_rate": rate,
            "momentum": momentum,
            "weight_decay": decay,
            "fedprox_mu": mu,
        }
    )
    base = flat(base_weights(plan, blob_task))
    generator = torch.Generator().manual_seed(0)
    released = [torch.randn(len(base), generator=generator) for _ in range(3)]
    engine = ScriptedEngine(released, units=5)
    delta = flat(train(plan, blob_task, cases, engine=engine).delta)

    weights, velocity = base.double(), torch.zeros(len(base), dtype=torch.float64)
    for gradient in released:
        velocity = momentum * velocity + gradient + decay * weights + mu * (weights - base)
        weights = weights - rate * velocity
    assert torch.allclose(delta.double(), weights - base.double(), rtol=1e-5, atol=1e-5)
    assert engine.rows == [5, 5, 5]


def test_only_released_gradients_move_the_weights(
    blob_task: Task, cases: list[Case], case_of: CaseOf, plan_of: PlanOf
) -> None:
    plan = plan_of(local={"steps": 2, "learning_rate": 0.1, "momentum": 0.9, "fedprox_mu": 0.1})
    size = dimension(model_layout(plan, blob_task))
    released = [torch.ones(size), -torch.ones(size)]
    others = [case_of(f"case-{index}", f"p{index}") for index in range(50, 55)]
    first, second = (
        train(plan, blob_task, found, engine=ScriptedEngine(released, units=5)) for found in (cases, others)
    )
    assert torch.equal(flat(first.delta), flat(second.delta))
    assert first.steps != second.steps


def test_equal_inputs_give_equal_updates(blob_task: Task, cases: list[Case], plan_of: PlanOf) -> None:
    plan = plan_of(privacy=PERCENTILE)
    first, second = train(plan, blob_task, cases), train(plan, blob_task, cases)
    assert torch.equal(flat(first.delta), flat(second.delta))
    assert first.steps == second.steps


def test_a_tight_memory_budget_changes_no_more_than_rounding(
    blob_task: Task, cases: list[Case], plan_of: PlanOf
) -> None:
    plan = plan_of(privacy=PERCENTILE, local={"steps": 2, "learning_rate": 0.1})
    wide = flat(train(plan, blob_task, cases).delta)
    tight = flat(train(plan, blob_task, cases, memory_bytes=1).delta)
    assert float((wide - tight).norm()) <= 1e-3 * float(wide.norm())


def test_steps_are_recorded(blob_task: Task, cases: list[Case], plan_of: PlanOf) -> None:
    plan = plan_of(privacy=PERCENTILE)
    records = train(plan, blob_task, cases, round_number=7).steps
    assert [(record.round, record.step) for record in records] == [(7, 0), (7, 1), (7, 2)]
    for record in records:
        assert record.units == 5
        assert record.clip_norm == pytest.approx(record.norm_quantiles[2])
        assert record.noise_scale is not None
        assert record.noise_scale == pytest.approx(0.001 * record.clip_norm, rel=1e-3)
        assert record.clipped_units == 2
        assert list(record.norm_quantiles) == sorted(record.norm_quantiles)


def test_an_empty_sample_is_released_as_noise(blob_task: Task, cases: list[Case], plan_of: PlanOf) -> None:
    plan = plan_of(privacy=POISSON, local={"steps": 2, "learning_rate": 0.1})
    update = train(plan, blob_task, cases)
    assert [record.units for record in update.steps] == [0, 0]
    assert [record.norm_quantiles for record in update.steps] == [(), ()]
    assert all(bool(tensor.any()) for tensor in update.delta.values())


def median_interval(plan: RunPlan, task: Task, cases: list[Case]) -> tuple[float, float]:
    """The second and fourth of five units' norms at the base: every best choice of a median lies between."""
    batch = TrainingUnits(cases, task=task, plan=plan).batch(np.arange(5), round_number=1, step=0)
    gradients = microbatch_gradients(build_network(plan, task), batch, task.loss)
    norms = torch.cat([tensor.flatten(1) for tensor in gradients], dim=1).norm(dim=1).sort().values
    return float(norms[1]), float(norms[3])


@pytest.mark.parametrize(
    "sampling",
    [
        {"mode": "poisson", "probability": 0.001},
        {"mode": "partition", "probability": 0.2},
        {"mode": "full"},
    ],
    ids=lambda sampling: sampling["mode"],
)
def test_an_exponential_threshold_is_chosen_over_all_units(
    blob_task: Task, cases: list[Case], plan_of: PlanOf, sampling: dict[str, Any]
) -> None:
    plan = plan_of(privacy={**EXPONENTIAL, "sampling": sampling}, local={"steps": 4, "learning_rate": 0.1})
    records = train(plan, blob_task, cases).steps
    sampled = {"poisson": 0, "partition": 1, "full": 5}[sampling["mode"]]
    assert [record.units for record in records] == [sampled] * 4
    chosen = [record.clip_norm for record in records]
    low, high = median_interval(plan, blob_task, cases)
    assert chosen[0] is not None
    assert low < chosen[0] <= high
    assert chosen[0] == chosen[1] != chosen[2] == chosen[3], "chosen anew every second step"


def test_who_withdrew_is_not_asked_for_a_threshold(
    blob_task: Any, cases: list[Case], plan_of: PlanOf
) -> None:
    privacy = {**EXPONENTIAL, "sampling": {"mode": "poisson", "probability": 0.5}}
    plan = plan_of(privacy=privacy, local={"steps": 2, "learning_rate": 0.1})
    units = TrainingUnits(cases, task=blob_task, plan=plan)
    withdrawn = next(place for place in range(5) if cases[place].patient == "p3")
    engine = real_engine(plan, blob_task, units, excluded=(withdrawn,))
    train(plan, blob_task, cases, engine=engine)
    assert set(blob_task.loaded) == {"case-0", "case-1", "case-2", "case-4"}


def test_a_broken_unit_contributes_zero_and_is_counted(
    blob_task: Task, cases: list[Case], case_of: CaseOf, plan_of: PlanOf
) -> None:
    plan = plan_of(local={"steps": 1, "learning_rate": 0.1})
    whole = flat(train(plan, blob_task, cases).delta)
    update = train(plan, blob_task, [*cases, case_of("broken-9", "p9")])
    assert update.steps[0].nonfinite_units == 1
    assert len(update.steps[0].norm_quantiles) == 5
    assert bool(torch.isfinite(flat(update.delta)).all())
    shrunk = whole * (len(cases) / (len(cases) + 1))
    assert float((flat(update.delta) - shrunk).norm()) <= 1e-4 * float(whole.norm())


def test_progress_is_told(blob_task: Task, cases: list[Case], plan_of: PlanOf) -> None:
    told: list[tuple[int, int]] = []
    train(plan_of(), blob_task, cases, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_training_stops_between_steps(blob_task: Task, cases: list[Case], plan_of: PlanOf) -> None:
    answers = iter([False, True])
    with pytest.raises(TrainingStoppedError, match="round 1 was stopped after 1 of 3 steps"):
        train(plan_of(), blob_task, cases, should_stop=lambda: next(answers))


def test_a_foreign_model_is_refused_before_anything_is_sampled(
    blob_task: Task, cases: list[Case], plan_of: PlanOf
) -> None:
    plan = plan_of()
    base = base_weights(plan, blob_task)
    name = next(iter(base))
    engine = ScriptedEngine([], units=5)
    with pytest.raises(ModelMismatchError, match=rf"^base model of round 1: tensor {name} has shape \(2,\)"):
        train(plan, blob_task, cases, base={**base, name: torch.zeros(2)}, engine=engine)
    assert engine.rows == []


def test_a_diverged_update_is_refused(blob_task: Task, cases: list[Case], plan_of: PlanOf) -> None:
    plan = plan_of(local={"steps": 1, "learning_rate": 1e30})
    size = dimension(model_layout(plan, blob_task))
    with pytest.raises(DivergedError, match=r"round 1: tensor .* is no longer finite"):
        train(plan, blob_task, cases, engine=ScriptedEngine([torch.full((size,), 1e30)], units=5))


def test_the_base_is_left_as_it_was(blob_task: Task, cases: list[Case], plan_of: PlanOf) -> None:
    plan = plan_of()
    base = base_weights(plan, blob_task)
    before = flat(base).clone()
    train(plan, blob_task, cases, base=base)
    assert torch.equal(flat(base), before)


class WatchedEngine(PrivacyEngine):
    """Remembers what each sampled unit brings to the one step."""

    rows: dict[int, Tensor]

    def release(self, step: int, gradients: Any) -> ReleasedStep:
        sampled = self.sample(step).tolist()
        flat_chunks = [torch.cat([t.flatten(1) for t in chunk], dim=1) for chunk in gradients]
        self.rows = dict(zip(sampled, torch.cat(flat_chunks), strict=True))
        return super().release(step, gradients)


@pytest.mark.parametrize("volumes", [False, True])
@pytest.mark.parametrize("views", [1, 2])
def test_who_is_absent_changes_no_bit_of_the_others(
    blob_task: Any, cases: list[Case], plan_of: PlanOf, volumes: bool, views: int
) -> None:
    """The clip bounds what a unit adds; nothing bounds what it does to others, so it may do nothing."""
    size: dict[str, Any] = {}
    if volumes:
        blob_task.spatial_dims = 3
        size = {"image_size": [16, 16, 16]}
    local = {"steps": 1, "learning_rate": 0.1, "augmentations_per_record": views}
    plan = plan_of(privacy=FIXED, local=local, **size)
    units = TrainingUnits(cases, task=blob_task, plan=plan)

    def brought(*excluded: int) -> dict[int, Tensor]:
        engine = WatchedEngine(
            plan.privacy,
            unit_count=5,
            dimension=dimension(model_layout(plan, blob_task)),
            key=KeystreamKey.from_bytes(bytes(32)),
            excluded=excluded,
        )
        train(plan, blob_task, cases, engine=engine)
        assert len(engine.rows) == len(units) - len(excluded)
        return engine.rows

    everyone = brought()
    for absent in ((0,), (4,), (0, 1, 3, 4)):
        for unit, gradient in brought(*absent).items():
            assert torch.equal(gradient, everyone[unit]), (unit, absent)


def test_how_many_images_one_patient_has_changes_no_bit_of_the_others(
    blob_task: Any, case_of: CaseOf, plan_of: PlanOf
) -> None:
    """Neither by how much memory a unit is thought to need, which decides the way that is taken."""
    blob_task.spatial_dims = 3
    local = {"steps": 1, "learning_rate": 0.1, "records_per_unit": 2}
    plan = plan_of(privacy=FIXED, local=local, image_size=[16, 16, 16])
    model = build_network(plan, blob_task)

    def brought(memory_bytes: int, *more: Case) -> dict[int, Tensor]:
        cases = [case_of("case-0", "p0"), case_of("case-1", "p1"), *more]
        engine = WatchedEngine(
            plan.privacy,
            unit_count=2,
            dimension=dimension(model_layout(plan, blob_task)),
            key=KeystreamKey.from_bytes(bytes(32)),
        )
        train(plan, blob_task, cases, engine=engine, memory_bytes=memory_bytes)
        return engine.rows

    def fitting(memory_bytes: int, records: int) -> int:
        keys = {"model": model, "in_channels": 1, "image_size": plan.image_size}
        return units_within(memory_bytes // 2, records_per_unit=records, **keys)

    between = next(size for size in range(2**20, 2**28, 2**18) if fitting(size, 1) == 2)
    assert fitting(between, 2) == 1
    assert torch.equal(brought(between)[1], brought(between, case_of("case-2", "p0"))[1])
