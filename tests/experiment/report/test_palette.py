"""Colours can be told from their ground, in light and in dark."""

import pytest

from adpfl.experiment.report.palette import DARK, LIGHT, contrast


def test_contrast_of_black_and_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#777777") == pytest.approx(1.0)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_reaches_four_and_a_half_and_series_three(scheme):
    grounds = ("paper", "panel")
    for ground in grounds:
        for text in ("ink", "muted", "accent", "good", "bad", "caution-ink"):
            assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground)
        for place in range(1, 9):
            assert contrast(scheme[f"site-{place}"], scheme[ground]) >= 3.0, (place, ground)
    assert contrast(scheme["caution-ink"], scheme["caution-ground"]) >= 4.5
    assert contrast(scheme["ink"], scheme["caution-ground"]) >= 4.5


def test_every_role_has_one_colour_that_no_other_has():
    """Figures are drawn in the light colours, which are then exchanged for roles: two alike could not be."""
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)
