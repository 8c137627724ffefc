"""Generates four-channel brain MRI with tumour masks: imaginary hospitals for demonstration and tests.

A brain is drawn as shares of fluid, grey and white matter (`brain`), a tumour grows in it (`glioma`), and the
signal equations of spin echo and inversion recovery turn tissue into brightness (`mr_signal`); then come
shading, misfit between the images, blur, Rician noise and skull stripping. Hospitals differ in magnet,
sequences, contrast agent and patients (`mri_sites`), so that a network trained at one does worse at another.

The same seed gives the same files with the same versions of NumPy, SciPy and nibabel.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adpfl.data.case import Case
from adpfl.data.site_folder import staged_folder
from adpfl.data.synthetic.brain import Brain, draw_brain
from adpfl.data.synthetic.glioma import Glioma, grow_glioma
from adpfl.data.synthetic.lattice import Lattice, Millimetres, Volume, cover
from adpfl.data.synthetic.mr_signal import Sequence, Tissue, in_field, signal, with_contrast
from adpfl.data.synthetic.mri_sites import PROFILES, MriProfile
from adpfl.data.synthetic.nifti import is_marked, write_nifti
from adpfl.data.volume_table import write_volume_table
from adpfl.errors import ConfigError

DEFAULT_EXTENT_MM: Millimetres = (144.0, 180.0, 144.0)
"""What a generated image covers from bottom to top, front to back and right to left."""
DEFAULT_PIXEL_MM = 3.0
"""Coarse, so that a small network learns within minutes on a processor."""
CHANNELS: Final = ("t1n", "t1c", "t2w", "t2f")
"""T1, T1 with contrast agent, T2, and T2 with suppressed fluid, by the names of BraTS 2023."""
CONVENTION = "brats2023"
FIRST_NUMBER = 50_000
"""Generated cases are numbered from here, far above those of the real data set; each site has 10,000."""

_CASES_PER_SITE = 10_000
_TISSUES: Mapping[str, Tissue] = MappingProxyType(
    {
        "fluid": Tissue(1.0, 3800, 1600, leak=0.0),
        "grey": Tissue(0.83, 950, 95),
        "white": Tissue(0.71, 620, 76),
        "spots": Tissue(0.80, 900, 125),
        "vessels": Tissue(0.80, 1400, 60, leak=0.7),
        "oedema": Tissue(0.84, 1150, 150),
        "enhancing": Tissue(0.85, 1250, 120, leak=1.0),
        "necrosis": Tissue(0.95, 1900, 320, leak=0.05),
    }
)


@dataclass(frozen=True, slots=True)
class Study:
    """One generated examination, superior, posterior and left growing along the axes.

    Attributes:
        channels: int16 (4, slices, rows, columns) in the order of `CHANNELS`; 0 outside the brain.
        labels: uint8 (slices, rows, columns), 1 necrosis, 2 oedema, 3 enhancing tumour.
        spacing_mm: between slices, rows and columns.
    """

    channels: NDArray[np.int16]
    labels: NDArray[np.uint8]
    spacing_mm: Millimetres


def write_hospital(
    folder: Path,
    profile: str,
    *,
    cases: int,
    seed: int,
    extent_mm: Millimetres = DEFAULT_EXTENT_MM,
    pixel_mm: float = DEFAULT_PIXEL_MM,
) -> list[Case]:
    """Write one hospital's data set in the layout of BraTS 2023, with a `metadata.csv` that names the site.

    The folder appears whole or not at all.

    Args:
        folder: must not exist, or be empty.
        profile: A, B, C or D; see `PROFILES`.
        cases: how many patients, one examination each.
        seed: another seed gives other patients.
        extent_mm: what an image covers along slices, rows and columns.
        pixel_mm: edge of a voxel.

    Returns:
        The cases written, ordered by case.

    Raises:
        ConfigError: the profile is unknown, or a number is too small or too large.
        DataError: the folder is not empty or cannot be written.
    """
    if profile not in PROFILES:
        raise ConfigError(f"synthetic profile is {profile!r}; must be one of {', '.join(PROFILES)}")
    if not 1 <= cases <= _CASES_PER_SITE:
        raise ConfigError(f"the number of synthetic cases is {cases}; must be 1 to {_CASES_PER_SITE}")
    if min(extent_mm) < 32 * pixel_mm:
        raise ConfigError(
            f"the extent of synthetic images is {extent_mm} mm; must be >= 32 voxels of {pixel_mm} mm"
        )
    first = FIRST_NUMBER + sorted(PROFILES).index(profile) * _CASES_PER_SITE
    lattice = Lattice.covering(extent_mm, pixel_mm)
    written: list[Case] = []
    with staged_folder(folder) as staging:
        for patient in range(cases):
            rng = np.random.default_rng([seed, ord(profile), patient])
            brain = draw_brain(lattice, PROFILES[profile], rng)
            made = examine(brain, grow_glioma(brain, PROFILES[profile], rng), PROFILES[profile], rng)
            name = f"BraTS-GLI-{first + patient:05d}-000"
            write_case(made, staging / name)
            mask = folder / name / f"{name}-seg.nii.gz"
            written.append(
                Case(
                    name,
                    f"{profile}-{patient:05d}",
                    folder / name,
                    mask,
                    f"site-{profile}",
                    labels=CONVENTION,
                )
            )
        write_volume_table(written, staging)
    return written


def is_generated(case: Case) -> bool:
    """Whether a case came from this module, also after its files were copied, linked or dealt out."""
    first = case.image / f"{case.image.name}-{CHANNELS[0]}.nii.gz"
    return first.is_file() and is_marked(first)


def examine(brain: Brain, glioma: Glioma, profile: MriProfile, rng: np.random.Generator) -> Study:
    """Scan and annotate a patient as this hospital does."""
    lattice = brain.lattice
    shares = _shares(brain, glioma)
    shown = brain.depth > 0.0
    dose = rng.uniform(*profile.dose_millimolar)
    channels = np.zeros((len(CHANNELS), *lattice.shape), dtype=np.int16)
    for index, (sequence, given) in enumerate(_sequences(profile, dose)):
        image = _image(shares, sequence, given, profile)
        measured = _measure(image, lattice, profile, rng)
        scaled = profile.gain * float(np.exp(0.1 * rng.standard_normal())) * measured
        channels[index] = np.clip(np.rint(scaled), 1, 32767) * shown
    wobble = np.float32(profile.annotator_offset_mm) + np.float32(0.4) * lattice.noise(rng, 12.0)
    labels = glioma.labels(wobble) * shown
    return Study(channels, labels.astype(np.uint8), lattice.spacing_mm)


def write_case(made: Study, folder: Path) -> None:
    """Write the four images and `-seg.nii.gz` with the axes of BraTS: left, posterior, superior."""
    folder.mkdir()
    slices, rows, columns = made.spacing_mm
    affine = np.diag([-columns, -rows, slices, 1.0])
    for name, array in zip(CHANNELS, made.channels, strict=True):
        write_nifti(np.ascontiguousarray(array.T), affine, folder / f"{folder.name}-{name}.nii.gz")
    write_nifti(np.ascontiguousarray(made.labels.T), affine, folder / f"{folder.name}-seg.nii.gz")


def _shares(brain: Brain, glioma: Glioma) -> dict[str, Volume]:
    """Which share of each voxel is which tissue; a tumour takes the place of what was there."""
    soft = 0.5 * max(brain.lattice.spacing_mm)
    inside = brain.fluid + brain.grey + brain.white + brain.spots + brain.vessels
    whole, core = cover(glioma.whole, 2.0 * soft), cover(glioma.core, soft)
    dead = core * cover(glioma.dead, soft)
    swollen = np.clip(whole * (1.0 - 0.6 * brain.fluid) - core, 0.0, 1.0)
    left = np.clip(1.0 - core - swollen, 0.0, 1.0)
    shares = {name: getattr(brain, name) * left for name in ("fluid", "grey", "white", "spots", "vessels")}
    return shares | {
        "oedema": swollen * inside,
        "enhancing": (core - dead) * inside,
        "necrosis": dead * inside,
    }


def _sequences(profile: MriProfile, dose: float) -> list[tuple[Sequence, float]]:
    return [(profile.t1, 0.0), (profile.t1, dose), (profile.t2, 0.0), (profile.flair, 0.0)]


def _image(shares: Mapping[str, Volume], sequence: Sequence, dose: float, profile: MriProfile) -> Volume:
    """The noiseless image: each tissue's signal by its share."""
    total = np.zeros_like(shares["fluid"])
    for name, share in shares.items():
        tissue = with_contrast(in_field(_TISSUES[name], profile.tesla), dose)
        total += np.float32(signal(tissue, sequence)) * share
    return total


def _measure(image: Volume, lattice: Lattice, profile: MriProfile, rng: np.random.Generator) -> Volume:
    """Misfit, blur, shading and the noise of a magnitude image."""
    offset = rng.normal(0.0, profile.misfit_mm, 3) / lattice.spacing_mm
    thickness = max(profile.slice_mm - lattice.spacing_mm[0], 0.0) / 2.355
    sigma = [thickness / lattice.spacing_mm[0], *(profile.blur_mm / step for step in lattice.spacing_mm[1:])]
    moved = ndimage.shift(ndimage.gaussian_filter(image, sigma), offset, order=1, mode="nearest")
    shading = np.exp(np.float32(profile.bias) * lattice.noise(rng, 90.0))
    real, imaginary = (
        np.float32(profile.noise) * rng.standard_normal(lattice.shape, dtype=np.float32) for _ in range(2)
    )
    magnitude: Volume = np.hypot(moved * shading + real, imaginary)
    return magnitude
