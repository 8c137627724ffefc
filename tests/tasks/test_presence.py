"""Whether a crop shows a structure: its answer, its draws, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from adpfl.data.case import Case
from adpfl.data.grid import Grid
from adpfl.errors import ConfigError
from adpfl.federated.run_plan import RunPlan
from adpfl.kernels.keystream import KeystreamKey
from adpfl.learning.initial_model import build_network, model_layout
from adpfl.learning.local_update import local_update
from adpfl.learning.networks import dimension, weights_of
from adpfl.learning.units import TrainingUnits
from adpfl.privacy.engine import PrivacyEngine
from adpfl.tasks.presence import BrainTumorPresence, KidneyTumorPresence, PresenceTask, SkinLesionPresence
from adpfl.tasks.registry import get_task

SKIN = SkinLesionPresence()
TILE = Grid((16, 16))


@pytest.fixture(params=["skin_lesion_presence", "kidney_tumor_presence", "brain_tumor_presence"])
def given(request: pytest.FixtureRequest) -> tuple[PresenceTask, Case, Grid]:
    task = get_task(request.param)
    assert isinstance(task, PresenceTask)
    if isinstance(task, SkinLesionPresence):
        return task, request.getfixturevalue("lesion_case"), TILE
    kidney = isinstance(task, KidneyTumorPresence)
    (case,) = task.read(request.getfixturevalue("ct_folder" if kidney else "mr_folder"))
    return task, case, Grid((8, 8, 8), (2.0, 2.0, 2.0) if kidney else (1.0, 1.0, 1.0))


def test_a_crop_has_the_grids_size_and_one_answer(given: tuple[PresenceTask, Case, Grid]) -> None:
    task, case, grid = given
    sample = task.load(case, grid)
    assert sample.mask.shape == (1, *sample.image.shape[1:])
    generator = torch.Generator().manual_seed(0)
    answers = []
    for _ in range(60):
        crop = task.crop(sample, grid, generator)
        assert crop.image.dtype == torch.float32
        assert tuple(crop.image.shape) == (task.in_channels, *grid.size)
        assert tuple(crop.mask.shape) == task.target_shape(grid) == (1,)
        answers.append(int(crop.mask))
    assert 15 < sum(answers) < 60


def test_augmentation_keeps_the_answer(given: tuple[PresenceTask, Case, Grid]) -> None:
    task, case, grid = given
    crop = task.crop(task.load(case, grid), grid, torch.Generator().manual_seed(0))
    variants = [task.augment(crop, torch.Generator().manual_seed(seed)) for seed in range(8)]
    assert all(torch.equal(variant.mask, crop.mask) for variant in variants)
    assert all(variant.image.shape == crop.image.shape for variant in variants)
    assert len({variant.image.numpy().tobytes() for variant in variants}) > 1


def test_evaluation_crops_cover_the_image_and_never_change(given: tuple[PresenceTask, Case, Grid]) -> None:
    task, case, grid = given
    sample = task.load(case, grid)
    first, again = list(task.evaluation_crops(sample, grid)), list(task.evaluation_crops(sample, grid))
    assert len(first) == len(again)
    assert all(torch.equal(one.image, other.image) for one, other in zip(first, again, strict=True))
    answers = [int(crop.mask) for crop in first]
    assert 0 < sum(answers) < len(answers)
    sides = [-(-extent // side) for extent, side in zip(sample.image.shape[1:], grid.size, strict=True)]
    assert len(first) == torch.tensor(sides).prod()


def test_the_answer_is_a_share_of_the_crop(lesion_case: Case) -> None:
    """The lesion fills columns 6-30 of 60 and rows 8-24 of 40; tiles are 20 by 13 of these pixels."""
    crops = list(SKIN.evaluation_crops(SKIN.load(lesion_case, TILE), TILE))
    assert [int(crop.mask) for crop in crops] == [1, 1, 0, 1, 1, 0, 0, 0, 0]


def test_tumours_are_asked_for_and_not_kidneys(ct_folder: Path, mr_folder: Path) -> None:
    (ct,) = KidneyTumorPresence().read(ct_folder)
    assert int(KidneyTumorPresence().load(ct, Grid((8, 8, 8), (4.0, 2.0, 2.0))).mask.sum()) == 3 * 4 * 4
    (mr,) = BrainTumorPresence().read(mr_folder)
    assert int(BrainTumorPresence().load(mr, Grid((8, 8, 8), (1.0, 1.0, 1.0))).mask.sum()) == 4**3


def test_whatever_needs_a_mask_is_refused(given: tuple[PresenceTask, Case, Grid], tmp_path: Path) -> None:
    task, case, grid = given
    image = torch.zeros(task.in_channels, *grid.size)
    for ask in (
        lambda: task.reference(case),
        lambda: task.predict(nn.Identity(), image, grid),
        lambda: task.score(image, image),
        lambda: task.original_size(case),
        lambda: task.write_prediction(image, case, tmp_path),
        lambda: task.write_overlay(image, case, tmp_path / "overlay.png"),
    ):
        with pytest.raises(ConfigError, match=f"task {task.name} answers whether a crop shows"):
            ask()
    assert list(tmp_path.glob("overlay.png")) == []


def test_a_segmentation_task_has_no_evaluation_crops(lesion_case: Case) -> None:
    task = get_task("skin_lesion")
    with pytest.raises(ConfigError, match="task skin_lesion answers with masks"):
        task.evaluation_crops(task.load(lesion_case, TILE), TILE)


def test_a_private_step_trains_on_answers(lesion_case: Case, tmp_path: Path) -> None:
    """The same engine as for masks: clipped, noised, and finite."""
    plan = RunPlan.model_validate(
        {
            "run": "tiles",
            "task": SKIN.name,
            "image_size": [16, 16],
            "rounds": 1,
            "local": {"steps": 2, "learning_rate": 0.1, "records_per_unit": 2},
            "cohort": {"sites": ["a"], "quorum": 1},
            "privacy": {
                "mode": "rigorous",
                "noise_multiplier": 1.0,
                "threshold": {"method": "fixed", "clip_norm": 1.0},
                "sampling": {"mode": "full"},
            },
        }
    )
    cases = [replace(lesion_case, case=f"c{place}", patient=f"p{place // 2}") for place in range(4)]
    units = TrainingUnits(cases, task=SKIN, plan=plan)
    batch = units.batch(np.arange(2), round_number=1, step=0)
    assert batch.images.shape == (2, 2, 3, 16, 16)
    assert batch.masks.shape == (2, 2, 1)
    engine = PrivacyEngine(
        plan.privacy,
        unit_count=len(units),
        dimension=dimension(model_layout(plan, SKIN)),
        key=KeystreamKey.from_bytes(bytes(32)),
    )
    base = weights_of(build_network(plan, SKIN))
    update = local_update(base, plan=plan, task=SKIN, units=units, engine=engine, round_number=1)
    assert any(bool(tensor.any()) for tensor in update.delta.values())


def test_a_whole_image_needs_no_mask(lesion_case: Case) -> None:
    assert SKIN.load_image(replace(lesion_case, mask=None), TILE).shape == (3, 48, 48)
