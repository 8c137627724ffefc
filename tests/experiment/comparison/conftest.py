"""Comparisons small enough to play in a second: two imaginary clinics, tiny images, two rounds."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adpfl.config import parse
from adpfl.experiment.comparison.cells import plan_cells
from adpfl.experiment.comparison.choices import Choices
from adpfl.experiment.comparison.folder import ComparisonFolder
from adpfl.experiment.comparison.hospitals import describe, furnish, gather
from adpfl.experiment.comparison.plan import CellPlan, ComparisonPlan
from adpfl.experiment.report.record import write_record
from adpfl.privacy.plan import Sampling, UnsafeNonePrivacy

CHOICES: dict[str, Any] = {
    "task": "skin_lesion",
    "arms": ["fl", "dp-fl", "adp-fl"],
    "seeds": 1,
    "data": None,
    "sites": 2,
    "cases": 8,
    "data_seed": 0,
    "held_out_fraction": 0.25,
    "network": "tiny",
    "image_size": [16, 16],
    "rounds": 2,
    "steps": 2,
    "learning_rate": 0.05,
    "momentum": 0.0,
    "sampling_probability": 0.5,
    "evaluate_every": 1,
    "unit": "patient",
    "delta": 1e-5,
    "nominal_epsilon": 0.001,
    "reading": "multiplier",
    "clip_norm": 1.0,
    "percentile": 50.0,
    "target_epsilon": 8.0,
}


def make_choices(**changed: Any) -> Choices:
    return parse(CHOICES | changed, Choices, source="choices")


def make_comparison(root: Path, clinics: Path, **changed: Any) -> tuple[ComparisonFolder, ComparisonPlan]:
    """A comparison's folder with its data and its plan, and no cell played."""
    choices = make_choices(**changed)
    folder = ComparisonFolder(root)
    shutil.copytree(clinics, folder.data)
    data = describe(gather(choices), choices, folder)
    plan = ComparisonPlan(
        task=choices.task,
        command="adpfl compare",
        options=choices.options(),
        data=data,
        evaluate_every_rounds=choices.evaluate_every,
        cells=plan_cells(choices, data.sites),
    )
    write_record(folder.plan, plan)
    return folder, plan


def repeatable(cell: CellPlan) -> CellPlan:
    """The cell with every patient in every step and no noise: no secret is drawn, so it can be repeated."""
    privacy = UnsafeNonePrivacy(mode="none", sampling=Sampling(mode="full"))
    return cell.model_copy(update={"plan": cell.plan.model_copy(update={"privacy": privacy})})


@pytest.fixture
def choices_of() -> Callable[..., Choices]:
    return make_choices


@pytest.fixture(scope="session")
def clinics(tmp_path_factory) -> Path:
    """The images of the default choices, drawn once."""
    folder = ComparisonFolder(tmp_path_factory.mktemp("clinics"))
    furnish(gather(make_choices()), make_choices(), folder)
    return folder.data


@pytest.fixture
def comparison_of(clinics) -> Callable[..., tuple[ComparisonFolder, ComparisonPlan]]:
    """Makes a comparison in a folder; may change any choice but those that decide the images."""
    return lambda root, **changed: make_comparison(root, clinics, **changed)


@pytest.fixture
def repeatable_cell() -> Callable[[CellPlan], CellPlan]:
    return repeatable
