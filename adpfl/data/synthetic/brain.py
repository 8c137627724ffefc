"""A head without a tumour: which share of each voxel is fluid, grey matter and white matter."""

from dataclasses import dataclass

import numpy as np

from adpfl.data.synthetic.lattice import Lattice, Volume, cover
from adpfl.data.synthetic.mri_sites import MriProfile

_LONG = 1e4
_CORTEX_MM = 3.2
_SULCUS_DEPTH_MM = 18.0
_SULCUS_MM = 1.0


@dataclass(frozen=True, slots=True)
class Brain:
    """Axes grow superior, posterior and left. Shares lie in [0, 1] and sum to the brain's own cover.

    Attributes:
        lattice: the voxels.
        depth: in mm below the brain's surface, negative outside.
        fluid: cerebrospinal fluid.
        grey: grey matter.
        white: white matter.
        spots: white matter that lights up in FLAIR without being tumour.
        vessels: veins on the surface, which take up contrast agent without being tumour.
    """

    lattice: Lattice
    depth: Volume
    fluid: Volume
    grey: Volume
    white: Volume
    spots: Volume
    vessels: Volume


def draw_brain(lattice: Lattice, profile: MriProfile, rng: np.random.Generator) -> Brain:
    """A brain such as this hospital sees: its size, folds, ventricles and the spots of its age."""
    size = rng.uniform(0.93, 1.05)
    atrophy = rng.uniform(*profile.atrophy)
    cerebrum = lattice.ellipsoid((10.0, -2.0, 0.0), (54.0 * size, 82.0 * size, 64.0 * size))
    cerebrum += 1.5 * lattice.noise(rng, 30.0)
    z, _, x = lattice.axes()
    bridge = lattice.ellipsoid((4.0, 0.0, 0.0), (24.0 * size, 44.0 * size, 40.0))
    fissure = np.minimum(0.3 + 1.2 * atrophy - np.abs(x + 1.2 * lattice.noise(rng, 25.0)), -bridge)
    fissure = np.minimum(fissure, z + 22.0)
    cerebellum = lattice.ellipsoid((-38.0, 42.0, 0.0), (24.0, 30.0, 46.0 * size))
    stem = lattice.ellipsoid((-42.0, 12.0, 0.0), (34.0, 13.0, 14.0))
    depth = np.maximum(np.maximum(np.minimum(cerebrum, z + 34.0), cerebellum), stem)
    soft = 0.5 * max(lattice.spacing_mm)
    inside = cover(depth, soft)

    ribbon = _folds(lattice, np.minimum(cerebrum, z + 34.0), 8.5, rng)
    ribbon = np.where(cerebellum > cerebrum, _folds(lattice, cerebellum, 5.0, rng), ribbon)
    ribbon = np.minimum(ribbon, np.maximum(-fissure, 0.0))
    ribbon = np.maximum(ribbon, np.minimum(2.0 * stem, 12.0))
    sulci = cover(_SULCUS_MM * (0.3 + 1.7 * atrophy) - ribbon, soft)
    white = cover(ribbon - (_SULCUS_MM + _CORTEX_MM), soft)

    ventricles = cover(_ventricles(lattice, size * rng.uniform(*profile.ventricles), rng), soft)
    nuclei = cover(_nuclei(lattice, size), soft) * (1.0 - ventricles)
    fluid = np.maximum(sulci, ventricles) * inside
    white = np.clip(np.minimum(white, 1.0 - fluid) - nuclei, 0.0, 1.0) * inside
    grey = np.clip(inside - fluid - white, 0.0, 1.0)
    spots = _spots(lattice, profile, white, ventricles, rng)
    sinus = np.minimum(3.5 - np.abs(x), np.minimum(cerebrum + 2.0, 6.0 - cerebrum))
    veins = 1.2 - np.maximum(ribbon - 1.0, 6.0 * np.abs(lattice.noise(rng, 13.0)))
    vessels = np.maximum(cover(np.minimum(sinus, z), soft), 0.8 * cover(veins, soft)) * inside
    kept = 1.0 - vessels
    return Brain(
        lattice,
        depth,
        fluid=(fluid * kept).astype(np.float32),
        grey=(grey * kept).astype(np.float32),
        white=((white - spots) * kept).astype(np.float32),
        spots=(spots * kept).astype(np.float32),
        vessels=vessels.astype(np.float32),
    )


def _folds(lattice: Lattice, depth: Volume, scale_mm: float, rng: np.random.Generator) -> Volume:
    """Distance in mm to the cortex's outer face: the surface, and sulci where smooth noise crosses zero."""
    crossing = np.abs(lattice.noise(rng, scale_mm)) * (0.8 * scale_mm)
    face: Volume = np.minimum(depth, crossing + 1.1 * np.maximum(depth - _SULCUS_DEPTH_MM, 0.0))
    return face


def _ventricles(lattice: Lattice, size: float, rng: np.random.Generator) -> Volume:
    """Two bent lateral ventricles, never quite alike, with their horns, and the third between."""
    total = lattice.ellipsoid((-2.0, 2.0, 0.0), (9.0, 12.0, 2.2 * size))
    for side in (-1.0, 1.0):
        wide = size * rng.uniform(0.85, 1.15)
        front = lattice.ellipsoid((12.0, -18.0, side * 9.0), (7.0 * wide, 24.0, 5.5 * wide), side * 0.25)
        rear = lattice.ellipsoid((10.0, 20.0, side * 15.0), (7.0 * wide, 26.0, 6.0 * wide), side * -0.35)
        total = np.maximum(total, np.maximum(front, rear))
    return total


def _nuclei(lattice: Lattice, size: float) -> Volume:
    """Thalamus, the lentiform and the caudate nucleus on both sides."""
    total = np.full(lattice.shape, -1e3, dtype=np.float32)
    for side in (-1.0, 1.0):
        thalamus = lattice.ellipsoid((2.0, 10.0, side * 10.0 * size), (9.0, 14.0, 8.0))
        lentiform = lattice.ellipsoid((2.0, -8.0, side * 25.0 * size), (10.0, 17.0, 7.0), side * -0.25)
        caudate = lattice.ellipsoid((12.0, -24.0, side * 16.0 * size), (9.0, 10.0, 4.5))
        total = np.maximum(total, np.maximum(thalamus, np.maximum(lentiform, caudate)))
    return total


def _spots(
    lattice: Lattice, profile: MriProfile, white: Volume, ventricles: Volume, rng: np.random.Generator
) -> Volume:
    """Patches in the white matter and caps on the ventricles."""
    burden = rng.uniform(*profile.white_spots)
    near = np.zeros(lattice.shape, dtype=np.float32)
    rows, columns = (np.flatnonzero((ventricles > 0.5).any(axis=axes)) for axes in ((0, 2), (0, 1)))
    if len(rows) and len(columns):
        _, y, x = lattice.axes()
        edge = lattice.ellipsoid((12.0, 2.0, 0.0), (17.0, 52.0, 27.0))
        near = cover(edge, 8.0) * (np.abs(y) > 20.0) * np.ones_like(x)
    level = lattice.noise(rng, 9.0) + 0.9 * near + 0.35 * lattice.noise(rng, 30.0)
    spots: Volume = (white * cover(4.0 * (level - (3.2 - 1.9 * burden)), 1.5)).astype(np.float32)
    return spots
