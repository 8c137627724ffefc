"""What a task is: its files, its samples, its loss and its scores.

A task holds no state and does no training. Other packages add tasks by registering a subclass under the entry
point group `adpfl.tasks` (see `adpfl.tasks.registry`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from adpfl.data.case import Case
from adpfl.data.grid import Grid
from adpfl.errors import ConfigError
from adpfl.evaluation.metrics import StructureScore, score_structures


@dataclass(frozen=True, slots=True)
class Sample:
    """One case after preprocessing, whole or cropped to what the network sees.

    Attributes:
        image: float32 (channels, *S), normalised.
        mask: uint8 in {0, 1}, (structures, *S); in a crop of a classification task the answer instead,
            (structures,).
    """

    image: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Reference:
    """One case's reference segmentation as it was drawn, for scoring.

    Attributes:
        mask: uint8 in {0, 1}, (structures, *original_size).
        spacing: size of a pixel or voxel along each axis, in the task's `distance_unit`.
    """

    mask: Tensor
    spacing: tuple[float, ...]


class Task(ABC):
    """A learning problem.

    What has to do with masks (`reference`, `predict`, `score`, `original_size`, `write_prediction`,
    `write_overlay`) raises ConfigError in a classification task. Subclasses are stateless and take no
    constructor arguments.

    Volumes have the axis order (slices, rows, columns) in the fixed orientation of `adpfl.data.volumes`.
    """

    name: ClassVar[str]
    """As plans name it: lower case letters, digits, `_` and `-`."""
    kind: ClassVar[Literal["segmentation", "classification"]] = "segmentation"
    """Whether the network answers with a mask, or with a probability for each structure."""
    spatial_dims: ClassVar[Literal[2, 3]]
    in_channels: ClassVar[int]
    structures: ClassVar[tuple[str, ...]]
    """What is looked for; one output channel each. Structures may overlap."""
    distance_unit: ClassVar[Literal["mm", "px"]]
    """Unit of distances and of `Reference.spacing`."""
    surface_tolerances: ClassVar[tuple[float, ...]]
    """Of the surface Dice, one a structure, in `distance_unit`."""

    @abstractmethod
    def read(self, folder: Path, *, with_masks: bool = True) -> list[Case]:
        """Find and check every case of a data folder, ordered by case.

        Args:
            folder: in one of the layouts that the task knows.
            with_masks: False when only predictions are wanted; masks are then neither looked for nor
                required.

        Raises:
            DataError: the layout is unknown, the folder is empty, or files are missing, unreadable or
                inconsistent; one line that names the first few problems and their count.
        """

    @abstractmethod
    def load_image(self, case: Case, grid: Grid) -> Tensor:
        """The whole image as float32 (channels, *S), normalised: what `predict` takes.

        Photographs are resized to `grid.size`, so that S is that size. Volumes are resampled to the grid's
        spacing and keep their extent.

        Raises:
            DataError: the image cannot be read.
        """

    @abstractmethod
    def load(self, case: Case, grid: Grid) -> Sample:
        """The whole image and its mask, preprocessed as `load_image` does: what `crop` takes.

        Raises:
            DataError: a file cannot be read, or the case has no mask.
        """

    def crop(self, sample: Sample, grid: Grid, generator: torch.Generator) -> Sample:
        """What one training step sees of a loaded sample.

        Args:
            sample: as `load` gives it; it is not changed.
            grid: the one it was loaded for.
            generator: every draw comes from it.

        Returns:
            An image (channels, *grid.size) and a mask of `target_shape`. The whole sample, unless a task says
            otherwise.
        """
        del grid, generator
        return sample

    def target_shape(self, grid: Grid) -> tuple[int, ...]:
        """Shape of a crop's mask: (structures, *grid.size), unless a task says otherwise."""
        return (len(self.structures), *grid.size)

    def evaluation_crops(self, sample: Sample, grid: Grid) -> Iterator[Sample]:
        """The crops of a held-out sample that a classification task is scored on, always the same.

        Args:
            sample: as `load` gives it.
            grid: the one it was loaded for.

        Yields:
            Crops with their answers, as `crop` gives them.

        Raises:
            ConfigError: this is no classification task.
        """
        del sample, grid
        raise ConfigError(
            f"task {self.name} answers with masks; only a classification task is scored on crops"
        )

    @abstractmethod
    def reference(self, case: Case) -> Reference:
        """The case's mask at its original size.

        Raises:
            DataError: the mask cannot be read, or the case has none.
        """

    @abstractmethod
    def loss(self, logits: Tensor, mask: Tensor, present: Tensor | None = None) -> Tensor:
        """Mean loss over one unit's records; works under `torch.func.vmap` and `grad`.

        Args:
            logits: (k, structures, *S), the network's raw output.
            mask: (k, structures, *S), in {0, 1}, of any dtype.
            present: (k,) of 0 and 1, or bool: which records are real and which are padding; None means all.

        Returns:
            A scalar. Padding contributes nothing; with no record present it is 0 with zero gradient.
        """

    @abstractmethod
    def augment(self, sample: Sample, generator: torch.Generator) -> Sample:
        """A random variant of a crop with the same shapes; every draw comes from `generator`."""

    @abstractmethod
    def predict(
        self, model: nn.Module, image: Tensor, grid: Grid, *, size: Sequence[int] | None = None
    ) -> Tensor:
        """Segment one whole image; volumes in windows of `grid.size`.

        The caller has put the model into evaluation mode.

        Args:
            model: maps (1, channels, *S) to logits (1, structures, *S).
            image: float32 (channels, *S), as `load_image` gives it.
            grid: the one it was loaded for.
            size: spatial size of the answer; probabilities are interpolated to it before they are
                thresholded. None keeps the image's own. Pass the reference's size to score, the original
                image's to write masks.

        Returns:
            uint8 in {0, 1}, (structures, *size).
        """

    def score(
        self, prediction: Tensor, reference: Tensor, spacing: Sequence[float] | None = None
    ) -> tuple[StructureScore, ...]:
        """Dice, surface Dice and surface distances of each structure; see `adpfl.evaluation.metrics`.

        Args:
            prediction: (structures, *S) in {0, 1}.
            reference: (structures, *S) in {0, 1}, of the prediction's shape.
            spacing: of the reference, in `distance_unit`; None means 1 along each axis.
        """
        return score_structures(
            prediction, reference, self.structures, spacing, tolerances=self.surface_tolerances
        )

    @abstractmethod
    def original_size(self, case: Case) -> tuple[int, ...]:
        """Spatial size of the case's image on disk, in the axis order of `predict`'s answer.

        Raises:
            DataError: the image cannot be read.
        """

    @abstractmethod
    def write_prediction(self, prediction: Tensor, case: Case, folder: Path) -> Path:
        """Write a segmentation as the layout's own kind of mask file and return its path.

        Args:
            prediction: uint8 in {0, 1}, (structures, *original_size).
            case: names the file.
            folder: exists already.
        """

    @abstractmethod
    def write_overlay(self, prediction: Tensor, case: Case, path: Path) -> None:
        """Write a PNG of the case's image with the contours of its reference mask and of a prediction.

        Args:
            prediction: uint8 in {0, 1}, (structures, *original_size).
            case: the case that was segmented; it must have a mask.
            path: the PNG to write.

        Raises:
            DataError: image or mask cannot be read.
        """
