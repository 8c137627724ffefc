"""Skin and lesion as maps of pigment, and what light makes of them (Beer-Lambert law)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adpfl.data.synthetic.dermoscopy_sites import SiteProfile
from adpfl.data.synthetic.fields import Field, fractal_noise, ridges, smooth_noise, smooth_step

MELANIN_ABSORPTION = np.array([0.63, 1.0, 1.70], dtype=np.float32)
"""At 620, 540 and 460 nm, relative to 540 nm: wavelength to the power -3.33 (Jacques 2013, melanosomes)."""
HAEMOGLOBIN_ABSORPTION = np.array([0.05, 1.0, 0.75], dtype=np.float32)
"""Oxygenated blood at the same wavelengths, rounded and with some scattering folded in."""
BASE_REFLECTANCE = np.array([0.86, 0.80, 0.76], dtype=np.float32)
"""Of dermis without pigment."""

_OUTLINE_WAVES = 7


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion's lasting properties; every photograph of it shows these.

    Attributes:
        radius: mean, as a fraction of the image's height.
        elongation: ratio of its axes, at least 1.
        waves: amplitude and phase of the outline's harmonics 2, 3, ..., (_OUTLINE_WAVES, 2).
        edge_softness: width of the fading rim, as a fraction of the radius.
        melanin: optical density added at the centre, at 540 nm.
        haemoglobin: the same for blood.
        network: share of the texture that is a net of lines; the rest is globules.
    """

    radius: float
    elongation: float
    waves: NDArray[np.float64]
    edge_softness: float
    melanin: float
    haemoglobin: float
    network: float


@dataclass(frozen=True, slots=True)
class Pigment:
    """Optical densities at 540 nm over the image."""

    melanin: Field
    haemoglobin: Field


def draw_lesion(profile: SiteProfile, rng: np.random.Generator) -> Lesion:
    """A lesion such as this clinic sees."""
    orders = np.arange(2, 2 + _OUTLINE_WAVES)
    amplitudes = rng.uniform(*profile.irregularity) * rng.standard_normal(_OUTLINE_WAVES) * (2.0 / orders)
    return Lesion(
        radius=rng.uniform(*profile.lesion_radius),
        elongation=rng.uniform(1.0, 1.6),
        waves=np.stack([amplitudes, rng.uniform(0.0, 2.0 * np.pi, _OUTLINE_WAVES)], axis=1),
        edge_softness=rng.uniform(*profile.edge_softness),
        melanin=rng.uniform(*profile.lesion_melanin),
        haemoglobin=rng.uniform(*profile.lesion_haemoglobin),
        network=rng.uniform(0.0, 1.0),
    )


def lesion_depth(lesion: Lesion, size: tuple[int, int], rng: np.random.Generator) -> Field:
    """How deep inside the lesion each pixel lies: 1 at its centre, 0 on its border, negative outside.

    The pose (place, rotation, scale) is drawn anew: a second photograph is never framed alike.
    """
    height, width = size
    radius = lesion.radius * height * rng.uniform(0.9, 1.1)
    place = np.array([0.5, 0.5]) + rng.uniform(-0.16, 0.16, 2)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    rows, columns = rows - place[0] * height, columns - place[1] * width
    turn = rng.uniform(0.0, 2.0 * np.pi)
    along = (np.cos(turn) * columns + np.sin(turn) * rows) / np.sqrt(lesion.elongation)
    across = (np.cos(turn) * rows - np.sin(turn) * columns) * np.sqrt(lesion.elongation)
    angle = np.arctan2(across, along)
    outline = np.ones(size, dtype=np.float32)
    for order, (amplitude, phase) in enumerate(lesion.waves, start=2):
        outline += np.float32(amplitude) * np.cos(order * angle + phase)
    distance = np.hypot(along, across) / (radius * np.clip(outline, 0.35, None))
    fringe = 0.05 * fractal_noise(rng, size, 0.07 * height)
    depth: Field = (1.0 - distance + fringe).astype(np.float32)
    return depth


def paint(profile: SiteProfile, lesion: Lesion, depth: Field, rng: np.random.Generator) -> Pigment:
    """Pigment of the skin, its freckles and the lesion."""
    size = (depth.shape[0], depth.shape[1])
    height = size[0]
    melanin = rng.uniform(*profile.skin_melanin) * (1.0 + 0.12 * fractal_noise(rng, size, 0.4 * height))
    haemoglobin = rng.uniform(*profile.skin_haemoglobin) * (
        1.0 + 0.12 * fractal_noise(rng, size, 0.3 * height)
    )
    melanin += 0.015 * smooth_noise(rng, size, 0.012 * height) - 0.03 * ridges(rng, size, 0.05 * height)
    melanin += _freckles(profile, size, rng)
    inside = smooth_step(depth, lesion.edge_softness)
    net = ridges(rng, size, 0.028 * height)
    globules = smooth_step(smooth_noise(rng, size, 0.03 * height) - np.float32(0.4), 1.0)
    pattern = lesion.network * net + (1.0 - lesion.network) * globules
    clouds = 0.18 * fractal_noise(rng, size, 0.15 * height)
    tone = np.clip(1.0 + clouds + profile.texture * (pattern - pattern.mean()), 0.1, None)
    melanin += lesion.melanin * inside * tone
    haemoglobin += lesion.haemoglobin * inside * np.clip(1.0 + 2.0 * clouds, 0.2, None)
    return Pigment(np.clip(melanin, 0.0, None), np.clip(haemoglobin, 0.0, None))


def reflect(pigment: Pigment) -> NDArray[np.float32]:
    """Linear reflectance (height, width, 3): base times exp(-sum of absorption times density)."""
    density = (
        pigment.melanin[..., None] * MELANIN_ABSORPTION
        + pigment.haemoglobin[..., None] * HAEMOGLOBIN_ABSORPTION
    )
    reflectance: NDArray[np.float32] = (BASE_REFLECTANCE * np.exp(-density)).astype(np.float32)
    return reflectance


def _freckles(profile: SiteProfile, size: tuple[int, int], rng: np.random.Generator) -> Field:
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    spots = np.zeros(size, dtype=np.float32)
    for _ in range(rng.poisson(profile.freckles)):
        row, column = rng.uniform(0, height), rng.uniform(0, width)
        radius = rng.uniform(0.008, 0.03) * height
        distance = np.hypot(rows - row, (columns - column) * rng.uniform(0.8, 1.25)) / radius
        spots += np.float32(rng.uniform(0.1, 0.4)) * smooth_step((1.0 - distance).astype(np.float32), 0.5)
    return spots
