"""What the tasks on volumes have in common: resampling, patches, flips, windows, NIfTI masks."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from numpy.typing import NDArray
from torch import Tensor, nn

from adpfl.data.case import Case
from adpfl.data.grid import Grid
from adpfl.data.labels import labels_of, structures_of
from adpfl.data.volumes import Volume, read_header, read_label_volume, write_label_volume
from adpfl.errors import DataError
from adpfl.evaluation.panels import write_panels
from adpfl.tasks.losses import dice_cross_entropy
from adpfl.tasks.patches import content_box, foreground_patch
from adpfl.tasks.resampling import resample_image, resample_mask, resampled_size, threshold_at
from adpfl.tasks.task import Reference, Sample, Task

Spacing = tuple[float, float, float]

_WINDOW_OVERLAP: Final = 0.25
"""Of neighbouring windows, which are blended by a Gaussian: MONAI's own default."""
_CONTRAST: Final = 0.1
"""The most by which augmentation scales a channel's distance from the background."""


class VolumeTask(Task):
    """A segmentation task on volumes; a subclass says how a case is read and normalised.

    Whole samples hold their image in float16, which halves what a site keeps in memory; crops are float32.
    """

    spatial_dims: ClassVar[Literal[2, 3]] = 3
    distance_unit: ClassVar[Literal["mm", "px"]] = "mm"
    default_spacing_mm: ClassVar[Spacing]
    """Of a plan that states none."""
    background: ClassVar[float]
    """What lies around the body, after normalisation."""

    @abstractmethod
    def read_volume(self, case: Case) -> Volume:
        """The image as it is stored, float32 (channels, slices, rows, columns) in the fixed orientation.

        Raises:
            DataError: a file cannot be read.
        """

    @abstractmethod
    def normalise(self, image: NDArray[np.float32]) -> Tensor:
        """The image (channels, *S) in the network's units, float32."""

    @abstractmethod
    def header_file(self, case: Case) -> Path:
        """A file of the case that has its image's size, orientation and place."""

    @abstractmethod
    def display(self, image: NDArray[np.float32], position: int) -> dict[str, NDArray[np.float32]]:
        """An axial slice as a person looks at it: grey (rows, columns) in [0, 1] by the channel's name.

        Args:
            image: as `read_volume` gives it.
            position: of the slice.
        """

    def load_image(self, case: Case, grid: Grid) -> Tensor:
        """The whole volume, normalised and resampled to the grid's spacing, float32."""
        volume = self.read_volume(case)
        image = self.normalise(volume.array)
        size = resampled_size(image.shape[1:], volume.spacing_mm, grid.spacing_mm or self.default_spacing_mm)
        return resample_image(image, size)

    def load(self, case: Case, grid: Grid) -> Sample:
        """Image and mask within the box outside which the image is background."""
        image = self.load_image(case, grid)
        mask = resample_mask(self._structures_of(case), image.shape[1:])
        box = (slice(None), *content_box(image, self.background))
        if image[box].numel() == 0:
            raise DataError(f"{case.case}: the image is empty: every voxel is background")
        return Sample(image[box].to(torch.float16), mask[box].clone())

    def crop(self, sample: Sample, grid: Grid, generator: torch.Generator) -> Sample:
        """A patch balanced between structures and anywhere; see `adpfl.tasks.patches.foreground_patch`."""
        return foreground_patch(sample, grid.size, generator, background=self.background)

    def augment(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Each axis mirrored or not, evenly; each channel brighter or darker by up to a tenth."""
        coins = torch.randint(0, 2, (3,), generator=generator).tolist()
        axes = [axis - 3 for axis, coin in enumerate(coins) if coin]
        image, mask = sample.image.flip(axes), sample.mask.flip(axes)
        draws = torch.rand((len(image), 1, 1, 1), generator=generator) * 2.0 - 1.0
        changed = self.background + (image - self.background) * (1.0 + _CONTRAST * draws)
        return Sample(changed, mask)

    def loss(self, logits: Tensor, mask: Tensor, present: Tensor | None = None) -> Tensor:
        """Soft Dice plus cross-entropy; see `adpfl.tasks.losses.dice_cross_entropy`."""
        return dice_cross_entropy(logits, mask, present)

    def reference(self, case: Case) -> Reference:
        """The mask as it was drawn, (structures, slices, rows, columns), and its spacing."""
        return Reference(self._structures_of(case), read_header(_mask_of(case)).spacing_mm)

    def predict(
        self, model: nn.Module, image: Tensor, grid: Grid, *, size: Sequence[int] | None = None
    ) -> Tensor:
        """Segment one volume in overlapping windows of `grid.size`; around the body nothing is predicted."""
        box = (slice(None), *content_box(image, self.background))
        probability = torch.zeros((len(self.structures), *image.shape[1:]))
        if image[box].numel() > 0:
            window = SlidingWindowInferer(
                grid.size, overlap=_WINDOW_OVERLAP, mode="gaussian", cval=self.background
            )
            with torch.inference_mode():
                probability[box] = window(
                    image[box][None], lambda patch: torch.sigmoid(model(patch).float())
                )[0]
        return threshold_at(probability, tuple(size or image.shape[1:]))

    def original_size(self, case: Case) -> tuple[int, ...]:
        """(slices, rows, columns) of the image on disk."""
        return read_header(self.header_file(case)).size

    def write_prediction(self, prediction: Tensor, case: Case, folder: Path) -> Path:
        """Write `CASE.nii.gz` with the data set's own labels, in the orientation and place of the image."""
        path = folder / f"{case.case}.nii.gz"
        labels = labels_of(prediction.cpu().numpy(), _convention_of(case))
        write_label_volume(labels, self.header_file(case), path)
        return path

    def write_overlay(self, prediction: Tensor, case: Case, path: Path) -> None:
        """Write one axial slice, reference beside prediction; see `adpfl.evaluation.panels`.

        The slice is the one in which the smallest structure that the reference has, a tumour before a
        kidney, fills most; of an empty reference, the one in which the prediction does.
        """
        volume = self.read_volume(case)
        reference = self._structures_of(case)
        position = _most_telling_slice(reference, prediction)
        write_panels(
            self.display(volume.array, position),
            reference[:, position].numpy(),
            prediction[:, position].cpu().numpy(),
            path,
            structures=self.structures,
            pixel_mm=volume.spacing_mm[1:],
        )

    def _structures_of(self, case: Case) -> Tensor:
        labels = read_label_volume(_mask_of(case)).array
        try:
            return torch.from_numpy(structures_of(labels, _convention_of(case)))
        except DataError as error:
            raise DataError(f"{case.case}: {error}") from error


def _most_telling_slice(reference: Tensor, prediction: Tensor) -> int:
    for masks in (reference, prediction):
        filled = [one for one in masks if bool(one.any())]
        if filled:
            smallest = min(filled, key=lambda one: int(one.sum()))
            return int(smallest.sum(dim=(1, 2)).argmax())
    return reference.shape[1] // 2


def _mask_of(case: Case) -> Path:
    if case.mask is None:
        raise DataError(f"{case.case} has no mask; this needs one")
    return case.mask


def _convention_of(case: Case) -> str:
    if case.labels is None:
        raise DataError(f"{case.case} does not say which labels its data set uses")
    return case.labels
