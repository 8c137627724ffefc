"""The abdomen around the kidneys as a scanner would measure it without noise, in Hounsfield units."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from adpfl.data.synthetic.ct_sites import CtProfile, Phase
from adpfl.data.synthetic.kidneys import Kidneys, Mass
from adpfl.data.synthetic.lattice import Lattice, Millimetres, Volume, cover

AIR = -1000.0
_FAT = -102.0
_MUSCLE = 55.0
_BONE = 380.0
_MARROW = 170.0
_UNENHANCED = 35.0
_LONG = 1e4
_BODY = (100.0, 132.0)
_BODY_BEFORE_SPINE = 24.0
_WALL = 12.0


@dataclass(slots=True)
class _Canvas:
    """The volume that is painted on, layer over layer.

    Attributes:
        hu: what has been painted so far.
        lattice: where its voxels lie.
        spine: row and column of the vertebral bodies' middle.
        phase: this patient's enhancement.
    """

    hu: Volume
    lattice: Lattice
    spine: tuple[float, float]
    phase: Phase

    def over(self, depth: NDArray[np.floating], value: float | NDArray[np.floating]) -> None:
        """Paint what is inside; voxels on the border are mixed by volume."""
        share = cover(depth.astype(np.float32, copy=False), 0.5 * max(self.lattice.spacing_mm))
        self.hu += share * (np.asarray(value, dtype=np.float32) - self.hu)

    def blob(self, at: Millimetres, radii: Millimetres, turn: float = 0.0) -> Volume:
        """Depth in an ellipsoid; `at` is relative to the spine, left and posterior being positive."""
        return self.lattice.ellipsoid((at[0], at[1] + self.spine[0], at[2] + self.spine[1]), radii, turn)


def paint_abdomen(lattice: Lattice, kidneys: Kidneys, profile: CtProfile, rng: np.random.Generator) -> Volume:
    """Everything from skin to spine, kidneys and masses last; float32 HU on the lattice."""
    phase = _patients_phase(profile, rng)
    canvas = _Canvas(np.full(lattice.shape, AIR, dtype=np.float32), lattice, kidneys.spine, phase)
    fat = rng.uniform(*profile.fat_mm)
    stout = 1.0 + 0.004 * (fat - 15.0)
    center = (0.0, -_BODY_BEFORE_SPINE, 0.0)
    body = canvas.blob(center, (_LONG, stout * _BODY[0], stout * _BODY[1]))
    body += 2.0 * lattice.noise(rng, 60.0)
    canvas.over(body, _FAT + 6.0 * lattice.noise(rng, 8.0))
    canvas.over(body - fat, _MUSCLE + 8.0 * lattice.noise(rng, 7.0))
    cavity = body - (fat + _WALL)
    canvas.over(cavity, _FAT + 10.0 * lattice.noise(rng, 9.0))
    _paint_ribs(canvas, body - fat)
    _paint_bowel(canvas, cavity, rng)
    _paint_upper_organs(canvas, cavity, kidneys, rng)
    _paint_back(canvas, rng)
    canvas.over(np.maximum(kidneys.parenchyma, kidneys.sinus) + 8.0, _FAT + 8.0 * lattice.noise(rng, 8.0))
    _paint_vessels(canvas)
    _paint_kidneys(canvas, kidneys, rng)
    for mass in kidneys.masses:
        _paint_mass(canvas, mass, profile, rng)
    return canvas.hu


def _patients_phase(profile: CtProfile, rng: np.random.Generator) -> Phase:
    """Hearts differ: the whole enhancement scales from patient to patient."""
    factor = float(np.exp(profile.phase_spread * rng.standard_normal()))
    return Phase(**{field.name: factor * getattr(profile.phase, field.name) for field in fields(Phase)})


def _paint_ribs(canvas: _Canvas, wall: Volume) -> None:
    """Oblique bars in the wall of the upper half."""
    z, y, x = canvas.lattice.axes()
    angle = np.abs(np.arctan2(y - canvas.spine[0] + _BODY_BEFORE_SPINE, x - canvas.spine[1]))
    bars = np.cos(2.0 * np.pi * (z / 30.0 - 0.9 * angle)) * 8.0 - 4.0
    ring = 4.0 - np.abs(wall - 5.0)
    canvas.over(np.minimum(np.minimum(bars, ring), -z - 20.0), 0.7 * _BONE)


def _paint_bowel(canvas: _Canvas, cavity: Volume, rng: np.random.Generator) -> None:
    """Loops in front of the kidneys, some with gas, some with fluid or swallowed contrast agent."""
    _, y, _ = canvas.lattice.axes()
    loops = canvas.lattice.noise(rng, 26.0)
    content = canvas.lattice.noise(rng, 45.0)
    front = np.minimum(cavity - 3.0, canvas.spine[0] - 32.0 - y)
    canvas.over(np.minimum(8.0 * (loops + 0.35), front), 48.0 + 10.0 * canvas.lattice.noise(rng, 8.0))
    inside = np.where(content > 0.9, -650.0, np.where(content < -1.2, 230.0, 22.0)).astype(np.float32)
    canvas.over(np.minimum(8.0 * (loops - 0.55), front - 3.0), inside)


def _paint_upper_organs(canvas: _Canvas, cavity: Volume, kidneys: Kidneys, rng: np.random.Generator) -> None:
    """Liver on the right and spleen on the left, both clear of the kidneys and ending at half height."""
    clear = np.minimum(cavity, -kidneys.parenchyma - 5.0)
    low = rng.uniform(-10.0, 35.0)
    texture = canvas.lattice.noise(rng, 7.0)
    liver = canvas.blob((low - 95.0, -58.0, -66.0), (98.0, 74.0, 66.0)) + 3.0 * canvas.lattice.noise(
        rng, 30.0
    )
    canvas.over(np.minimum(liver, clear), canvas.phase.liver + 6.0 * texture)
    spleen = canvas.blob((low - 75.0, -8.0, 92.0), (62.0, 48.0, 30.0), -0.4)
    canvas.over(np.minimum(spleen, clear), canvas.phase.spleen + 7.0 * texture)


def _paint_back(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Vertebrae and discs, canal, processes, and the muscles beside them."""
    z, _, _ = canvas.lattice.axes()
    texture = canvas.lattice.noise(rng, 6.0)
    for side in (-1.0, 1.0):
        canvas.over(canvas.blob((0.0, 4.0, side * 36.0), (_LONG, 19.0, 14.0)), _MUSCLE + 5.0 * texture)
        canvas.over(canvas.blob((0.0, 44.0, side * 32.0), (_LONG, 22.0, 30.0)), _MUSCLE + 8.0 * texture)
        canvas.over(canvas.blob((0.0, 26.0, side * 22.0), (_LONG, 4.0, 22.0), side * 0.2), 0.6 * _BONE)
    body = canvas.blob((0.0, 0.0, 0.0), (_LONG, 17.0, 23.0))
    marrow = _MARROW + 25.0 * texture
    canvas.over(body, _BONE)
    canvas.over(body - 3.5, marrow)
    disc = 4.0 - np.abs((z + rng.uniform(0.0, 36.0)) % 36.0 - 18.0)
    canvas.over(np.minimum(body, disc), 85.0)
    canvas.over(canvas.blob((0.0, 40.0, 0.0), (_LONG, 16.0, 4.0)), 0.7 * _BONE)
    canvas.over(canvas.blob((0.0, 25.0, 0.0), (_LONG, 8.0, 10.0)), 0.6 * _BONE)
    canvas.over(canvas.blob((0.0, 25.0, 0.0), (_LONG, 5.5, 7.5)), 30.0)


def _paint_vessels(canvas: _Canvas) -> None:
    """Aorta, vena cava, and the arteries and veins to both kidneys."""
    canvas.over(canvas.blob((0.0, -27.0, -17.0), (_LONG, 8.5, 12.0)), canvas.phase.vein)
    for side in (-1.0, 1.0):
        canvas.over(canvas.blob((-4.0, -22.0, side * 30.0), (4.5, 4.5, 24.0)), canvas.phase.vein)
        canvas.over(canvas.blob((4.0, -18.0, side * 28.0), (3.0, 3.0, 26.0)), canvas.phase.aorta)
    canvas.over(canvas.blob((0.0, -27.0, 8.0), (_LONG, 9.5, 9.5)), canvas.phase.aorta)


def _paint_kidneys(canvas: _Canvas, kidneys: Kidneys, rng: np.random.Generator) -> None:
    """Cortex outside and between the pyramids, medulla inside, fat and urine in the hollow."""
    phase, lattice = canvas.phase, canvas.lattice
    canvas.over(kidneys.sinus, _FAT + 30.0 + 15.0 * lattice.noise(rng, 6.0))
    texture = 5.0 * lattice.noise(rng, 6.0)
    canvas.over(kidneys.parenchyma, phase.cortex + texture)
    pyramids = kidneys.parenchyma - 6.0 + 2.5 * lattice.noise(rng, 11.0)
    canvas.over(np.minimum(pyramids, kidneys.parenchyma), phase.medulla + texture)
    canvas.over(kidneys.pelvis, phase.urine)


def _paint_mass(canvas: _Canvas, mass: Mass, profile: CtProfile, rng: np.random.Generator) -> None:
    """A cyst is even; a tumour is mottled, takes up contrast agent, and may be dead in the middle."""
    if mass.kind == "cyst":
        canvas.over(mass.depth, rng.uniform(*profile.cyst_hu))
        return
    lattice = canvas.lattice
    uptake = rng.uniform(*profile.uptake)
    brightness = _UNENHANCED + uptake * (canvas.phase.cortex - _UNENHANCED)
    mottling = profile.mottling_hu * lattice.noise(rng, max(0.35 * mass.radius, 5.0))
    canvas.over(mass.depth, brightness + mottling)
    if rng.uniform() < profile.necrosis:
        edge = rng.uniform(0.25, 0.5) * mass.radius
        ragged = 0.15 * mass.radius * lattice.noise(rng, 0.4 * mass.radius)
        canvas.over(mass.depth - edge + ragged, rng.uniform(15.0, 30.0))
