"""Profiles between profiles."""

from dataclasses import fields

import pytest

from adpfl.data.synthetic.ct_sites import PROFILES, CtProfile, blend


def test_the_ends_of_a_blend_are_the_profiles() -> None:
    assert blend(PROFILES["A"], PROFILES["C"], 0.0) == PROFILES["A"]
    assert blend(PROFILES["A"], PROFILES["C"], 1.0) == PROFILES["C"]


def test_every_figure_is_mixed_by_share() -> None:
    mixed = blend(PROFILES["A"], PROFILES["B"], 0.25)
    assert mixed.phase.cortex == pytest.approx(0.75 * 195 + 0.25 * 165)
    assert mixed.slice_mm == pytest.approx(3.5)
    assert mixed.fat_mm == pytest.approx((9.75, 23.0))


def test_no_two_profiles_are_alike_in_phase_noise_or_tumours() -> None:
    distinct = ("phase", "noise_hu", "tumor_radius_mm", "uptake", "annotator_offset_mm")
    assert set(distinct) <= {field.name for field in fields(CtProfile)}
    for name in distinct:
        assert len({getattr(profile, name) for profile in PROFILES.values()}) == 4
