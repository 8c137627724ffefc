"""A task of generated blobs, small enough to train in a second, and the plans that go with it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adpfl.data.case import Case
from adpfl.data.grid import Grid
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.networks import build
from adpfl.learning.per_sample import UnitBatch
from adpfl.learning.plan import NetworkPlan
from adpfl.tasks.losses import dice_cross_entropy
from adpfl.tasks.task import Reference, Sample, Task

SPATIAL = {2: (16, 16), 3: (8, 8, 8)}


class BlobTask(Task):
    """A bright disc or ball on noise; a case `broken-N` has a NaN image, a case `odd-N` another shape."""

    name = "blobs"
    spatial_dims = 2
    in_channels = 1
    structures = ("blob",)
    distance_unit = "px"
    surface_tolerances = (1.0,)

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def read(self, folder: Path, *, with_masks: bool = True) -> list[Case]:
        raise NotImplementedError

    def load_image(self, case: Case, grid: Grid) -> Tensor:
        return self.load(case, grid).image

    def load(self, case: Case, grid: Grid) -> Sample:
        self.loaded.append(case.case)
        generator = torch.Generator().manual_seed(int(case.case.rpartition("-")[2]))
        size = grid.size if not case.case.startswith("odd") else (8,) * len(grid.size)
        centre = torch.rand(len(size), generator=generator) * 0.4 + 0.3
        axes = torch.meshgrid(*(torch.linspace(0, 1, extent) for extent in size), indexing="ij")
        distance = sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True))
        mask = (distance < 0.07)[None]
        image = mask.float() + 0.3 * torch.randn(mask.shape, generator=generator)
        if case.case.startswith("broken"):
            image[:] = torch.nan
        return Sample(image, mask.to(torch.uint8))

    def reference(self, case: Case) -> Reference:
        return Reference(self.load(case, Grid((24, 24))).mask, (1.0, 1.0))

    def loss(self, logits: Tensor, mask: Tensor, present: Tensor | None = None) -> Tensor:
        return dice_cross_entropy(logits, mask, present)

    def augment(self, sample: Sample, generator: torch.Generator) -> Sample:
        if int(torch.randint(0, 2, (1,), generator=generator)):
            return Sample(sample.image.flip(-1), sample.mask.flip(-1))
        return sample

    def predict(
        self, model: nn.Module, image: Tensor, grid: Grid, *, size: Sequence[int] | None = None
    ) -> Tensor:
        assert tuple(image.shape[1:]) == grid.size
        logits = model(image[None])
        resized = nn.functional.interpolate(logits, size=tuple(size or image.shape[1:]))
        return (resized[0] >= 0).to(torch.uint8)

    def original_size(self, case: Case) -> tuple[int, ...]:
        return tuple(self.reference(case).mask.shape[1:])

    def write_prediction(self, prediction: Tensor, case: Case, folder: Path) -> Path:
        raise NotImplementedError

    def write_overlay(self, prediction: Tensor, case: Case, path: Path) -> None:
        raise NotImplementedError


def make_case(name: str, patient: str) -> Case:
    return Case(case=name, patient=patient, image=Path(f"{name}.png"), mask=Path(f"{name}_mask.png"))


def make_plan(
    *, local: dict[str, Any] | None = None, privacy: dict[str, Any] | None = None, **keys: Any
) -> RunPlan:
    document: dict[str, Any] = {
        "run": "test",
        "task": "blobs",
        "image_size": [16, 16],
        "rounds": 2,
        "local": {"steps": 3, "learning_rate": 0.1, **(local or {})},
        "cohort": {"sites": ["a"], "quorum": 1},
        "privacy": privacy or {"mode": "none", "sampling": {"mode": "full"}},
        "seed": 5,
    }
    return RunPlan.model_validate({**document, **keys})


def make_model(
    architecture: str, spatial_dims: int, *, in_channels: int = 1, structures: int = 1
) -> nn.Module:
    return build(
        NetworkPlan.model_validate({"architecture": architecture, "size": "tiny"}),
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=structures,
        seed=3,
    )


def make_batch(
    units: int, records: int, spatial_dims: int, *, structures: int = 1, seed: int = 0
) -> UnitBatch:
    """Random images and masks; the first record of each unit is present, the others by turns."""
    generator = np.random.default_rng(seed)
    size = SPATIAL[spatial_dims]
    images = torch.from_numpy(generator.standard_normal((units, records, 1, *size)).astype(np.float32))
    masks = torch.from_numpy(generator.integers(0, 2, (units, records, structures, *size)).astype(np.uint8))
    present = torch.tensor([[column <= row % records for column in range(records)] for row in range(units)])
    images[~present] = 0.0
    return UnitBatch(images, masks, present.reshape(units, records))


@pytest.fixture
def blob_task() -> BlobTask:
    return BlobTask()


@pytest.fixture
def case_of() -> Callable[[str, str], Case]:
    return make_case


@pytest.fixture
def plan_of() -> Callable[..., RunPlan]:
    return make_plan


@pytest.fixture
def model_of() -> Callable[..., nn.Module]:
    return make_model


@pytest.fixture
def batch_of() -> Callable[..., UnitBatch]:
    return make_batch
