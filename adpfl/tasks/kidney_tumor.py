"""Kidneys, their masses and their tumours in abdominal CT, scored as the KiTS challenges score them."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from monai.transforms import ScaleIntensityRange
from numpy.typing import NDArray
from torch import Tensor

from adpfl.data.case import Case
from adpfl.data.kidney_layouts import read_kidney_folder
from adpfl.data.kits import read_kidney_image
from adpfl.data.labels import KIDNEY_STRUCTURES
from adpfl.data.volumes import Volume
from adpfl.tasks.volume_task import Spacing, VolumeTask

_CLIP_HU: Final = (-79.0, 304.0)
_MEAN_HU: Final = 101.0
_DEVIATION_HU: Final = 76.9
"""0.5 and 99.5 percentile, mean and standard deviation of the foreground of KiTS19 (Isensee et al. 2019, the
nnU-Net that won that challenge)."""
_SCALED: Final = tuple((bound - _MEAN_HU) / _DEVIATION_HU for bound in _CLIP_HU)
_DISPLAY_HU: Final = (-160.0, 240.0)
"""The radiologist's window for the abdomen: level 40, width 400."""


class KidneyTumor(VolumeTask):
    """KiTS 2019, 2021 and 2023; Hounsfield units clipped to [-79, 304] and taken as (x - 101) / 76.9."""

    name: ClassVar[str] = "kidney_tumor"
    in_channels: ClassVar[int] = 1
    structures: ClassVar[tuple[str, ...]] = KIDNEY_STRUCTURES
    surface_tolerances: ClassVar[tuple[float, ...]] = (
        1.0330772532390826,
        1.1328796488598762,
        1.1498198361434828,
    )
    """What the challenges of 2021 and 2023 use, from how much their annotators differ."""
    default_spacing_mm: ClassVar[Spacing] = (1.6, 1.2, 1.2)
    background: ClassVar[float] = _SCALED[0]

    def read(self, folder: Path, *, with_masks: bool = True) -> list[Case]:
        """Every case of a KiTS folder; see `adpfl.data.kidney_layouts`."""
        return read_kidney_folder(folder, with_masks=with_masks)

    def read_volume(self, case: Case) -> Volume:
        """The CT in Hounsfield units, one channel."""
        ct = read_kidney_image(case)
        return replace(ct, array=ct.array[None])

    def normalise(self, image: NDArray[np.float32]) -> Tensor:
        """Clip, then subtract the mean and divide by the deviation of the challenge's foreground."""
        scaled: Tensor = ScaleIntensityRange(*_CLIP_HU, *_SCALED, clip=True)(image).as_tensor()
        return scaled

    def header_file(self, case: Case) -> Path:
        """The CT itself."""
        return case.image

    def display(self, image: NDArray[np.float32], position: int) -> dict[str, NDArray[np.float32]]:
        """The slice in the abdominal window."""
        low, high = _DISPLAY_HU
        return {"CT": (image[0, position] - low) / (high - low)}
