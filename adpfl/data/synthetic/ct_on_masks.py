"""Paints abdominal CT on real kidney masks, so that anatomy, lesion sizes and hospitals are real.

Each real hospital gets a profile of its own between two of the imaginary ones, always the same, and each scan
keeps the slice distance of the real one. The outlines are the real annotator's; cysts are added, since masks
that know none call them kidney.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from adpfl.data.case import Case
from adpfl.data.site_folder import staged_folder
from adpfl.data.synthetic.ct import CONVENTION, IMAGING, SEGMENTATION, Scan, scan, write_case
from adpfl.data.synthetic.ct_sites import PROFILES, CtProfile, blend
from adpfl.data.synthetic.kidney_masks import MASK_SPACING_MM, RealMask
from adpfl.data.synthetic.kidneys import kidneys_of_mask
from adpfl.data.synthetic.lattice import Lattice
from adpfl.data.volume_table import write_volume_table
from adpfl.errors import ConfigError

DEFAULT_PIXEL_MM = MASK_SPACING_MM
_LEAST_EXTENT = (40, 68, 88)
_LEAST_MARGIN = (3, 10, 8)
"""In voxels of the mask, at either end of slices, rows and columns."""
_STREAM = 2021
"""Sets the hospitals' draws apart from the patients'."""


def write_painted(
    folder: Path, masks: Sequence[RealMask], *, seed: int, pixel_mm: float = DEFAULT_PIXEL_MM
) -> list[Case]:
    """Write a scan for each mask in the layout of KiTS23, with a `metadata.csv` that names the real hospital.

    The folder appears whole or not at all. Cases keep their names, so that tables of the real data set fit.

    Args:
        folder: must not exist, or be empty.
        masks: see `adpfl.data.synthetic.kidney_masks.read_masks`; at least one, and none twice.
        seed: another seed gives the same kidneys in other bodies.
        pixel_mm: size of a pixel; slices are no thinner.

    Returns:
        The cases written, ordered by case.

    Raises:
        ConfigError: there is no mask, or the pixel is not positive.
        DataError: the folder is not empty or cannot be written.
    """
    if not masks:
        raise ConfigError("the number of masks to paint on is 0; must be >= 1")
    if pixel_mm <= 0.0:
        raise ConfigError(f"the pixel of painted scans is {pixel_mm} mm; must be > 0")
    written: list[Case] = []
    with staged_folder(folder) as staging:
        for mask in sorted(masks, key=lambda mask: mask.case):
            write_case(paint(mask, seed=seed, pixel_mm=pixel_mm), staging / mask.case)
            place = folder / mask.case
            written.append(
                Case(
                    mask.case,
                    mask.case,
                    place / IMAGING,
                    place / SEGMENTATION,
                    f"site-{mask.hospital}",
                    labels=CONVENTION,
                )
            )
        write_volume_table(written, staging)
    return written


def paint(mask: RealMask, *, seed: int, pixel_mm: float = DEFAULT_PIXEL_MM) -> Scan:
    """One scan on a mask; its outlines stay as they are, but for slices further apart."""
    rng = np.random.default_rng([seed, *mask.case.encode()])
    profile = replace(hospital_profile(mask.hospital), slice_mm=mask.slice_mm)
    slices, rows, columns = (
        (count + 2 * max(margin, -((count - least) // 2))) * MASK_SPACING_MM
        for count, margin, least in zip(mask.labels.shape, _LEAST_MARGIN, _LEAST_EXTENT, strict=True)
    )
    lattice = Lattice.covering((slices, rows, columns), pixel_mm)
    kidneys = kidneys_of_mask(lattice, mask.labels, MASK_SPACING_MM, profile, rng)
    return scan(lattice, kidneys, profile, rng, redraw=False)


def hospital_profile(hospital: int) -> CtProfile:
    """The habits of a real hospital's imaginary double: mostly one profile's, partly another's."""
    rng = np.random.default_rng([_STREAM, hospital])
    first, second = (PROFILES[sorted(PROFILES)[index]] for index in rng.permutation(len(PROFILES))[:2])
    return blend(first, second, float(rng.uniform(0.0, 0.5)))
