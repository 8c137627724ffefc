"""What a segmentation task is: its files, its samples, its loss and its scores.

A task holds no state and does no training. Other packages add tasks by registering a subclass under the entry
point group `adpfl.tasks` (see `adpfl.tasks.registry`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from adpfl.data.case import Case
from adpfl.evaluation.metrics import StructureScore


@dataclass(frozen=True, slots=True)
class Sample:
    """One case as the network sees it.

    Attributes:
        image: float32 (channels, *image_size), normalised.
        mask: uint8 in {0, 1}, (structures, *image_size).
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
    """A segmentation problem. Subclasses are stateless and take no constructor arguments."""

    name: ClassVar[str]
    """As plans name it: lower case letters, digits, `_` and `-`."""
    spatial_dims: ClassVar[Literal[2, 3]]
    in_channels: ClassVar[int]
    structures: ClassVar[tuple[str, ...]]
    """What is segmented; one output channel each. Structures may overlap."""
    distance_unit: ClassVar[Literal["mm", "px"]]
    """Unit of HD95 and of `Reference.spacing`."""

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
    def load_image(self, case: Case, image_size: Sequence[int]) -> Tensor:
        """The case's image as float32 (channels, *image_size), normalised.

        Raises:
            DataError: the image cannot be read.
        """

    @abstractmethod
    def load(self, case: Case, image_size: Sequence[int]) -> Sample:
        """The case's image and mask at the network's size.

        Raises:
            DataError: a file cannot be read, or the case has no mask.
        """

    @abstractmethod
    def reference(self, case: Case) -> Reference:
        """The case's mask at its original size.

        Raises:
            DataError: the mask cannot be read, or the case has none.
        """

    @abstractmethod
    def loss(self, logits: Tensor, mask: Tensor, present: Tensor | None = None) -> Tensor:
        """Mean loss over one unit's records, differentiable by the logits.

        Args:
            logits: (k, structures, *S), the network's raw output.
            mask: (k, structures, *S), in {0, 1}, of any dtype.
            present: (k,) of 0 and 1, or bool: which records are real and which are padding; None means all.

        Returns:
            A scalar. Padding contributes nothing; with no record present it is 0 with zero gradient.
        """

    @abstractmethod
    def augment(self, sample: Sample, generator: torch.Generator) -> Sample:
        """A random variant of the sample with the same shapes; every draw comes from `generator`."""

    @abstractmethod
    def predict(self, model: nn.Module, image: Tensor, *, size: Sequence[int] | None = None) -> Tensor:
        """Segment one image.

        The caller has put the model into evaluation mode.

        Args:
            model: maps (1, channels, *S) to logits (1, structures, *S).
            image: float32 (channels, *S), as `load_image` gives it.
            size: spatial size of the answer; probabilities are interpolated to it before they are
                thresholded. None keeps the image's own. Pass the reference's size to score, the original
                image's to write masks.

        Returns:
            uint8 in {0, 1}, (structures, *size).
        """

    @abstractmethod
    def score(
        self, prediction: Tensor, reference: Tensor, spacing: Sequence[float] | None = None
    ) -> tuple[StructureScore, ...]:
        """Dice and HD95 of each structure.

        Args:
            prediction: (structures, *S) in {0, 1}.
            reference: (structures, *S) in {0, 1}, of the prediction's shape.
            spacing: of the reference, in `distance_unit`; None means 1 along each axis.
        """

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
