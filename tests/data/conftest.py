"""Small data folders in the layouts that users have."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from adpfl.data.case import Case

IsicWriter = Callable[..., Path]


def _write_image(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    columns, rows = size
    ramp = np.linspace(60, 200, rows * columns * 3).reshape(rows, columns, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ramp.astype(np.uint8)).save(path)


def _write_mask(path: Path, size: tuple[int, int] = (40, 30), foreground: int = 255) -> None:
    columns, rows = size
    mask = np.zeros((rows, columns), dtype=np.uint8)
    mask[5:15, 10:25] = foreground
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


@pytest.fixture
def write_image() -> Callable[..., None]:
    return _write_image


@pytest.fixture
def write_mask_file() -> Callable[..., None]:
    return _write_mask


@pytest.fixture
def isic_folder(tmp_path: Path) -> IsicWriter:
    """Writes an ISIC folder of the given cases and returns it; `split` may be another one's."""

    def write(
        names: Iterable[str] = ("ISIC_0000001", "ISIC_0000002", "ISIC_0000003"),
        *,
        year: int = 2017,
        split: str = "Training",
    ) -> Path:
        folder = tmp_path / "isic"
        images, masks = {
            2017: (f"ISIC-2017_{split}_Data", f"ISIC-2017_{split}_Part1_GroundTruth"),
            2018: (f"ISIC2018_Task1-2_{split}_Input", f"ISIC2018_Task1_{split}_GroundTruth"),
        }[year]
        for name in names:
            _write_image(folder / images / f"{name}.jpg")
            _write_mask(folder / masks / f"{name}_segmentation.png")
        return folder

    return write


@pytest.fixture
def patients() -> Callable[..., list[Case]]:
    """Cases without files: `images_of[i]` images of patient i."""

    def make(images_of: Iterable[int], source: str | None = None) -> list[Case]:
        return [
            Case(f"c{patient:03d}-{image}", f"p{patient:03d}", Path(f"{patient}-{image}.jpg"), None, source)
            for patient, count in enumerate(images_of)
            for image in range(count)
        ]

    return make


LPS_2MM = np.diag([-2.0, -2.0, 3.0, 1.0])
"""Stored columns to the left, rows to the back, slices upwards: as BraTS is, with thicker slices."""
KITS_AFFINE = np.array([[0, 0, -1.0, 0], [0, -1.5, 0, 0], [-2.0, 0, 0, 0], [0, 0, 0, 1]])
"""Stored slices, rows, columns to I, P, L: as KiTS is."""
SHAPE = (6, 7, 8)


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = LPS_2MM) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def _image(seed: int, shape: Sequence[int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(-100, 300, shape).astype(np.int16)


def _labels(values: Iterable[int], shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Two voxels of each value."""
    mask = np.zeros(shape, np.uint8)
    for place, value in enumerate(values):
        mask[place, 2, 3:5] = value
    return mask


@pytest.fixture
def write_nifti() -> Callable[..., Path]:
    return _write_nifti


@pytest.fixture
def image() -> Callable[..., np.ndarray]:
    return _image


@pytest.fixture
def labels() -> Callable[..., np.ndarray]:
    return _labels


@pytest.fixture
def kits_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes cases of one year of KiTS and returns their folder; a second call adds to it."""

    def write(numbers: Iterable[int] = (0, 1, 2), *, year: int = 2023) -> Path:
        folder = tmp_path / "kits"
        mask = {2019: "segmentation", 2021: "aggregated_MAJ_seg", 2023: "segmentation"}[year]
        for number in numbers:
            place = folder / f"case_{number:05d}"
            _write_nifti(place / "imaging.nii.gz", _image(number), KITS_AFFINE)
            _write_nifti(
                place / f"{mask}.nii.gz", _labels((1, 2) if year == 2019 else (1, 2, 3)), KITS_AFFINE
            )
            if year == 2023:
                (place / "instances").mkdir()
        if year == 2019:
            (folder / "kits.json").write_text("[]")
        return folder

    return write


BRATS_NAMES = {
    "brats2020": ("BraTS20_Training_00{}", "_"),
    "brats2021": ("BraTS2021_0000{}", "_"),
    "fets2021": ("FeTS21_Training_00{}", "_"),
    "fets2022": ("FeTS2022_0000{}", "_"),
    "brats2023": ("BraTS-GLI-0000{}-000", "-"),
    "brats2024": ("BraTS-GLI-0000{}-100", "-"),
}


@pytest.fixture
def brats_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes cases of one year of BraTS or FeTS and returns their folder; a second call adds to it."""

    def write(convention: str = "brats2023", names: Iterable[str] | None = None, cases: int = 3) -> Path:
        folder = tmp_path / "brats"
        pattern, mark = BRATS_NAMES[convention]
        late = mark == "-"
        endings = ("t1n", "t1c", "t2w", "t2f") if late else ("t1", "t1ce", "t2", "flair")
        values = {"brats2023": (1, 2, 3), "brats2024": (1, 2, 3, 4)}.get(convention, (1, 2, 4))
        for index, name in enumerate(names or [pattern.format(number) for number in range(cases)]):
            for channel, ending in enumerate(endings):
                path = folder / name / f"{name}{mark}{ending}.nii.gz"
                _write_nifti(path, _image(10 * index + channel + 100 * sum(map(ord, name))))
            _write_nifti(folder / name / f"{name}{mark}seg.nii.gz", _labels(values))
        return folder

    return write


@pytest.fixture
def msd_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a decathlon folder of three cases and one test case; `change` edits its table."""

    def write(change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
        folder = tmp_path / "Task01_BrainTumour"
        names = [f"BRATS_00{number}" for number in (1, 2, 3)]
        for number, name in enumerate(names):
            _write_nifti(folder / "imagesTr" / f"{name}.nii.gz", _image(number, (*SHAPE, 4)))
            _write_nifti(folder / "labelsTr" / f"{name}.nii.gz", _labels((1, 2, 3)))
        _write_nifti(folder / "imagesTs" / "BRATS_009.nii.gz", _image(9, (*SHAPE, 4)))
        table = {
            "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
            "labels": {
                "0": "background",
                "1": "edema",
                "2": "non-enhancing tumor",
                "3": "enhancing tumour",
            },
            "training": [
                {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names
            ],
            "test": ["./imagesTs/BRATS_009.nii.gz"],
        }
        change(table)
        (folder / "dataset.json").write_text(json.dumps(table))
        return folder

    return write


@pytest.fixture
def real_data() -> Path:
    """The folder of real images; a test that needs it carries the mark `real_data`."""
    root = os.environ.get("ADPFL_TEST_DATA")
    if not root:
        pytest.skip("ADPFL_TEST_DATA is not set")
    return Path(root)
