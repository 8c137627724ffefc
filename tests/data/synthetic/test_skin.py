"""Pigment and light: what absorbs more reflects less, each in its own colour."""

import numpy as np

from adpfl.data.synthetic.dermoscopy_sites import PROFILES
from adpfl.data.synthetic.skin import BASE_REFLECTANCE, Pigment, draw_lesion, lesion_depth, paint, reflect


def _pigment(melanin: float, haemoglobin: float) -> Pigment:
    return Pigment(np.full((1, 1), melanin, np.float32), np.full((1, 1), haemoglobin, np.float32))


def test_skin_without_pigment_reflects_the_base() -> None:
    assert np.allclose(reflect(_pigment(0, 0))[0, 0], BASE_REFLECTANCE)


def test_densities_add_and_light_multiplies() -> None:
    once, twice = (np.log(reflect(_pigment(m, 0)) / BASE_REFLECTANCE) for m in (0.4, 0.8))
    assert np.allclose(twice, 2 * once, atol=1e-5)


def test_melanin_takes_blue_and_blood_takes_green() -> None:
    brown = reflect(_pigment(1, 0))[0, 0] / BASE_REFLECTANCE
    red = reflect(_pigment(0, 1))[0, 0] / BASE_REFLECTANCE
    assert brown[0] > brown[1] > brown[2]
    assert red[1] < red[2] < red[0]


def test_a_lesion_keeps_its_area_in_another_pose() -> None:
    lesion = draw_lesion(PROFILES["A"], np.random.default_rng(1))
    areas = [(lesion_depth(lesion, (96, 128), np.random.default_rng(seed)) > 0).mean() for seed in range(6)]
    assert max(areas) < 2 * min(areas)


def test_pigment_is_never_negative() -> None:
    rng = np.random.default_rng(0)
    for profile in PROFILES.values():
        lesion = draw_lesion(profile, rng)
        pigment = paint(profile, lesion, lesion_depth(lesion, (48, 64), rng), rng)
        assert pigment.melanin.min() >= 0.0
        assert pigment.haemoglobin.min() >= 0.0
