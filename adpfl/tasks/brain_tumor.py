"""Gliomas in four MR sequences, scored as the BraTS challenges score them."""

from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from monai.transforms import NormalizeIntensity
from numpy.typing import NDArray
from torch import Tensor

from adpfl.data.brain_layouts import read_brain_folder
from adpfl.data.brats import BRAIN_CHANNELS, brain_channels, read_brain_image
from adpfl.data.case import Case
from adpfl.data.labels import BRAIN_STRUCTURES
from adpfl.data.msd import is_msd_case
from adpfl.data.volumes import Volume
from adpfl.tasks.volume_task import Spacing, VolumeTask

_NORMALIZE: Final = NormalizeIntensity(nonzero=True, channel_wise=True)
_SHOWN: Final = {"T1 with contrast": BRAIN_CHANNELS.index("t1c"), "FLAIR": BRAIN_CHANNELS.index("flair")}
_DISPLAY_PERCENTILES: Final = (1.0, 99.5)
"""Of the brain's voxels, drawn black and white: MR intensities have no unit."""


class BrainTumor(VolumeTask):
    """BraTS 2020 to 2024, FeTS and the decathlon's Task01; each sequence z-scored over its non-zero voxels.

    The structures are whole tumour, tumour core, enhancing tumour and, as the challenge of 2024 adds,
    non-enhancing core. Images are skull-stripped: 0 is what lies around the brain.
    """

    name: ClassVar[str] = "brain_tumor"
    in_channels: ClassVar[int] = len(BRAIN_CHANNELS)
    structures: ClassVar[tuple[str, ...]] = BRAIN_STRUCTURES
    surface_tolerances: ClassVar[tuple[float, ...]] = (1.0,) * len(BRAIN_STRUCTURES)
    """The larger of the two, 0.5 and 1 mm, that the challenge reports from 2024 on: one voxel."""
    default_spacing_mm: ClassVar[Spacing] = (1.0, 1.0, 1.0)
    background: ClassVar[float] = 0.0

    def read(self, folder: Path, *, with_masks: bool = True) -> list[Case]:
        """Every case of a BraTS, FeTS or decathlon folder; see `adpfl.data.brain_layouts`."""
        return read_brain_folder(folder, with_masks=with_masks)

    def read_volume(self, case: Case) -> Volume:
        """The four sequences in the order of `adpfl.data.brats.BRAIN_CHANNELS`."""
        return read_brain_image(case)

    def normalise(self, image: NDArray[np.float32]) -> Tensor:
        """Mean 0 and deviation 1 over each sequence's non-zero voxels; zeros stay."""
        scaled: Tensor = _NORMALIZE(image).as_tensor()
        return scaled

    def header_file(self, case: Case) -> Path:
        """The decathlon's one file, or the first sequence's."""
        return case.image if is_msd_case(case) else brain_channels(case)[0]

    def display(self, image: NDArray[np.float32], position: int) -> dict[str, NDArray[np.float32]]:
        """The slice in T1 with contrast, which shows the core, and in FLAIR, which shows the oedema."""
        return {name: _windowed(image[channel], position) for name, channel in _SHOWN.items()}


def _windowed(sequence: NDArray[np.float32], position: int) -> NDArray[np.float32]:
    brain = sequence[sequence != 0]
    if brain.size == 0:
        return np.zeros_like(sequence[position])
    low, high = np.percentile(brain, _DISPLAY_PERCENTILES)
    shown = np.where(sequence[position] != 0, (sequence[position] - low) / max(high - low, 1e-6), 0.0)
    return shown.astype(np.float32)
