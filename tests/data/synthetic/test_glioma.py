"""Tumours: parts within each other, volumes as the profile says, growth that keeps out of fluid."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from adpfl.data.synthetic.brain import Brain, draw_brain
from adpfl.data.synthetic.glioma import ENHANCING, NECROSIS, OEDEMA, Glioma, grow_glioma
from adpfl.data.synthetic.lattice import Lattice
from adpfl.data.synthetic.mri_sites import PROFILES, MriProfile

LATTICE = Lattice.covering((144.0, 180.0, 144.0), 4.0)
VOXEL_ML = 0.064


def _patient(profile: MriProfile, seed: int, lattice: Lattice = LATTICE) -> tuple[Brain, Glioma]:
    rng = np.random.default_rng(seed)
    brain = draw_brain(lattice, profile, rng)
    return brain, grow_glioma(brain, profile, rng)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_volumes_follow_the_profile(profile: str) -> None:
    chosen = PROFILES[profile]
    for seed in range(5):
        labels = _patient(chosen, seed)[1].labels()
        whole = (labels > 0).sum() * VOXEL_ML
        core = np.isin(labels, (NECROSIS, ENHANCING)).sum() * VOXEL_ML
        assert 0.6 * chosen.whole_ml[0] < whole <= 1.05 * chosen.whole_ml[1]
        assert 0.5 * chosen.core[0] < core / whole < 1.2 * chosen.core[1]


def test_the_core_lies_in_the_oedema_and_the_dead_part_in_the_core() -> None:
    glioma = _patient(PROFILES["A"], 0)[1]
    labels = glioma.labels()
    around = ndimage.binary_dilation(labels > 0)
    assert around[glioma.core > 0].all()
    assert (glioma.core[labels == NECROSIS] > 0).all()
    assert {int(label) for label in np.unique(labels)} == {0, NECROSIS, OEDEMA, ENHANCING}


def test_it_is_one_piece_in_the_brain_and_hardly_in_fluid() -> None:
    for seed in range(4):
        brain, glioma = _patient(PROFILES["B"], seed)
        whole = glioma.whole > 0
        assert ndimage.label(whole)[1] == 1
        assert (brain.depth[whole] > -4.0).all()
        assert brain.fluid[whole].mean() < 0.5 * brain.fluid[brain.depth > 0].mean() + 0.1


def test_a_thicker_rim_leaves_less_dead() -> None:
    thin, thick = (replace(PROFILES["A"], rim_mm=(rim, rim), rim_gaps=0.0) for rim in (4.0, 12.0))
    dead = [
        np.mean([(_patient(p, seed)[1].labels() == NECROSIS).sum() for seed in range(4)])
        for p in (thin, thick)
    ]
    assert dead[0] > 2.0 * dead[1]


def test_the_annotators_offset_widens_the_outline() -> None:
    glioma = _patient(PROFILES["A"], 0)[1]
    tight, exact, wide = ((glioma.labels(mm) > 0).sum() for mm in (-4.0, 0.0, 4.0))
    assert tight < exact < wide


def test_a_finer_lattice_grows_a_tumour_of_the_same_kind() -> None:
    fine = Lattice.covering((144.0, 180.0, 144.0), 2.0)
    labels = _patient(PROFILES["A"], 0, fine)[1].labels()
    low, high = PROFILES["A"].whole_ml
    assert 0.6 * low < (labels > 0).sum() * 0.008 < 1.05 * high
