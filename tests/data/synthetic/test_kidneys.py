"""Kidneys of ellipsoids and of masks: volumes, places, labels."""

from dataclasses import replace

import numpy as np
import pytest

from adpfl.data.synthetic.ct_sites import PROFILES
from adpfl.data.synthetic.kidneys import CYST, KIDNEY, TUMOR, draw_kidneys, kidneys_of_mask
from adpfl.data.synthetic.lattice import Lattice

LATTICE = Lattice.covering((176.0, 208.0, 272.0), 4.0)
VOXEL_ML = 0.064


@pytest.fixture
def mask() -> np.ndarray:
    """Two blocks of kidney, a cube of tumour on the second."""
    labels = np.zeros((20, 16, 50), dtype=np.uint8)
    labels[2:18, 2:14, 2:16] = KIDNEY
    labels[2:18, 2:14, 34:48] = KIDNEY
    labels[6:14, 4:12, 40:50] = TUMOR
    return labels


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_there_are_two_kidneys_of_human_size(profile: str) -> None:
    bare = replace(PROFILES[profile], cysts=0.0)
    for seed in range(4):
        kidneys = draw_kidneys(LATTICE, bare, np.random.default_rng(seed))
        organ = kidneys.parenchyma > 0
        for half in (organ[..., :34], organ[..., 34:]):
            assert 60 < half.sum() * VOXEL_ML < 260


def test_every_patient_has_a_tumour_at_a_kidney() -> None:
    for seed in range(10):
        kidneys = draw_kidneys(LATTICE, PROFILES["D"], np.random.default_rng(seed))
        tumors = [mass for mass in kidneys.masses if mass.kind == "tumor"]
        assert tumors
        for tumor in tumors:
            assert ((tumor.depth > -6.0) & (kidneys.parenchyma > -6.0)).any()
            assert (tumor.depth > 0).sum() * VOXEL_ML == pytest.approx(4.2e-3 * tumor.radius**3, rel=0.5)


def test_more_exophytic_tumours_hang_further_outside() -> None:
    outside = []
    for place in (0.0, 1.2):
        profile = replace(PROFILES["A"], exophytic=(place, place), tumors=0.0)
        shares = []
        for seed in range(6):
            kidneys = draw_kidneys(LATTICE, profile, np.random.default_rng(seed))
            tumor = kidneys.masses[-1].depth > 0
            shares.append((kidneys.parenchyma[tumor] < 0).mean())
        outside.append(np.mean(shares))
    assert outside[1] > outside[0] + 0.25


def test_tumours_lie_over_cysts_and_cysts_over_kidneys() -> None:
    profile = replace(PROFILES["A"], cysts=6.0)
    kidneys = draw_kidneys(LATTICE, profile, np.random.default_rng(3))
    labels = kidneys.labels()
    assert set(np.unique(labels)) == {0, KIDNEY, TUMOR, CYST}
    for mass in kidneys.masses:
        if mass.kind == "tumor":
            assert (labels[mass.depth > 0] == TUMOR).all()


def test_outlines_move_outward() -> None:
    kidneys = draw_kidneys(LATTICE, PROFILES["A"], np.random.default_rng(0))
    counts = [(kidneys.labels(mm) > 0).sum() for mm in (-3.0, 0.0, 3.0)]
    assert counts[0] < counts[1] < counts[2]


def test_a_mask_comes_back_as_it_was(mask: np.ndarray) -> None:
    lattice = Lattice((30, 40, 60), (3.0, 3.0, 3.0))
    bare = replace(PROFILES["A"], cysts=0.0)
    labels = kidneys_of_mask(lattice, mask, 3.0, bare, np.random.default_rng(0)).labels()
    drawn = np.zeros(lattice.shape, dtype=np.uint8)
    drawn[5:25, 18:34, 5:55] = mask  # six voxels of 3 mm behind the middle
    assert np.array_equal(labels, drawn)


def test_cysts_on_a_mask_lie_on_its_kidneys_and_leave_its_tumour(mask: np.ndarray) -> None:
    lattice = Lattice((30, 40, 60), (3.0, 3.0, 3.0))
    profile = replace(PROFILES["A"], cysts=5.0)
    kidneys = kidneys_of_mask(lattice, mask, 3.0, profile, np.random.default_rng(1))
    labels = kidneys.labels()
    assert (labels == TUMOR).sum() == (mask == TUMOR).sum()
    assert (labels == CYST).any()
    for mass in kidneys.masses:
        assert (kidneys.parenchyma[mass.depth > 0] > -4.0).any()


def test_a_mask_without_tumour_has_none(mask: np.ndarray) -> None:
    mask[mask == TUMOR] = KIDNEY
    bare = replace(PROFILES["A"], cysts=0.0)
    kidneys = kidneys_of_mask(Lattice((30, 40, 60), (3.0,) * 3), mask, 3.0, bare, np.random.default_rng(0))
    assert kidneys.masses == ()
    assert set(np.unique(kidneys.labels())) == {0, KIDNEY}
