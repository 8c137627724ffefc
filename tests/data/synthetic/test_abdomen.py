"""Attenuation: organs lie in the phase's range, masses as bright as their kind."""

from dataclasses import replace

import numpy as np
import pytest

from adpfl.data.synthetic.abdomen import AIR, paint_abdomen
from adpfl.data.synthetic.ct_sites import PROFILES, CtProfile
from adpfl.data.synthetic.kidneys import draw_kidneys
from adpfl.data.synthetic.lattice import Lattice

LATTICE = Lattice.covering((176.0, 208.0, 272.0), 4.0)


def _painted(profile: CtProfile, seed: int = 0):
    rng = np.random.default_rng(seed)
    kidneys = draw_kidneys(LATTICE, profile, rng)
    return kidneys, paint_abdomen(LATTICE, kidneys, profile, rng)


def test_there_is_air_around_and_bone_within() -> None:
    _, hu = _painted(PROFILES["A"])
    assert hu.min() == AIR
    assert 0.1 < (hu < -500).mean() < 0.5
    assert 0.003 < (hu > 250).mean() < 0.1


@pytest.mark.parametrize("letter", sorted(PROFILES))
def test_kidneys_are_as_bright_as_the_phase_says(letter: str) -> None:
    profile = replace(PROFILES[letter], phase_spread=0.0, cysts=0.0)
    kidneys, hu = _painted(profile)
    clear = np.logical_and.reduce([mass.depth < -4.0 for mass in kidneys.masses])
    cortex = hu[(kidneys.parenchyma > 1.0) & (kidneys.parenchyma < 3.0) & clear]
    medulla = hu[(kidneys.parenchyma > 12.0) & clear]
    assert np.median(cortex) == pytest.approx(profile.phase.cortex, rel=0.2)
    assert np.median(medulla) == pytest.approx(profile.phase.medulla, rel=0.2)


def test_a_cyst_is_water_and_a_dead_middle_darker_than_its_rim() -> None:
    profile = replace(PROFILES["C"], cysts=4.0, cyst_hu=(10.0, 10.0), necrosis=1.0)
    kidneys, hu = _painted(profile, seed=2)
    labels = kidneys.labels()
    cysts = [mass for mass in kidneys.masses if mass.kind == "cyst" and mass.radius > 10.0]
    assert cysts
    for cyst in cysts:
        inside = (cyst.depth > 4.0) & (labels == 3)
        assert not inside.any() or np.median(hu[inside]) == pytest.approx(10.0, abs=8.0)
    tumor = kidneys.masses[-1]
    rim = (tumor.depth > 2.0) & (tumor.depth < 0.2 * tumor.radius)
    assert np.median(hu[tumor.depth > 0.8 * tumor.depth.max()]) < np.median(hu[rim]) - 40.0


def test_tumours_outshine_the_kidney_at_c_and_not_at_a() -> None:
    contrast = {}
    for letter in "AC":
        profile = replace(PROFILES[letter], necrosis=0.0, cysts=0.0, phase_spread=0.0)
        differences = []
        for seed in range(4):
            kidneys, hu = _painted(profile, seed)
            tumor = kidneys.labels() == 2
            organ = (kidneys.labels() == 1) & (kidneys.parenchyma > 2.0)
            differences.append(np.median(hu[tumor]) - np.median(hu[organ]))
        contrast[letter] = np.mean(differences)
    assert contrast["A"] < -20.0
    assert contrast["C"] > 20.0
