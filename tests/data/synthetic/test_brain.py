"""Heads: shares that add up, ventricles and sulci that follow the profile."""

from dataclasses import replace

import numpy as np
import pytest

from adpfl.data.synthetic.brain import draw_brain
from adpfl.data.synthetic.lattice import Lattice
from adpfl.data.synthetic.mri_sites import PROFILES

LATTICE = Lattice.covering((144.0, 180.0, 144.0), 4.0)
VOXEL_ML = 0.064


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_shares_lie_between_zero_and_one_and_add_up(profile: str) -> None:
    brain = draw_brain(LATTICE, PROFILES[profile], np.random.default_rng(0))
    shares = [brain.fluid, brain.grey, brain.white, brain.spots, brain.vessels]
    assert all(share.min() >= 0.0 and share.max() <= 1.0 for share in shares)
    total = np.sum(shares, axis=0)
    assert np.abs(total[brain.depth > 4.0] - 1.0).max() < 0.02
    assert np.abs(total[brain.depth < -4.0]).max() == 0.0


def test_volumes_are_those_of_people() -> None:
    brains = [draw_brain(LATTICE, PROFILES["A"], np.random.default_rng(seed)) for seed in range(5)]
    total = np.mean([(brain.depth > 0).sum() * VOXEL_ML for brain in brains])
    grey, white = (np.mean([getattr(b, name).sum() for b in brains]) * VOXEL_ML for name in ("grey", "white"))
    assert 900 < total < 1700
    assert 0.4 < white / grey < 2.5


def test_old_brains_hold_more_fluid_and_more_spots() -> None:
    profile = PROFILES["A"]
    young = replace(profile, atrophy=(0.0, 0.0), ventricles=(0.8, 0.8), white_spots=(0.0, 0.0))
    old = replace(profile, atrophy=(1.0, 1.0), ventricles=(2.0, 2.0), white_spots=(1.0, 1.0))
    for seed in range(3):
        first, second = (draw_brain(LATTICE, p, np.random.default_rng(seed)) for p in (young, old))
        assert second.fluid.sum() > 1.5 * first.fluid.sum()
        assert second.spots.sum() > 3.0 * first.spots.sum()


def test_spots_lie_in_white_matter_of_a_brain_without_them() -> None:
    profile = replace(PROFILES["D"], white_spots=(1.0, 1.0))
    brain = draw_brain(LATTICE, profile, np.random.default_rng(1))
    assert brain.spots.sum() * VOXEL_ML > 2.0
    assert (brain.fluid[brain.spots > 0.5] < 0.5).all()
