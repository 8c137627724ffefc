"""Grows a tumour in a brain: spreading along white matter, dead in the middle, with oedema around it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtri

from adpfl.data.synthetic.brain import Brain
from adpfl.data.synthetic.lattice import Lattice, Volume
from adpfl.data.synthetic.mri_sites import MriProfile

NECROSIS, OEDEMA, ENHANCING = 1, 2, 3
"""The labels of BraTS 2023: NCR, ED and ET."""

_GROWTH_STEP_MM = 3.0
_DIFFUSION = 0.15
_PROLIFERATION = 0.22
_MOST_STEPS = 400
_REACH_MM = 66.0


@dataclass(frozen=True, slots=True)
class Glioma:
    """A tumour's parts as depths in mm, negative outside; the parts lie in each other.

    Attributes:
        whole: tumour and oedema.
        core: the tumour without its oedema.
        dead: the part of the core that does not enhance.
    """

    whole: Volume
    core: Volume
    dead: Volume

    def labels(self, outward_mm: float | Volume = 0.0) -> NDArray[np.uint8]:
        """The annotation; `outward_mm` moves the outlines of whole and core outward."""
        labels = np.where(self.whole + outward_mm > 0.0, np.uint8(OEDEMA), np.uint8(0))
        core = self.core + outward_mm > 0.0
        labels[core] = ENHANCING
        labels[core & (self.dead > 0.0)] = NECROSIS
        return labels.astype(np.uint8)


def grow_glioma(brain: Brain, profile: MriProfile, rng: np.random.Generator) -> Glioma:
    """A tumour of the profile's volume in this brain, with a core and a dead middle."""
    lattice = brain.lattice
    density = _spread(brain, profile, rng)
    voxel_ml = float(np.prod(lattice.spacing_mm)) / 1000.0
    whole_ml = rng.uniform(*profile.whole_ml)
    core_ml = whole_ml * rng.uniform(*profile.core)
    ragged = density + 0.06 * density * lattice.noise(rng, 9.0)
    whole = _densest(ragged, whole_ml / voxel_ml)
    core_level = density * (1.0 + 0.15 * lattice.noise(rng, 14.0))
    core = _densest(np.where(whole, core_level, 0.0), core_ml / voxel_ml)
    core_depth = lattice.signed_distance(core)
    rim = rng.uniform(*profile.rim_mm) * (1.0 + 0.25 * lattice.noise(rng, 12.0))
    gap = lattice.noise(rng, 15.0) > _normal_quantile(1.0 - profile.rim_gaps)
    dead = np.where(gap & core, 2.0, core_depth - rim).astype(np.float32)
    return Glioma(lattice.signed_distance(whole), core_depth, dead)


def _spread(brain: Brain, profile: MriProfile, rng: np.random.Generator) -> Volume:
    """Density of tumour cells after growth by the Fisher-KPP equation, in [0, 1].

    u' = div(D grad u) + p u (1 - u), with D large in white matter, small in grey and none in fluid, until the
    largest tumour of the profile would fit (Swanson, Alvord and Murray, 2000).
    """
    lattice = _coarse(brain.lattice)
    white = lattice.resample(brain.white + brain.spots, brain.lattice)
    grey = lattice.resample(brain.grey + brain.vessels, brain.lattice)
    habitable = white + grey
    way = (white + 0.25 * grey) * np.exp(profile.infiltration * lattice.noise(rng, 16.0))
    way = _DIFFUSION * np.clip(way, 0.0, 1.0)
    density = np.zeros(lattice.shape, dtype=np.float32)
    seat = _seat(brain, white, lattice, rng)
    box = tuple(
        slice(max(0, at - round(_REACH_MM / step)), at + round(_REACH_MM / step) + 1)
        for at, step in zip(seat, lattice.spacing_mm, strict=True)
    )
    density[seat] = 1.0
    u, d, room = density[box], way[box], habitable[box] > 0.3
    target = 1.3 * profile.whole_ml[1] * 1000.0 / float(np.prod(lattice.spacing_mm))
    for step in range(_MOST_STEPS):
        u += _flow(u, d) + _PROLIFERATION * u * (1.0 - u) * room
        if step % 8 == 0 and np.count_nonzero(u > 0.05) > target:
            break
    return brain.lattice.resample(density, lattice)


def _flow(density: Volume, conductance: Volume) -> Volume:
    """div(D grad u) with the smaller of two neighbours' D between them."""
    total = np.zeros_like(density)
    for axis in range(3):
        low = tuple(slice(None, -1) if index == axis else slice(None) for index in range(3))
        high = tuple(slice(1, None) if index == axis else slice(None) for index in range(3))
        flux = np.minimum(conductance[low], conductance[high]) * (density[high] - density[low])
        total[low] += flux
        total[high] -= flux
    return total


def _seat(brain: Brain, white: Volume, lattice: Lattice, rng: np.random.Generator) -> tuple[int, int, int]:
    """Where it begins: a place in the white matter of the cerebrum, not at its edge."""
    z, _, x = lattice.axes()
    depth = lattice.resample(brain.depth, brain.lattice)
    fit = (white > 0.5) & (depth > 15.0) & (z > -15.0) & (np.abs(x) > 14.0)
    places = np.argwhere(fit if fit.any() else depth == depth.max())
    first, second, third = places[int(rng.integers(len(places)))]
    return int(first), int(second), int(third)


def _coarse(lattice: Lattice) -> Lattice:
    """A lattice of the same extent, no finer than growth needs."""
    factors = [max(1, round(_GROWTH_STEP_MM / step)) for step in lattice.spacing_mm]
    shape = tuple(-(-count // factor) for count, factor in zip(lattice.shape, factors, strict=True))
    spacing = tuple(step * factor for step, factor in zip(lattice.spacing_mm, factors, strict=True))
    return Lattice(shape, spacing)  # type: ignore[arg-type] # three of each


def _densest(density: Volume, voxels: float) -> NDArray[np.bool_]:
    """The largest connected part of the `voxels` densest voxels."""
    count = min(max(int(voxels), 1), density.size)
    level = np.partition(density, -count, axis=None)[-count]
    parts, found = ndimage.label(density >= max(float(level), 1e-6))
    if found < 2:
        everything: NDArray[np.bool_] = parts > 0
        return everything
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest: NDArray[np.bool_] = parts == int(sizes.argmax())
    return largest


def _normal_quantile(probability: float) -> float:
    return float(ndtri(probability))
