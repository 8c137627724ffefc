"""Random fields: their scale, spread and range."""

import numpy as np
import pytest

from adpfl.data.synthetic.fields import fractal_noise, ridges, smooth_noise, smooth_step

SIZE = (96, 128)


@pytest.mark.parametrize("scale", [1.0, 6.0, 40.0])
def test_smooth_noise_has_unit_spread(scale: float) -> None:
    noise = smooth_noise(np.random.default_rng(0), SIZE, scale)
    assert noise.shape == SIZE
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(1.0, rel=1e-3)


def test_a_larger_scale_is_smoother() -> None:
    steps = [
        np.abs(np.diff(smooth_noise(np.random.default_rng(0), SIZE, scale), axis=1)).mean()
        for scale in (2, 8, 32)
    ]
    assert steps[0] > 2 * steps[1] > 4 * steps[2]


def test_a_field_wider_than_the_image_serves() -> None:
    assert np.isfinite(fractal_noise(np.random.default_rng(0), (33, 40), 500.0)).all()


def test_ridges_are_thin_and_between_zero_and_one() -> None:
    net = ridges(np.random.default_rng(0), SIZE, 8.0)
    assert net.min() >= 0.0
    assert net.max() <= 1.0
    assert (net > 0.5).mean() < 0.35


def test_smooth_step_rises_from_zero_to_one() -> None:
    values = np.linspace(-2, 2, 9, dtype=np.float32)[None]
    step = smooth_step(values, 1.0)[0]
    assert step[0] == 0.0
    assert step[4] == 0.5
    assert step[-1] == 1.0
    assert (np.diff(step) >= 0).all()
