"""Hairs darken, reflections brighten, stickers and rulers come as often as the profile says."""

from dataclasses import replace

import numpy as np
import pytest

from adpfl.data.synthetic.artifacts import Picture, add_gel, add_hairs, add_ruler, add_sticker
from adpfl.data.synthetic.dermoscopy_sites import PROFILES, SiteProfile


@pytest.fixture
def grey() -> Picture:
    return np.full((64, 80, 3), 0.5, dtype=np.float32)


@pytest.fixture
def bare() -> SiteProfile:
    return replace(PROFILES["A"], hairs=0, sticker=0, ruler=0, specular_spots=0, bubbles=0)


@pytest.mark.parametrize("add", [add_hairs, add_sticker, add_ruler, add_gel])
def test_a_profile_without_artifacts_leaves_the_picture_alone(grey: Picture, bare: SiteProfile, add) -> None:
    assert np.array_equal(add(grey, bare, np.random.default_rng(0)), grey)


def test_hairs_only_darken(grey: Picture, bare: SiteProfile) -> None:
    haired = add_hairs(grey, replace(bare, hairs=20.0), np.random.default_rng(0))
    assert (haired <= grey).all()
    assert 0.02 < (haired[..., 1] < 0.45).mean() < 0.6


def test_reflections_only_brighten(grey: Picture, bare: SiteProfile) -> None:
    wet = add_gel(grey, replace(bare, specular_spots=20.0), np.random.default_rng(0))
    assert (wet >= grey).all()
    assert (wet > 0.55).any()


def test_bubbles_have_dark_and_bright_sides(grey: Picture, bare: SiteProfile) -> None:
    bubbled = add_gel(grey, replace(bare, bubbles=8.0), np.random.default_rng(0))
    assert bubbled.min() < 0.45
    assert bubbled.max() > 0.55


def test_a_certain_sticker_is_coloured_and_leaves_the_centre(grey: Picture, bare: SiteProfile) -> None:
    for seed in range(20):
        stuck = add_sticker(grey, replace(bare, sticker=1.0), np.random.default_rng(seed))
        covered = np.ptp(stuck, axis=2) > 0.1
        assert covered.any()
        assert not covered[28:36, 34:46].any()


def test_a_certain_ruler_draws_dark_ticks(grey: Picture, bare: SiteProfile) -> None:
    ruled = add_ruler(grey, replace(bare, ruler=1.0), np.random.default_rng(0))
    assert 0.002 < (ruled[..., 0] < 0.4).mean() < 0.1
