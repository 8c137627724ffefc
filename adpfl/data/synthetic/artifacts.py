"""What lies between skin and camera: hairs, stickers, rulers, gel bubbles, reflections."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from adpfl.data.synthetic.dermoscopy_sites import SiteProfile
from adpfl.data.synthetic.fields import Field, smooth_noise, smooth_step

Picture = NDArray[np.float32]
"""Linear light, float32 (height, width, 3), 1 is white."""

_OVERSAMPLING = 3
_STICKER_COLORS = (
    (0.02, 0.30, 0.75),
    (0.85, 0.32, 0.02),
    (0.80, 0.65, 0.03),
    (0.05, 0.40, 0.10),
    (0.18, 0.60, 0.65),
)
_HAIR_TINT = np.array([0.75, 1.0, 1.2], dtype=np.float32)


def add_hairs(picture: Picture, profile: SiteProfile, rng: np.random.Generator) -> Picture:
    """Dark curved hairs, roughly combed one way, absorbing as Beer and Lambert say."""
    height, width = picture.shape[:2]
    canvas = Image.new("L", (width * _OVERSAMPLING, height * _OVERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    combed = rng.uniform(0.0, np.pi)
    for _ in range(rng.poisson(profile.hairs)):
        start = rng.uniform((0.0, 0.0), (width, height))
        direction = combed + rng.normal(0.0, 0.5)
        length = rng.uniform(0.3, 1.1) * height
        bend = rng.normal(0.0, 0.8)
        steps = np.linspace(0.0, 1.0, 14)
        heading = direction + bend * steps
        path = start + np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0) * length / len(
            steps
        )
        thickness = max(1, round(rng.uniform(0.004, 0.010) * height * _OVERSAMPLING))
        points = [(float(x), float(y)) for x, y in path * _OVERSAMPLING]
        pen.line(points, fill=int(rng.integers(150, 256)), width=thickness, joint="curve")
    cover = _coverage(canvas, (width, height))
    seen: Picture = picture * np.exp(-profile.hair_density * cover[..., None] * _HAIR_TINT)
    return seen


def add_sticker(picture: Picture, profile: SiteProfile, rng: np.random.Generator) -> Picture:
    """With the profile's probability, a coloured disc that reaches in from the frame's edge."""
    if rng.uniform() >= profile.sticker:
        return picture
    height, width = picture.shape[:2]
    radius = rng.uniform(0.22, 0.36) * height
    around = rng.uniform(0.0, 2.0 * np.pi)
    row = height * (0.5 + 0.66 * np.sin(around))
    column = width * (0.5 + 0.62 * np.cos(around))
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    inside = smooth_step(radius - np.hypot(rows - row, columns - column).astype(np.float32), 1.0)[..., None]
    color = np.array(_STICKER_COLORS[int(rng.integers(len(_STICKER_COLORS)))], dtype=np.float32)
    paper = color * (1.0 + 0.06 * smooth_noise(rng, (height, width), 2.0))[..., None]
    return (picture * (1.0 - inside) + paper * inside).astype(np.float32)


def add_ruler(picture: Picture, profile: SiteProfile, rng: np.random.Generator) -> Picture:
    """With the profile's probability, a printed scale near the lower edge."""
    if rng.uniform() >= profile.ruler:
        return picture
    height, width = picture.shape[:2]
    canvas = Image.new("L", (width * _OVERSAMPLING, height * _OVERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    turn = rng.uniform(-0.5, 0.5)
    origin = np.array([rng.uniform(0.2, 0.5) * width, rng.uniform(0.8, 0.92) * height])
    along = np.array([np.cos(turn), np.sin(turn)])
    upward = np.array([along[1], -along[0]])
    step = 0.03 * height
    for tick in range(15):
        foot = origin + tick * step * along
        top = foot + upward * step * (1.6 if tick % 5 == 0 else 0.9)
        pen.line([tuple(foot * _OVERSAMPLING), tuple(top * _OVERSAMPLING)], fill=220, width=2)
    pen.line(
        [tuple(origin * _OVERSAMPLING), tuple((origin + 14 * step * along) * _OVERSAMPLING)],
        fill=220,
        width=2,
    )
    return (picture * (1.0 - 0.85 * _coverage(canvas, (width, height))[..., None])).astype(np.float32)


def add_gel(picture: Picture, profile: SiteProfile, rng: np.random.Generator) -> Picture:
    """Air bubbles in the contact gel (a dark ring with a bright crescent) and small specular reflections."""
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    for _ in range(rng.poisson(profile.bubbles)):
        row, column = rng.uniform(0, height), rng.uniform(0, width)
        radius = rng.uniform(0.015, 0.05) * height
        offset = (np.hypot(rows - row, columns - column) - radius) / (0.18 * radius + 0.7)
        ring = np.exp(-(offset**2))
        lit = np.clip(((row - rows) + (column - columns)) / (radius + 1.0), 0.0, 1.0)
        picture = picture * (1.0 - 0.35 * ring)[..., None] + (0.5 * ring * lit)[..., None]
    for _ in range(rng.poisson(profile.specular_spots)):
        row, column = rng.uniform(0, height), rng.uniform(0, width)
        radius = rng.uniform(0.004, 0.014) * height
        stretch = rng.uniform(0.6, 1.6)
        distance = ((rows - row) * stretch) ** 2 + ((columns - column) / stretch) ** 2
        picture = picture + (rng.uniform(0.2, 0.8) * np.exp(-distance / radius**2))[..., None]
    return picture.astype(np.float32)


def _coverage(canvas: Image.Image, size: tuple[int, int]) -> Field:
    """Share of each pixel that was drawn on, in [0, 1]."""
    return np.asarray(canvas.resize(size, Image.Resampling.BOX), dtype=np.float32) / np.float32(255.0)
