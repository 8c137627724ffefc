"""Kidneys with tumours and cysts: ellipsoids of their own, or those of a real KiTS19 mask."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adpfl.data.synthetic.ct_sites import CtProfile
from adpfl.data.synthetic.lattice import Lattice, Millimetres, Volume

Kind = Literal["tumor", "cyst"]

KIDNEY, TUMOR, CYST = 1, 2, 3
"""The labels of KiTS21 and KiTS23."""

_RADII: Millimetres = (54.0, 29.0, 27.0)
_TO_MIDLINE = 62.0
_TURN = 0.5
_SPINE_BEFORE = 4.0
_BEHIND_MIDDLE = 18.0
_HILUM_RADIUS = 15.0


@dataclass(frozen=True, slots=True)
class Mass:
    """A tumour or a cyst.

    Attributes:
        kind: which.
        radius: mean, in mm.
        depth: how deep inside it each voxel lies, in mm; negative outside.
    """

    kind: Kind
    radius: float
    depth: Volume


@dataclass(frozen=True, slots=True)
class Kidneys:
    """Both kidneys of a patient and what grows in them; depths in mm, negative outside.

    Attributes:
        parenchyma: cortex and medulla.
        sinus: the fat in the kidney's hollow.
        pelvis: urine.
        masses: later ones lie over earlier ones.
        spine: row and column of the vertebral bodies' middle, in mm from the lattice's centre.
    """

    parenchyma: Volume
    sinus: Volume
    pelvis: Volume
    masses: tuple[Mass, ...]
    spine: tuple[float, float]

    def labels(self, outward_mm: float | Volume = 0.0) -> NDArray[np.uint8]:
        """The annotation: 1 kidney, 2 tumour, 3 cyst; `outward_mm` moves every outline outward."""
        labels = (self.parenchyma + outward_mm > 0.0).astype(np.uint8) * np.uint8(KIDNEY)
        for kind, label in (("cyst", CYST), ("tumor", TUMOR)):
            for mass in self.masses:
                if mass.kind == kind:
                    labels[mass.depth + outward_mm > 0.0] = label
        return labels


def draw_kidneys(lattice: Lattice, profile: CtProfile, rng: np.random.Generator) -> Kidneys:
    """Two kidneys on either side of the spine, at least one tumour, and the profile's cysts."""
    organ = np.full(lattice.shape, -1e3, dtype=np.float32)
    sinus, pelvis = organ.copy(), organ.copy()
    places: list[tuple[Millimetres, Millimetres]] = []
    middle = rng.uniform((-8.0, _BEHIND_MIDDLE - 6.0, -8.0), (8.0, _BEHIND_MIDDLE + 6.0, 8.0))
    for side in (-1.0, 1.0):
        low, high = profile.kidney_scale
        size = rng.uniform(low, high)
        radii = tuple(size * radius * rng.uniform(0.93, 1.07) for radius in _RADII)
        center = (
            middle[0] - side * 6.0 + rng.normal(0.0, 4.0),
            middle[1] + rng.normal(0.0, 3.0),
            middle[2] + side * (_TO_MIDLINE + rng.normal(0.0, 3.0)),
        )
        turn = -side * _TURN * rng.uniform(0.7, 1.3)
        organ = np.maximum(organ, lattice.ellipsoid(center, radii, turn))  # type: ignore[arg-type] # three radii
        hollow = (center[0], center[1] - 5.0, center[2] - side * 17.0 * size)
        sinus = np.maximum(sinus, lattice.ellipsoid(hollow, (27.0 * size, 9.0, _HILUM_RADIUS)))
        wide = rng.uniform(1.5, 2.1) if rng.uniform() < profile.dilated_pelvis else rng.uniform(0.8, 1.1)
        pelvis = np.maximum(pelvis, lattice.ellipsoid(hollow, (13.0 * wide, 4.0 * wide, 9.0 * wide**0.5)))
        places.append((center, radii))  # type: ignore[arg-type] # three radii
    organ += 1.0 * lattice.noise(rng, 22.0)
    masses = [
        _attach(lattice, places[int(rng.integers(2))], profile, kind, rng) for kind in _kinds(profile, rng)
    ]
    hole = np.maximum(sinus, pelvis)
    spine = (middle[1] - _SPINE_BEFORE, middle[2])
    return Kidneys(np.minimum(organ, -hole), sinus, pelvis, tuple(masses), spine)


def kidneys_of_mask(
    lattice: Lattice,
    labels: NDArray[np.uint8],
    spacing_mm: float,
    profile: CtProfile,
    rng: np.random.Generator,
) -> Kidneys:
    """The kidneys and tumours of a real mask, with cysts of our own on them.

    Args:
        lattice: what to draw on; the mask lies in its middle, but 18 mm towards the back.
        labels: (slices, rows, columns), 1 kidney and 2 tumour, inferior, posterior and left growing.
        spacing_mm: of the mask, the same along all axes.
        profile: says how many cysts.
        rng: places them.
    """
    room = round(_HILUM_RADIUS / spacing_mm) + 1
    front = room + 2 * round(_BEHIND_MIDDLE / spacing_mm)
    mask = np.pad(labels, ((room, room), (front, room), (room, room)))
    slices, rows, columns = mask.shape
    grid = Lattice((slices, rows, columns), (spacing_mm, spacing_mm, spacing_mm))
    tumor, union = grid.signed_distance(mask == TUMOR), grid.signed_distance(mask > 0)
    parenchyma = np.minimum(union, grid.signed_distance(mask == KIDNEY) + np.float32(spacing_mm))
    grown = union > -_HILUM_RADIUS
    sinus = np.minimum(grid.signed_distance(grown) - np.float32(_HILUM_RADIUS), -union)
    masses = []
    if (mask == TUMOR).any():
        masses.append(Mass("tumor", float(tumor.max()), lattice.resample(tumor, grid)))
    surface = np.argwhere((np.abs(parenchyma) <= spacing_mm) & (tumor < 0.0))
    middle = (np.array(mask.shape) - 1) / 2
    for _ in range(int(rng.poisson(profile.cysts)) if len(surface) else 0):
        z, y, x = (surface[int(rng.integers(len(surface)))] - middle) * spacing_mm
        masses.append(_mass(lattice, (z, y, x), _cyst_radius(rng), "cyst", rng))
    inside = np.argwhere(mask > 0)
    _, row, column = ((inside.min(axis=0) + inside.max(axis=0)) / 2 - middle) * spacing_mm
    return Kidneys(
        lattice.resample(parenchyma, grid),
        lattice.resample(sinus, grid),
        lattice.resample(sinus - np.float32(4.0), grid),
        tuple(masses),
        (row - _SPINE_BEFORE, column),
    )


def _kinds(profile: CtProfile, rng: np.random.Generator) -> list[Kind]:
    kinds: list[Kind] = ["cyst"] * int(rng.poisson(profile.cysts))
    tumors: list[Kind] = ["tumor"] * (1 + int(rng.poisson(profile.tumors)))
    return kinds + tumors


def _attach(
    lattice: Lattice,
    place: tuple[Millimetres, Millimetres],
    profile: CtProfile,
    kind: Kind,
    rng: np.random.Generator,
) -> Mass:
    """A mass on the surface of a kidney, as far outside as the profile's tumours hang."""
    center, radii = place
    radius = rng.uniform(*profile.tumor_radius_mm) if kind == "tumor" else _cyst_radius(rng)
    low, high = profile.exophytic if kind == "tumor" else (0.4, 1.1)
    direction = rng.standard_normal(3) * (0.8, 1.0, 1.0)
    direction /= np.linalg.norm(direction)
    direction[2] = np.copysign(direction[2], center[2])  # away from the spine and the great vessels
    inward = (1.0 - rng.uniform(low, high)) * radius
    reach = np.maximum(np.array(radii) - inward, 0.0)
    z, y, x = np.array(center) + direction * reach
    return _mass(lattice, (z, y, x), radius, kind, rng)


def _cyst_radius(rng: np.random.Generator) -> float:
    return float(rng.uniform(7.0, 20.0))


def _mass(
    lattice: Lattice,
    center: Millimetres,
    radius: float,
    kind: Kind,
    rng: np.random.Generator,
) -> Mass:
    """A lump around a point; tumours are lobed, cysts nearly round."""
    stretch = rng.uniform(0.85, 1.15, 3)
    z, y, x = radius * stretch / np.cbrt(stretch.prod())
    depth = lattice.ellipsoid(center, (z, y, x), rng.uniform(0.0, np.pi))
    lobes = 0.11 if kind == "tumor" else 0.03
    return Mass(kind, radius, depth + np.float32(lobes * radius) * lattice.noise(rng, 0.7 * radius))
