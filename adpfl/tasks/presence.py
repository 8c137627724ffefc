"""Whether a part of an image shows a structure at all: classification with the segmentation tasks' data.

A crop's answer comes from the mask: the structure is shown where it fills at least `least_share` of the crop.
One pixel at a crop's edge is no fair question.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal, NoReturn

import torch
from torch import Tensor, nn

from adpfl.data.case import Case
from adpfl.data.grid import Grid
from adpfl.errors import ConfigError
from adpfl.evaluation.metrics import StructureScore
from adpfl.tasks.brain_tumor import BrainTumor
from adpfl.tasks.kidney_tumor import KidneyTumor
from adpfl.tasks.losses import cross_entropy
from adpfl.tasks.patches import even_patches, foreground_patch
from adpfl.tasks.skin_lesion import SkinLesion
from adpfl.tasks.task import Reference, Sample, Task

_CENTRED_SHARE: Final = 0.5
"""Of training crops that are centred on the structure."""


class PresenceTask(Task):
    """Crops of a segmentation task's images; a subclass says which structure is asked for."""

    kind: ClassVar[Literal["segmentation", "classification"]] = "classification"
    segmentation: ClassVar[Task]
    """Whose data it is."""
    background: ClassVar[float]
    """Pads crops of images that are smaller."""
    least_share: ClassVar[float]
    """Of a crop that the structure must fill to be shown."""

    def read(self, folder: Path, *, with_masks: bool = True) -> list[Case]:
        """Every case of a folder of the segmentation task."""
        return self.segmentation.read(folder, with_masks=with_masks)

    def whole(self, grid: Grid) -> Grid:
        """The grid by which the segmentation task loads a whole image."""
        return grid

    def load_image(self, case: Case, grid: Grid) -> Tensor:
        """The whole image, as the segmentation task prepares it."""
        return self.segmentation.load_image(case, self.whole(grid))

    def load(self, case: Case, grid: Grid) -> Sample:
        """The whole image and the mask of the structure that is asked for."""
        sample = self.segmentation.load(case, self.whole(grid))
        channels = [self.segmentation.structures.index(name) for name in self.structures]
        return Sample(sample.image, sample.mask[channels])

    def crop(self, sample: Sample, grid: Grid, generator: torch.Generator) -> Sample:
        """A crop and its answer; every other one is centred on the structure."""
        patch = foreground_patch(
            sample, grid.size, generator, background=self.background, foreground_share=_CENTRED_SHARE
        )
        return self._answered(patch)

    def target_shape(self, grid: Grid) -> tuple[int, ...]:
        """One answer a structure."""
        del grid
        return (len(self.structures),)

    def augment(self, sample: Sample, generator: torch.Generator) -> Sample:
        """As the segmentation task varies its crops; the answer stays."""
        blank = torch.zeros((1, *sample.image.shape[1:]), dtype=torch.uint8)
        varied = self.segmentation.augment(Sample(sample.image, blank), generator)
        return Sample(varied.image, sample.mask)

    def loss(self, logits: Tensor, mask: Tensor, present: Tensor | None = None) -> Tensor:
        """Binary cross-entropy; see `adpfl.tasks.losses.cross_entropy`."""
        return cross_entropy(logits, mask, present)

    def evaluation_crops(self, sample: Sample, grid: Grid) -> Iterator[Sample]:
        """Evenly spaced crops that cover the image, with their answers."""
        for patch in even_patches(sample, grid.size, background=self.background):
            yield self._answered(patch)

    def _answered(self, patch: Sample) -> Sample:
        shares = patch.mask.flatten(1).float().mean(dim=1)
        return Sample(patch.image, (shares >= self.least_share).to(torch.uint8))

    def reference(self, case: Case) -> Reference:
        """Refused."""
        self._refuse(case)

    def predict(
        self, model: nn.Module, image: Tensor, grid: Grid, *, size: Sequence[int] | None = None
    ) -> Tensor:
        """Refused."""
        self._refuse(model, image, grid, size)

    def score(
        self, prediction: Tensor, reference: Tensor, spacing: Sequence[float] | None = None
    ) -> tuple[StructureScore, ...]:
        """Refused."""
        self._refuse(prediction, reference, spacing)

    def original_size(self, case: Case) -> tuple[int, ...]:
        """Refused."""
        self._refuse(case)

    def write_prediction(self, prediction: Tensor, case: Case, folder: Path) -> Path:
        """Refused."""
        self._refuse(prediction, case, folder)

    def write_overlay(self, prediction: Tensor, case: Case, path: Path) -> None:
        """Refused."""
        self._refuse(prediction, case, path)

    def _refuse(self, *_: object) -> NoReturn:
        raise ConfigError(
            f"task {self.name} answers whether a crop shows a structure; only a segmentation task has masks"
        )


class SkinLesionPresence(PresenceTask):
    """Whether a tile, a ninth of the photograph, shows the lesion."""

    name: ClassVar[str] = "skin_lesion_presence"
    segmentation: ClassVar[Task] = SkinLesion()
    spatial_dims: ClassVar[Literal[2, 3]] = SkinLesion.spatial_dims
    in_channels: ClassVar[int] = SkinLesion.in_channels
    structures: ClassVar[tuple[str, ...]] = ("lesion",)
    distance_unit: ClassVar[Literal["mm", "px"]] = SkinLesion.distance_unit
    surface_tolerances: ClassVar[tuple[float, ...]] = SkinLesion.surface_tolerances
    background: ClassVar[float] = 0.0
    least_share: ClassVar[float] = 0.05

    def whole(self, grid: Grid) -> Grid:
        """Three tiles by three."""
        return Grid(tuple(3 * extent for extent in grid.size))


class KidneyTumorPresence(PresenceTask):
    """Whether a patch of an abdominal CT shows a tumour."""

    name: ClassVar[str] = "kidney_tumor_presence"
    segmentation: ClassVar[Task] = KidneyTumor()
    spatial_dims: ClassVar[Literal[2, 3]] = KidneyTumor.spatial_dims
    in_channels: ClassVar[int] = KidneyTumor.in_channels
    structures: ClassVar[tuple[str, ...]] = ("tumor",)
    distance_unit: ClassVar[Literal["mm", "px"]] = KidneyTumor.distance_unit
    surface_tolerances: ClassVar[tuple[float, ...]] = KidneyTumor.surface_tolerances[-1:]
    background: ClassVar[float] = KidneyTumor.background
    least_share: ClassVar[float] = 0.01


class BrainTumorPresence(PresenceTask):
    """Whether a patch of a brain MRI shows enhancing tumour."""

    name: ClassVar[str] = "brain_tumor_presence"
    segmentation: ClassVar[Task] = BrainTumor()
    spatial_dims: ClassVar[Literal[2, 3]] = BrainTumor.spatial_dims
    in_channels: ClassVar[int] = BrainTumor.in_channels
    structures: ClassVar[tuple[str, ...]] = ("enhancing_tumor",)
    distance_unit: ClassVar[Literal["mm", "px"]] = BrainTumor.distance_unit
    surface_tolerances: ClassVar[tuple[float, ...]] = BrainTumor.surface_tolerances[:1]
    background: ClassVar[float] = BrainTumor.background
    least_share: ClassVar[float] = 0.01
