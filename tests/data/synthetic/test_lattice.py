"""Voxels in millimetres: coordinates, noise, ellipsoids, resampling."""

import numpy as np
import pytest

from adpfl.data.synthetic.lattice import Lattice, cover, sample_axis

LATTICE = Lattice((24, 30, 36), (4.0, 2.0, 3.0))


def test_coordinates_are_millimetres_from_the_centre() -> None:
    slices, rows, columns = LATTICE.axes()
    assert slices.ravel()[[0, -1]].tolist() == [-46.0, 46.0]
    assert rows.ravel()[[0, -1]].tolist() == [-29.0, 29.0]
    assert np.diff(columns.ravel()).tolist() == [3.0] * 35


def test_a_lattice_covers_what_is_asked_for() -> None:
    lattice = Lattice.covering((176.0, 208.0, 272.0), 4.0)
    assert lattice == Lattice((44, 52, 68), (4.0, 4.0, 4.0))


@pytest.mark.parametrize("scale", [1.0, 9.0, 500.0, (1.0, 20.0, 20.0)])
def test_noise_has_unit_spread_at_every_scale(scale: float | tuple[float, float, float]) -> None:
    noise = LATTICE.noise(np.random.default_rng(0), scale)
    assert noise.shape == LATTICE.shape
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(1.0, rel=1e-3)


def test_a_larger_scale_is_smoother() -> None:
    lattice = Lattice((40, 40, 40), (2.0, 2.0, 2.0))
    steps = [
        np.abs(np.diff(lattice.noise(np.random.default_rng(0), scale), axis=0)).mean()
        for scale in (4.0, 12.0, 36.0)
    ]
    assert steps[0] > 1.5 * steps[1] > 3.0 * steps[2]


def test_depth_in_a_ball_is_the_distance_to_its_surface() -> None:
    ball = LATTICE.ellipsoid((0.0, 0.0, 0.0), (20.0, 20.0, 20.0))
    z, y, x = LATTICE.axes()
    assert np.allclose(ball, 20.0 - np.sqrt(z**2 + y**2 + x**2), atol=1e-3)


def test_an_ellipsoid_has_its_volume_and_turns_in_the_plane_of_a_slice() -> None:
    lattice = Lattice((40, 60, 60), (2.0, 2.0, 2.0))
    upright = lattice.ellipsoid((0.0, 0.0, 0.0), (20.0, 40.0, 12.0))
    turned = lattice.ellipsoid((0.0, 0.0, 0.0), (20.0, 40.0, 12.0), np.pi / 2)
    assert (upright > 0).sum() * 8.0 == pytest.approx(4.0 / 3.0 * np.pi * 20.0 * 40.0 * 12.0, rel=0.02)
    assert np.allclose(turned, upright.transpose(0, 2, 1), atol=1e-3)


def test_cover_is_a_half_on_the_border() -> None:
    depth = np.array([-3.0, -1.0, 0.0, 1.0, 3.0], dtype=np.float32)
    assert cover(depth, 2.0).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_sampling_between_voxels_is_linear_and_stops_at_the_ends() -> None:
    ramp = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), dtype=np.float32)
    sampled = sample_axis(ramp, np.array([-2.0, 0.5, 3.25, 9.0]), 0)
    assert sampled.shape == (4, 2, 3)
    assert sampled[:, 0, 0].tolist() == [0.0, 0.5, 3.25, 4.0]


def test_resampling_keeps_places_in_millimetres() -> None:
    fine = Lattice((48, 48, 48), (1.5, 1.5, 1.5))
    coarse = Lattice((24, 24, 24), (3.0, 3.0, 3.0))
    ball = ((5.0, -6.0, 3.0), (20.0, 18.0, 22.0))
    exact = fine.ellipsoid(*ball)
    near = np.abs(exact) < 10.0  # the middle has a kink, and the edge has no neighbours
    assert np.abs(fine.resample(coarse.ellipsoid(*ball), coarse) - exact)[near].max() < 0.3


def test_signed_distance_is_positive_inside_and_half_a_voxel_at_the_border() -> None:
    inside = np.zeros((9, 9, 9), dtype=bool)
    inside[3:6, 3:6, 3:6] = True
    lattice = Lattice((9, 9, 9), (2.0, 2.0, 2.0))
    distance = lattice.signed_distance(inside)
    assert np.array_equal(distance > 0, inside)
    assert distance[3, 4, 4] == 1.0
    assert distance[4, 4, 4] == 3.0
    assert distance[2, 4, 4] == -1.0
    assert (lattice.signed_distance(np.zeros((9, 9, 9), dtype=bool)) < -100).all()
