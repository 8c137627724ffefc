"""Augmented views are averaged before the clip: more records of the unit, not more units."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from adpfl.config import parse
from adpfl.data.case import Case
from adpfl.errors import ConfigError
from adpfl.federated.run_plan import RunPlan
from adpfl.kernels.keystream import KeystreamKey
from adpfl.learning.initial_model import build_network, model_layout
from adpfl.learning.local_update import local_update
from adpfl.learning.networks import dimension, weights_of
from adpfl.learning.per_sample import UnitGradients, microbatch_gradients
from adpfl.learning.plan import LocalPlan
from adpfl.learning.units import TrainingUnits
from adpfl.learning.views import MeanOverViews
from adpfl.privacy.engine import PrivacyEngine
from adpfl.tasks.task import Task

CaseOf = Callable[[str, str], Case]
PlanOf = Callable[..., RunPlan]

FIXED = {
    "mode": "rigorous",
    "noise_multiplier": 0.001,
    "threshold": {"method": "fixed", "clip_norm": 0.05},
    "sampling": {"mode": "full"},
}


@pytest.fixture
def cases(case_of: CaseOf) -> list[Case]:
    """Four patients, the first of whom has three images."""
    extra = [case_of("case-10", "p0"), case_of("case-11", "p0")]
    return [case_of(f"case-{index}", f"p{index}") for index in range(4)] + extra


def mean_over_views(units: TrainingUnits, plan: RunPlan, task: Task, views: int) -> list[torch.Tensor]:
    """What the oracle gives: one backward pass a unit and view, averaged."""
    model = build_network(plan, task)
    of_views = [
        microbatch_gradients(
            model, units.batch(np.arange(len(units)), round_number=1, step=0, view=view), task.loss
        )
        for view in range(views)
    ]
    return [torch.stack(tensors).mean(dim=0) for tensors in zip(*of_views, strict=True)]


def flat_rows(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten(1) for tensor in tensors], dim=1)


def assert_same_rows(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal up to the rounding of float32 sums in another order."""
    assert float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max()) < 1e-4


class Recorder(PrivacyEngine):
    """An engine that keeps the rows it was given."""

    rows: torch.Tensor
    chunks: int

    def release(self, step: int, gradients: Any) -> Any:
        seen = [[tensor.clone() for tensor in chunk] for chunk in gradients]
        self.chunks = len(seen)
        self.rows = torch.cat([flat_rows(chunk) for chunk in seen])
        return super().release(step, seen)


def train(
    plan: RunPlan, task: Task, cases: list[Case], **keys: Any
) -> tuple[Recorder, dict[str, torch.Tensor]]:
    units = TrainingUnits(cases, task=task, plan=plan)
    engine = Recorder(
        plan.privacy,
        unit_count=len(units),
        dimension=dimension(model_layout(plan, task)),
        key=KeystreamKey.from_bytes(bytes(32)),
    )
    base = weights_of(build_network(plan, task))
    update = local_update(base, plan=plan, task=task, units=units, engine=engine, round_number=1, **keys)
    assert [step.units for step in update.steps] == [len(units)]
    return engine, update.delta


@pytest.mark.parametrize("records", [1, 2])
def test_a_units_gradient_is_the_mean_over_its_views(
    blob_task: Task, cases: list[Case], plan_of: PlanOf, records: int
) -> None:
    local = {"steps": 1, "augmentations_per_record": 3, "records_per_unit": records}
    plan = plan_of(local=local, privacy=FIXED)
    units = TrainingUnits(cases, task=blob_task, plan=plan)
    wanted = flat_rows(mean_over_views(units, plan, blob_task, 3))
    engine, _ = train(plan, blob_task, cases)
    assert engine.rows.shape == (4, wanted.shape[1]), "a unit stays one row, however many views it has"
    assert_same_rows(engine.rows, wanted)
    first = flat_rows(mean_over_views(units, plan, blob_task, 1))
    assert float((engine.rows - first).norm()) > 0.01 * float(first.norm()), "the views must differ"


def test_a_unit_is_clipped_once_after_the_mean(blob_task: Task, cases: list[Case], plan_of: PlanOf) -> None:
    local = {"steps": 1, "learning_rate": 1.0, "augmentations_per_record": 4}
    plan = plan_of(local=local, privacy=FIXED)
    units = TrainingUnits(cases, task=blob_task, plan=plan)
    rows = flat_rows(mean_over_views(units, plan, blob_task, 4))
    clipped = rows * (0.05 / rows.norm(dim=1, keepdim=True)).clamp(max=1.0)
    assert bool((rows.norm(dim=1) > 0.05).all()), "else the clip is not tested"
    _, delta = train(plan, blob_task, cases)
    sent = -torch.cat([tensor.flatten() for tensor in delta.values()])
    noise_norm = 0.001 * 0.05 / 4 * rows.shape[1] ** 0.5
    assert float((sent - clipped.mean(dim=0)).norm()) < 2 * noise_norm
    assert float(sent.norm()) <= 0.05 + 2 * noise_norm, "sensitivity does not grow with the views"


def test_small_memory_means_small_chunks_and_the_same_gradients(
    blob_task: Task, cases: list[Case], plan_of: PlanOf
) -> None:
    plan = plan_of(local={"steps": 1, "augmentations_per_record": 3}, privacy=FIXED)
    at_once, _ = train(plan, blob_task, cases)
    one_by_one, _ = train(plan, blob_task, cases, memory_bytes=1)
    assert (at_once.chunks, one_by_one.chunks) == (1, 4)
    assert_same_rows(one_by_one.rows, at_once.rows)


def test_at_most_one_view_of_one_chunk_is_loaded_at_a_time(
    blob_task: Task, cases: list[Case], plan_of: PlanOf
) -> None:
    plan = plan_of()
    units = TrainingUnits(cases, task=blob_task, plan=plan)
    model = build_network(plan, blob_task)
    asked: list[tuple[int, int, int]] = []

    def gradients(part: slice, view: int) -> UnitGradients:
        asked.append((part.start, part.stop, view))
        batch = units.batch(np.arange(3)[part], round_number=1, step=0, view=view)
        return UnitGradients(model, batch, blob_task.loss, chunk_units=2)

    means = MeanOverViews(gradients, views=2, units=3, chunk_units=2, keep=True)
    first = [flat_rows(chunk) for chunk in means]
    assert asked == [(0, 2, 0), (0, 2, 1), (2, 3, 0), (2, 3, 1)]
    again = [flat_rows(chunk) for chunk in means]
    assert len(asked) == 4, "kept, not computed again"
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_an_empty_sample_yields_nothing() -> None:
    def never(_units: slice, _view: int) -> UnitGradients:
        raise AssertionError

    assert list(MeanOverViews(never, views=2, units=0, chunk_units=2, keep=False)) == []


def test_one_bad_view_spoils_the_unit_and_no_other(blob_task: Task, case_of: CaseOf, plan_of: PlanOf) -> None:
    cases = [case_of("case-1", "p1"), case_of("broken-2", "p2")]
    plan = plan_of(local={"steps": 1, "augmentations_per_record": 2}, privacy=FIXED)
    units = TrainingUnits(cases, task=blob_task, plan=plan)
    engine = Recorder(
        plan.privacy,
        unit_count=2,
        dimension=dimension(model_layout(plan, blob_task)),
        key=KeystreamKey.from_bytes(bytes(32)),
    )
    base = weights_of(build_network(plan, blob_task))
    update = local_update(base, plan=plan, task=blob_task, units=units, engine=engine, round_number=1)
    assert update.steps[0].nonfinite_units == 1
    assert bool(torch.isfinite(engine.rows).all(dim=1).sum() == 1)


def test_views_share_records_and_differ_in_augmentation(
    blob_task: Task, cases: list[Case], plan_of: PlanOf
) -> None:
    plan = plan_of(local={"records_per_unit": 1})
    units = TrainingUnits(cases, task=blob_task, plan=plan)

    def seen(step: int) -> Iterator[torch.Tensor]:
        for view in range(4):
            (image,) = units.batch(np.array([0]), round_number=1, step=step, view=view).images[0]
            yield image

    differing = 0
    for step in range(6):
        views = list(seen(step))
        assert all(torch.equal(a, b) for a, b in zip(views, seen(step), strict=True)), "deterministic"
        for view in views[1:]:  # the only augmentation of this task is a mirror
            same, mirrored = torch.equal(view, views[0]), torch.equal(view.flip(-1), views[0])
            assert same or mirrored, "another view must show the same record"
            differing += mirrored
    assert 0 < differing < 18


def test_views_of_images_that_are_not_augmented_are_refused() -> None:
    document = {"steps": 1, "learning_rate": 0.1, "augment": False, "augmentations_per_record": 2}
    with pytest.raises(ConfigError, match="augmentations_per_record is 2; must be 1 where augment is false"):
        parse(document, LocalPlan, source="local")
