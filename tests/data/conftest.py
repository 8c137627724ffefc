"""Small data folders in the layouts that users have."""

from collections.abc import Callable, Iterable
from pathlib import Path

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
