"""Volumes of one case must lie over one another."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adpfl.data.geometry import check_geometry

Writer = Callable[..., Path]
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])


@pytest.fixture
def pair(tmp_path: Path, write_nifti: Writer) -> Callable[..., list[Path]]:
    """An image and a second volume that differs as told."""

    def write(shape: tuple[int, ...] = (4, 5, 6), affine: np.ndarray = AFFINE) -> list[Path]:
        image = write_nifti(tmp_path / "case_1" / "imaging.nii.gz", np.zeros((4, 5, 6), np.int16), AFFINE)
        return [image, write_nifti(tmp_path / "case_1" / "mask.nii.gz", np.zeros(shape, np.uint8), affine)]

    return write


def moved(millimetres: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += millimetres
    return affine


def test_alike_is_sound_and_so_is_a_rounding_error(pair: Callable[..., list[Path]]) -> None:
    assert check_geometry(pair()) == []
    assert check_geometry(pair(affine=moved(0.19))) == []


@pytest.mark.parametrize(
    ("shape", "affine", "told"),
    [
        ((4, 5, 7), AFFINE, "case_1/mask.nii.gz is 4x5x7; must be 4x5x6, as imaging.nii.gz is"),
        ((4, 5, 6), moved(0.21), "lies up to 0.21 mm away from imaging.nii.gz; their affines must agree"),
        ((4, 5, 6), AFFINE @ np.diag([-1.0, 1, 1, 1]), "is oriented RPS; must be LPS, as imaging.nii.gz is"),
        ((4, 5, 6), AFFINE[[1, 0, 2, 3]], "is oriented PLS; must be LPS"),
        ((4, 5, 6), AFFINE * [[1.5], [1.5], [1.5], [1.0]], "their affines must agree"),
        ((4, 5, 6, 2), AFFINE, "has 4 dimensions; must have 3"),
    ],
)
def test_what_differs_is_named(
    pair: Callable[..., list[Path]], shape: tuple[int, ...], affine: np.ndarray, told: str
) -> None:
    problems = check_geometry(pair(shape, affine))
    assert len(problems) == 1
    assert told in problems[0]


def test_all_that_is_wrong_is_listed(tmp_path: Path, pair: Callable[..., list[Path]]) -> None:
    paths = [tmp_path / "case_1" / "gone.nii.gz", *pair((1, 1, 1)), tmp_path / "case_1" / "broken.nii.gz"]
    paths[-1].write_bytes(b"nothing")
    problems = check_geometry(paths)
    assert [problem.split()[0] for problem in problems] == [
        "case_1/gone.nii.gz",
        "case_1/mask.nii.gz",
        "case_1/broken.nii.gz",
    ]


def test_channels_count_as_one_image(tmp_path: Path, write_nifti: Writer) -> None:
    image = write_nifti(tmp_path / "a.nii.gz", np.zeros((4, 5, 6, 4), np.int16))
    mask = write_nifti(tmp_path / "b.nii.gz", np.zeros((4, 5, 6), np.uint8))
    assert check_geometry([image, mask], dimensions=4) == []
    assert "has 4 dimensions; must have 3" in check_geometry([image, mask])[0]
