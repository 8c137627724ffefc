"""Brightness from relaxation: what each sequence shows bright, and what contrast agent and field change."""

import numpy as np
import pytest

from adpfl.data.synthetic.mr_signal import (
    WATER_T1_MS,
    Sequence,
    Tissue,
    in_field,
    signal,
    with_contrast,
)

FLUID, GREY, WHITE = Tissue(1.0, 3800, 1600), Tissue(0.83, 950, 95), Tissue(0.71, 620, 76)
LESION = Tissue(0.85, 1250, 120, leak=1.0)


def test_full_recovery_without_echo_time_gives_the_protons() -> None:
    assert signal(WHITE, Sequence(1e6, 1e-6)) == pytest.approx(0.71)


def test_spin_echo_follows_its_equation() -> None:
    expected = 0.83 * (1.0 - np.exp(-500 / 950)) * np.exp(-15 / 95)
    assert signal(GREY, Sequence(500, 15)) == pytest.approx(expected)


def test_inversion_nulls_a_tissue_at_its_time() -> None:
    null = 3800 * np.log(2.0)
    assert signal(FLUID, Sequence(1e6, 100, null)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("sequence", "order"),
    [
        (Sequence(550, 14), (WHITE, GREY, FLUID)),
        (Sequence(2000, 3, 900), (WHITE, GREY, FLUID)),
        (Sequence(4500, 95), (FLUID, GREY, WHITE)),
        (Sequence(9000, 110, 2350), (GREY, WHITE, FLUID)),
    ],
    ids=["t1-spin-echo", "t1-inversion", "t2", "flair"],
)
def test_each_weighting_orders_the_tissues(sequence: Sequence, order: tuple[Tissue, ...]) -> None:
    bright, middle, dark = (signal(tissue, sequence) for tissue in order)
    assert bright > middle > dark


def test_contrast_agent_brightens_what_leaks() -> None:
    sequence = Sequence(550, 14)
    assert signal(with_contrast(LESION, 0.5), sequence) > 1.8 * signal(LESION, sequence)
    assert signal(with_contrast(WHITE, 0.5), sequence) < 1.1 * signal(WHITE, sequence)
    assert with_contrast(LESION, 0.0).t1_ms == pytest.approx(LESION.t1_ms)


def test_a_stronger_field_lengthens_t1_but_not_that_of_water() -> None:
    assert in_field(WHITE, 1.5).t1_ms == pytest.approx(WHITE.t1_ms)
    assert 700 < in_field(WHITE, 3.0).t1_ms < 900
    water = Tissue(1.0, WATER_T1_MS, 2000)
    assert in_field(water, 3.0).t1_ms == pytest.approx(WATER_T1_MS)
