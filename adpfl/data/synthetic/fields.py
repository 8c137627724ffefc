"""Smooth random fields, the raw material of skin texture."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]
"""float32 (height, width)."""


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], scale: float) -> Field:
    """Noise that varies over about `scale` pixels: mean near 0, standard deviation near 1.

    Args:
        rng: source of every draw.
        size: (height, width).
        scale: correlation length in pixels; 1 gives white noise.
    """
    height, width = size
    rows, columns = (max(2, round(extent / max(scale, 1.0)) + 1) for extent in size)
    coarse = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
    fine = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    spread = float(fine.std())
    return fine / np.float32(spread) if spread > 0.0 else fine


def fractal_noise(rng: np.random.Generator, size: tuple[int, int], scale: float, octaves: int = 3) -> Field:
    """Sum of `octaves` smooth noises, each half as wide and half as strong as the one before."""
    total = np.zeros(size, dtype=np.float32)
    for octave in range(octaves):
        total += smooth_noise(rng, size, scale / 2**octave) * np.float32(0.5**octave)
    return total


def ridges(rng: np.random.Generator, size: tuple[int, int], scale: float) -> Field:
    """A net of thin bright lines on a dark ground, in [0, 1]: where smooth noise crosses zero."""
    return np.clip(1.0 - 1.6 * np.abs(smooth_noise(rng, size, scale)), 0.0, 1.0).astype(np.float32)


def smooth_step(values: Field, width: float) -> Field:
    """0 below -width, 1 above width, a cubic between."""
    unit = np.clip(values / np.float32(2.0 * width) + np.float32(0.5), 0.0, 1.0)
    step: Field = (unit * unit * (3.0 - 2.0 * unit)).astype(np.float32)
    return step
