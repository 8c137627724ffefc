"""A block of voxels in millimetres: where each lies, smooth random fields over them, soft ellipsoids."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Volume = NDArray[np.float32]
"""float32 (slices, rows, columns)."""
Millimetres = tuple[float, float, float]
"""A point or a length along slices, rows and columns; points are relative to the lattice's centre."""

_FAR = 1e3


@dataclass(frozen=True, slots=True)
class Lattice:
    """Voxel centres on a regular grid.

    Attributes:
        shape: (slices, rows, columns).
        spacing_mm: between neighbours, in the same order.
    """

    shape: tuple[int, int, int]
    spacing_mm: Millimetres

    @classmethod
    def covering(cls, extent_mm: Millimetres, pixel_mm: float) -> Self:
        """The lattice of cubic voxels that fills this extent."""
        slices, rows, columns = (max(1, round(extent / pixel_mm)) for extent in extent_mm)
        return cls((slices, rows, columns), (pixel_mm, pixel_mm, pixel_mm))

    def axes(self) -> tuple[Volume, Volume, Volume]:
        """Coordinates in mm from the centre, one array an axis, to be broadcast against each other."""
        slices, rows, columns = (
            ((np.arange(count) - (count - 1) / 2) * step).astype(np.float32)
            for count, step in zip(self.shape, self.spacing_mm, strict=True)
        )
        return slices[:, None, None], rows[None, :, None], columns[None, None, :]

    def noise(self, rng: np.random.Generator, scale_mm: float | Millimetres) -> Volume:
        """Smooth noise of mean near 0 and standard deviation 1: cubic B-splines with normal coefficients.

        Args:
            rng: source of every draw.
            scale_mm: distance between the splines' knots, one for all axes or one each.
        """
        scales = (scale_mm,) * 3 if isinstance(scale_mm, float | int) else scale_mm
        steps = [max(scale / step, 1.0) for scale, step in zip(scales, self.spacing_mm, strict=True)]
        knots = [int(np.ceil((count - 1) / step)) + 4 for count, step in zip(self.shape, steps, strict=True)]
        field = rng.standard_normal(knots, dtype=np.float32)
        for axis, (count, step) in enumerate(zip(self.shape, steps, strict=True)):
            field = _splines(field, axis, count, step, offset=rng.uniform())
        return field / np.float32(max(float(field.std()), 1e-6))

    def ellipsoid(self, center: Millimetres, radii: Millimetres, turn: float = 0.0) -> Volume:
        """How deep inside an ellipsoid each voxel lies, in mm; negative outside, a first-order distance.

        Args:
            center: its centre.
            radii: its half axes.
            turn: rotation within the plane of a slice, in radians, from rows to columns.
        """
        z, y, x = (axis - np.float32(middle) for axis, middle in zip(self.axes(), center, strict=True))
        cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        y, x = cosine * y + sine * x, cosine * x - sine * y
        a, b, c = (np.float32(radius) for radius in radii)
        square = (z / a) ** 2 + (y / b) ** 2 + (x / c) ** 2
        slope = np.sqrt((z / a**2) ** 2 + (y / b**2) ** 2 + (x / c**2) ** 2)
        norm = np.sqrt(square)
        depth: Volume = np.where(
            norm > 1e-3, norm * (1.0 - norm) / np.maximum(slope, 1e-9), np.float32(min(radii))
        ).astype(np.float32)
        return depth

    def resample(self, volume: Volume, source: Self) -> Volume:
        """A volume of another lattice with the same centre, interpolated linearly onto this one."""
        for axis in range(3):
            count, step, origin = self.shape[axis], self.spacing_mm[axis], source.spacing_mm[axis]
            middle = (volume.shape[axis] - 1) / 2
            volume = sample_axis(volume, (np.arange(count) - (count - 1) / 2) * step / origin + middle, axis)
        return volume

    def signed_distance(self, inside: NDArray[np.bool_]) -> Volume:
        """Distance in mm to the border between voxels, positive inside; far out where nothing is inside."""
        if not inside.any():
            return np.full(inside.shape, -_FAR, dtype=np.float32)
        half = 0.5 * min(self.spacing_mm)
        within = ndimage.distance_transform_edt(inside, sampling=self.spacing_mm)
        without = ndimage.distance_transform_edt(~inside, sampling=self.spacing_mm)
        distance: Volume = (within - without + np.where(inside, -half, half)).astype(np.float32)
        return distance


def cover(depth: Volume, softness_mm: float) -> Volume:
    """Share of a voxel that lies inside, from its depth: 0 at -softness, 1/2 on the border, 1 at softness."""
    share: Volume = np.clip(depth * np.float32(0.5 / softness_mm) + np.float32(0.5), 0.0, 1.0)
    return share


def sample_axis(volume: Volume, positions: NDArray[np.floating], axis: int) -> Volume:
    """Linear interpolation along one axis at fractional indices; beyond the ends, the end's value."""
    last = volume.shape[axis] - 1
    inside = np.clip(positions, 0.0, float(last))
    below = np.floor(inside).astype(np.intp)
    above = np.minimum(below + 1, last)
    weight = (inside - below).astype(np.float32)
    weight = weight.reshape([-1 if index == axis else 1 for index in range(volume.ndim)])
    low, high = np.take(volume, below, axis), np.take(volume, above, axis)
    mixed: Volume = low + weight * (high - low)
    return mixed


def _splines(field: Volume, axis: int, count: int, step: float, *, offset: float) -> Volume:
    """Evaluate uniform cubic B-splines at `count` points, `step` points to a knot, along one axis."""
    position = np.arange(count) / step + offset
    first = np.minimum(np.floor(position).astype(np.intp), field.shape[axis] - 4)
    t = (position - first).astype(np.float32)
    weights = (
        (1.0 - t) ** 3 / 6.0,
        (3.0 * t**3 - 6.0 * t**2 + 4.0) / 6.0,
        (-3.0 * t**3 + 3.0 * t**2 + 3.0 * t + 1.0) / 6.0,
        t**3 / 6.0,
    )
    along = [-1 if index == axis else 1 for index in range(field.ndim)]
    total = weights[0].reshape(along) * np.take(field, first, axis)
    for tap in range(1, 4):
        total += weights[tap].reshape(along) * np.take(field, first + tap, axis)
    result: Volume = total.astype(np.float32)
    return result
