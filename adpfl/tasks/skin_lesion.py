"""Skin lesions in dermoscopic RGB photographs: one structure, the lesion.

Distances are in pixels of the reference mask as it was drawn: dermoscopes do not record their scale, so an
HD95 is comparable between models on the same images and not between images of different resolution.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from monai.transforms import NormalizeIntensity
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from adpfl.data.case import Case
from adpfl.data.grid import Grid
from adpfl.data.images import read_mask, read_rgb, read_size, write_mask
from adpfl.data.skin_layouts import read_skin_folder
from adpfl.errors import DataError
from adpfl.evaluation.overlays import write_overlay
from adpfl.tasks.losses import dice_cross_entropy
from adpfl.tasks.task import Reference, Sample, Task

_NORMALIZE = NormalizeIntensity(channel_wise=True)


class SkinLesion(Task):
    """ISIC 2017, ISIC 2018 and HAM10000 folders; images stretched to the grid and z-scored a channel."""

    name: ClassVar[str] = "skin_lesion"
    spatial_dims: ClassVar[Literal[2, 3]] = 2
    in_channels: ClassVar[int] = 3
    structures: ClassVar[tuple[str, ...]] = ("lesion",)
    distance_unit: ClassVar[Literal["mm", "px"]] = "px"
    surface_tolerances: ClassVar[tuple[float, ...]] = (3.0,)
    """No challenge states one: half a per cent of the width of HAM10000's images, which are 600 wide."""

    def read(self, folder: Path, *, with_masks: bool = True) -> list[Case]:
        """Every case of an ISIC 2017, ISIC 2018 or HAM10000 folder; see `adpfl.data.skin_layouts`."""
        return read_skin_folder(folder, with_masks=with_masks)

    def load_image(self, case: Case, grid: Grid) -> Tensor:
        """The photograph as float32 (3, height, width), each channel with mean 0 and standard deviation 1."""
        height, width = grid.size
        pixels = Image.fromarray(read_rgb(case.image, at_least=(height, width)))
        resized = np.asarray(pixels.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
        normalised: Tensor = _NORMALIZE(torch.from_numpy(resized).permute(2, 0, 1)).as_tensor()
        return normalised.contiguous()

    def load(self, case: Case, grid: Grid) -> Sample:
        """Image and mask, both stretched to the grid; mask pixels are set where the lesion fills half."""
        height, width = grid.size
        levels = Image.fromarray(_mask_of(case) * np.uint8(255))
        resized = np.asarray(levels.resize((width, height), Image.Resampling.BILINEAR))
        mask = torch.from_numpy((resized >= 128).astype(np.uint8))[None]
        return Sample(self.load_image(case, grid), mask)

    def reference(self, case: Case) -> Reference:
        """The mask as it was drawn, (1, height, width), with a spacing of one pixel."""
        return Reference(torch.from_numpy(_mask_of(case))[None], (1.0, 1.0))

    def loss(self, logits: Tensor, mask: Tensor, present: Tensor | None = None) -> Tensor:
        """Soft Dice plus cross-entropy; see `adpfl.tasks.losses.dice_cross_entropy`."""
        return dice_cross_entropy(logits, mask, present)

    def augment(self, sample: Sample, generator: torch.Generator) -> Sample:
        """One of the symmetries of the frame, uniformly: the 8 of a square, or the 4 of another rectangle."""
        turns, mirror = torch.randint(0, 4, (2,), generator=generator).tolist()
        height, width = sample.image.shape[-2:]
        if height != width:
            turns = 2 * (turns % 2)
        image, mask = (torch.rot90(pixels, turns, dims=(-2, -1)) for pixels in (sample.image, sample.mask))
        if mirror % 2:
            image, mask = image.flip(-1), mask.flip(-1)
        return Sample(image.contiguous(), mask.contiguous())

    def predict(
        self, model: nn.Module, image: Tensor, grid: Grid, *, size: Sequence[int] | None = None
    ) -> Tensor:
        """Segment one image; probabilities are interpolated bilinearly to `size` and thresholded at 1/2."""
        del grid  # the image is loaded at its size
        with torch.inference_mode():
            probability = torch.sigmoid(model(image[None]).float())
            if size is not None and tuple(size) != tuple(probability.shape[2:]):
                probability = functional.interpolate(probability, size=tuple(size), mode="bilinear")
            return (probability[0] >= 0.5).to(torch.uint8)

    def original_size(self, case: Case) -> tuple[int, ...]:
        """(height, width) of the photograph on disk."""
        return read_size(case.image)

    def write_prediction(self, prediction: Tensor, case: Case, folder: Path) -> Path:
        """Write `CASE_segmentation.png`, 0 and 255, as ISIC's own masks are."""
        path = folder / f"{case.case}_segmentation.png"
        write_mask(_as_array(prediction), path)
        return path

    def write_overlay(self, prediction: Tensor, case: Case, path: Path) -> None:
        """Write the photograph with both contours; see `adpfl.evaluation.overlays`."""
        write_overlay(read_rgb(case.image), _mask_of(case), _as_array(prediction), path)


def _mask_of(case: Case) -> NDArray[np.uint8]:
    if case.mask is None:
        raise DataError(f"{case.case} has no mask; this needs one")
    return read_mask(case.mask)


def _as_array(prediction: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = prediction[0].cpu().numpy().astype(np.uint8)
    return array
