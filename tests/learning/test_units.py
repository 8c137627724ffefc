"""What a batch of units holds, and what decides it."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from adpfl.data.case import Case
from adpfl.data.grid import Grid
from adpfl.errors import DataError
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.per_sample import UnitBatch
from adpfl.learning.units import TrainingUnits
from adpfl.tasks.task import Sample, Task

CaseOf = Callable[[str, str], Case]
PlanOf = Callable[..., RunPlan]


def cases(case_of: CaseOf) -> list[Case]:
    """Patients p0, p1 and p2 with 1, 2 and 4 images, out of order."""
    found = [
        case_of(f"case-{10 * patient + image}", f"p{patient}")
        for patient in range(3)
        for image in range(2**patient)
    ]
    return found[::-1]


def equal(left: UnitBatch, right: UnitBatch) -> bool:
    pairs = ((left.images, right.images), (left.masks, right.masks), (left.present, right.present))
    return all(torch.equal(a, b) for a, b in pairs)


def batch(units: TrainingUnits, indices: list[int], **keys: Any) -> UnitBatch:
    return units.batch(np.array(indices, dtype=np.int64), **{"round_number": 1, "step": 0, **keys})


def test_units_are_patients_padded_to_k(blob_task: Task, case_of: CaseOf, plan_of: PlanOf) -> None:
    units = TrainingUnits(cases(case_of), task=blob_task, plan=plan_of(local={"records_per_unit": 3}))
    assert len(units) == 3
    found = batch(units, [2, 0, 1])
    assert found.images.shape == (3, 3, 1, 16, 16)
    assert found.masks.shape == (3, 3, 1, 16, 16)
    assert found.masks.dtype == torch.uint8
    assert found.present.sum(dim=1).tolist() == [3, 1, 2]
    assert not found.images[~found.present].any()
    assert not found.masks[~found.present].any()


def test_k_is_no_more_than_any_patient_has(blob_task: Task, case_of: CaseOf, plan_of: PlanOf) -> None:
    units = TrainingUnits(cases(case_of), task=blob_task, plan=plan_of(local={"records_per_unit": 64}))
    assert units.records_per_unit == 4
    assert batch(units, [2]).images.shape[1] == 4


def test_units_may_be_records(blob_task: Task, case_of: CaseOf, plan_of: PlanOf) -> None:
    plan = plan_of(
        privacy={"mode": "none", "unit": "record", "sampling": {"mode": "full"}},
        local={"records_per_unit": 8},
    )
    units = TrainingUnits(cases(case_of), task=blob_task, plan=plan)
    assert len(units) == 7
    assert units.records_per_unit == 1


def test_draws_are_distinct_records_of_the_patient(blob_task: Task, case_of: CaseOf, plan_of: PlanOf) -> None:
    plan = plan_of(local={"records_per_unit": 2, "augment": False})
    units = TrainingUnits(cases(case_of), task=blob_task, plan=plan)
    own = [blob_task.load(case_of(f"case-{20 + image}", "p2"), Grid((16, 16))).image for image in range(4)]
    seen: set[int] = set()
    for step in range(12):
        drawn = batch(units, [2], step=step).images[0]
        which = [next(i for i, image in enumerate(own) if torch.equal(image, record)) for record in drawn]
        assert len(set(which)) == 2
        seen.update(which)
    assert seen == {0, 1, 2, 3}


def test_a_batch_follows_seed_round_step_and_unit_alone(
    blob_task: Task, case_of: CaseOf, plan_of: PlanOf
) -> None:
    local = {"records_per_unit": 2}
    plan = plan_of(local=local)
    units = TrainingUnits(cases(case_of), task=blob_task, plan=plan)
    shuffled = TrainingUnits(sorted(cases(case_of), key=lambda case: case.case), task=blob_task, plan=plan)
    first = batch(units, [2])
    torch.manual_seed(99)
    assert equal(batch(units, [2]), first)
    assert equal(batch(shuffled, [2]), first)
    assert equal(batch(units, [0, 1, 2])[2:], first), "who else was sampled must not matter"
    steps = [batch(units, [2], step=step) for step in range(6)]
    rounds = [batch(units, [2], round_number=number) for number in range(1, 7)]
    other = TrainingUnits(cases(case_of), task=blob_task, plan=plan_of(local=local, seed=6))
    seeds = [batch(other, [2], step=step) for step in range(6)]
    assert not all(equal(found, first) for found in steps)
    assert not all(equal(found, first) for found in rounds)
    assert not all(equal(a, b) for a, b in zip(seeds, steps, strict=True))
    assert not all(equal(a, b) for a, b in zip(rounds[1:], steps[1:], strict=True))


def test_augmentation_can_be_switched_off(blob_task: Task, case_of: CaseOf, plan_of: PlanOf) -> None:
    for augment, variants in ((False, 1), (True, 2)):
        units = TrainingUnits(cases(case_of), task=blob_task, plan=plan_of(local={"augment": augment}))
        found = {batch(units, [0], step=step).images.numpy().tobytes() for step in range(12)}
        assert len(found) == variants


def test_an_empty_sample_is_an_empty_batch(blob_task: Task, case_of: CaseOf, plan_of: PlanOf) -> None:
    units = TrainingUnits(cases(case_of), task=blob_task, plan=plan_of())
    assert len(batch(units, [])) == 0


def test_samples_are_loaded_once_while_the_cache_has_room(
    blob_task: Any, case_of: CaseOf, plan_of: PlanOf
) -> None:
    sample_bytes = 16 * 16 * 5
    for cache_bytes, loads, told in (
        (2**20, 7, None),
        (0, 14, "0 of 7 images fill"),
        (sample_bytes * 3, 3 + 2 * 4, "3 of 7 images fill"),
    ):
        blob_task.loaded.clear()
        plan = plan_of(local={"records_per_unit": 4})
        units = TrainingUnits(cases(case_of), task=blob_task, plan=plan, cache_bytes=cache_bytes)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert equal(batch(units, [0, 1, 2]), batch(units, [0, 1, 2]))
        assert len(blob_task.loaded) == loads
        assert [told in str(warning.message) for warning in caught] == ([True] if told else [])


def test_a_step_sees_a_crop_of_the_cached_whole(
    blob_task: Any, case_of: CaseOf, plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole images of twice the grid; the crop is the corner that the public generator names."""
    load = blob_task.load

    def crop(sample: Sample, grid: Grid, generator: torch.Generator) -> Sample:
        assert sample.image.shape == (1, 32, 32)
        row, column = (torch.randint(0, 2, (2,), generator=generator) * 16).tolist()
        window = (slice(None), slice(row, row + 16), slice(column, column + 16))
        return Sample(sample.image[window], sample.mask[window])

    monkeypatch.setattr(blob_task, "load", lambda case, _: load(case, Grid((32, 32))))
    monkeypatch.setattr(blob_task, "crop", crop)
    plan = plan_of(local={"augment": False})
    units = TrainingUnits([case_of("case-1", "p")], task=blob_task, plan=plan)
    first = batch(units, [0])
    assert equal(batch(units, [0]), first)
    assert len({batch(units, [0], step=step).images.numpy().tobytes() for step in range(40)}) == 4
    assert blob_task.loaded == ["case-1"]


def test_no_cases_is_refused(blob_task: Task, plan_of: PlanOf) -> None:
    with pytest.raises(DataError, match="task blobs: no training cases"):
        TrainingUnits([], task=blob_task, plan=plan_of())


def test_a_sample_of_another_shape_is_refused(blob_task: Task, case_of: CaseOf, plan_of: PlanOf) -> None:
    units = TrainingUnits([case_of("odd-1", "p")], task=blob_task, plan=plan_of())
    with pytest.raises(DataError, match=r"case odd-1: image has shape \(1, 8, 8\); must be \(1, 16, 16\)"):
        batch(units, [0])
