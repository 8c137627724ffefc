"""Generates abdominal CT with kidney masks: imaginary hospitals for the demonstration and the tests.

Body, organs, kidneys and masses are painted in Hounsfield units on a fine lattice (`kidneys`, `abdomen`),
then scanned: blurred within the slice, averaged over the slice's thickness, and covered with correlated noise
that grows towards the middle of the body. The annotator draws at the hospital's habitual distance from the
true border. Hospitals differ in contrast phase, machine and patients (`ct_sites`), so that a network trained
at one does worse at another.

The same seed gives the same files with the same versions of NumPy, SciPy and nibabel.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adpfl.data.case import Case
from adpfl.data.site_folder import staged_folder
from adpfl.data.synthetic.abdomen import paint_abdomen
from adpfl.data.synthetic.ct_sites import PROFILES, CtProfile
from adpfl.data.synthetic.kidneys import Kidneys, draw_kidneys
from adpfl.data.synthetic.lattice import Lattice, Millimetres, Volume, sample_axis
from adpfl.data.synthetic.nifti import is_marked, write_nifti
from adpfl.data.volume_table import write_volume_table
from adpfl.errors import ConfigError

DEFAULT_EXTENT_MM: Millimetres = (176.0, 208.0, 272.0)
"""What a generated scan covers from top to bottom, front to back and right to left."""
DEFAULT_PIXEL_MM = 4.0
"""Coarse, so that a small network learns within minutes on a processor."""
CONVENTION = "kits23"
IMAGING, SEGMENTATION = "imaging.nii.gz", "segmentation.nii.gz"
FIRST_NUMBER = 50_000
"""Generated cases are numbered from here, far above those of the real data set; each site has 10,000."""

_CASES_PER_SITE = 10_000
_LEAST, _MOST = -1024.0, 3071.0


@dataclass(frozen=True, slots=True)
class Scan:
    """One generated examination, inferior, posterior and left growing along the axes.

    Attributes:
        hu: int16 (slices, rows, columns).
        labels: uint8, 1 kidney, 2 tumour, 3 cyst.
        spacing_mm: between slices, rows and columns.
    """

    hu: NDArray[np.int16]
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
    """Write one hospital's data set in the layout of KiTS23, with a `metadata.csv` that names the site.

    The folder appears whole or not at all.

    Args:
        folder: must not exist, or be empty.
        profile: A, B, C or D; see `PROFILES`.
        cases: how many patients, one scan each.
        seed: another seed gives other patients.
        extent_mm: what a scan covers along slices, rows and columns.
        pixel_mm: size of a pixel, which the hospital's own habit varies by a tenth; slices are as thick as
            the hospital takes them, and no thinner than a pixel.

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
            f"the extent of synthetic scans is {extent_mm} mm; must be >= 32 pixels of {pixel_mm} mm"
        )
    first = FIRST_NUMBER + sorted(PROFILES).index(profile) * _CASES_PER_SITE
    written: list[Case] = []
    with staged_folder(folder) as staging:
        for patient in range(cases):
            rng = np.random.default_rng([seed, ord(profile), patient])
            chosen = PROFILES[profile]
            lattice = Lattice.covering(extent_mm, pixel_mm * chosen.pixel)
            made = scan(lattice, draw_kidneys(lattice, chosen, rng), chosen, rng)
            name = f"case_{first + patient:05d}"
            write_case(made, staging / name)
            written.append(_case(folder, name, f"{profile}-{patient:05d}", f"site-{profile}"))
        write_volume_table(written, staging)
    return written


def is_generated(case: Case) -> bool:
    """Whether a case came from this module, also after its files were copied, linked or dealt out."""
    return is_marked(case.image)


def scan(
    lattice: Lattice,
    kidneys: Kidneys,
    profile: CtProfile,
    rng: np.random.Generator,
    *,
    redraw: bool = True,
) -> Scan:
    """Scan and annotate a patient as this hospital does.

    Args:
        lattice: where the kidneys were drawn.
        kidneys: the patient's.
        profile: the hospital's habits.
        rng: noise, and all of the patient but the kidneys.
        redraw: False keeps the outlines as they are, without the annotator's offset.
    """
    hu = paint_abdomen(lattice, kidneys, profile, rng)
    step = lattice.spacing_mm[0]
    thickness = max(profile.slice_mm, step)
    within = [profile.blur_mm / spacing for spacing in lattice.spacing_mm[1:]]
    through = thickness / step / 2.355 if thickness > step else 0.0
    blurred = ndimage.gaussian_filter(hu, (through, *within))
    places = np.arange(0.0, lattice.shape[0] - 0.5, thickness / step)
    slices = sample_axis(blurred, places, 0)
    sampled = Lattice((len(places), *lattice.shape[1:]), (thickness, *lattice.spacing_mm[1:]))
    noisy = slices + profile.offset_hu + _noise(sampled, slices, profile, rng)
    wobble: Volume | float = 0.0
    if redraw:
        wobble = np.float32(profile.annotator_offset_mm) + np.float32(0.5) * lattice.noise(rng, 15.0)
    labels = _annotate(kidneys, wobble, places)
    return Scan(np.clip(np.rint(noisy), _LEAST, _MOST).astype(np.int16), labels, sampled.spacing_mm)


def write_case(made: Scan, folder: Path) -> None:
    """Write `imaging.nii.gz` and `segmentation.nii.gz` with the axes of KiTS: inferior, posterior, left."""
    folder.mkdir()
    slices, rows, columns = made.spacing_mm
    affine = np.array(
        [[0, 0, -columns, 0], [0, -rows, 0, 0], [-slices, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64
    )
    write_nifti(made.hu, affine, folder / IMAGING)
    write_nifti(made.labels, affine, folder / SEGMENTATION)


def _case(folder: Path, name: str, patient: str, source: str) -> Case:
    return Case(
        name, patient, folder / name / IMAGING, folder / name / SEGMENTATION, source, labels=CONVENTION
    )


def _noise(lattice: Lattice, hu: Volume, profile: CtProfile, rng: np.random.Generator) -> Volume:
    """Quantum noise: grained within the slice, new in each slice, twice as strong deep in the body."""
    grain = [profile.grain_mm / spacing for spacing in lattice.spacing_mm[1:]]
    field = ndimage.gaussian_filter(rng.standard_normal(lattice.shape, dtype=np.float32), (0.0, *grain))
    field /= np.float32(field.std())
    depth = ndimage.gaussian_filter((hu > -300.0).astype(np.float32), [30.0 / s for s in lattice.spacing_mm])
    noise: Volume = (profile.noise_hu * (0.6 + 1.1 * depth) * field).astype(np.float32)
    return noise


def _annotate(kidneys: Kidneys, outward: Volume | float, places: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Labels on the slices' planes; a mass too small for its slices is lost, as in life."""
    labels = kidneys.labels(outward)
    nearest = np.minimum(np.rint(places).astype(np.intp), labels.shape[0] - 1)
    return np.ascontiguousarray(labels[nearest])
