"""Hounsfield units and labels of the kidney task."""

from pathlib import Path

import pytest

from adpfl.data.grid import Grid
from adpfl.tasks.kidney_tumor import KidneyTumor

TASK = KidneyTumor()


def test_hounsfield_units_are_clipped_and_scaled(ct_folder: Path) -> None:
    (case,) = TASK.read(ct_folder)
    image = TASK.load_image(case, Grid((8, 8, 8), (4.0, 2.0, 2.0)))
    assert image.shape == (1, 12, 40, 48)
    for place, hu in (((0, 0, 0), -79.0), ((0, 6, 6), 40.0), ((6, 13, 9), 150.0), ((6, 17, 13), 90.0)):
        assert image[0][place].item() == pytest.approx((hu - 101.0) / 76.9, abs=1e-5)
    assert TASK.background == pytest.approx((-79.0 - 101.0) / 76.9)


def test_tumour_is_part_of_the_masses_and_masses_of_the_kidney(ct_folder: Path) -> None:
    (case,) = TASK.read(ct_folder)
    reference = TASK.reference(case)
    assert reference.spacing == (4.0, 2.0, 2.0)
    assert [int(one.sum()) for one in reference.mask] == [6 * 12 * 12, 3 * 4 * 4, 3 * 4 * 4]


def test_the_window_shows_soft_tissue(ct_folder: Path) -> None:
    (case,) = TASK.read(ct_folder)
    (shown,) = TASK.display(TASK.read_volume(case).array, 6).values()
    assert shown[0, 0] < 0.0
    assert shown[6, 6] == pytest.approx(0.5)
    assert shown[13, 9] == pytest.approx(0.775)
