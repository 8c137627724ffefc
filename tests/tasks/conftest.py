"""Small cases on disk, and an installed package that exists only for a test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adpfl.data.case import Case
from adpfl.data.volumes import fixed_affine, write_volume


@pytest.fixture
def lesion_case(tmp_path: Path) -> Case:
    """60 wide, 40 high, with a dark square lesion in its upper left."""
    pixels = np.full((40, 60, 3), (200, 160, 140), dtype=np.uint8)
    mask = np.zeros((40, 60), dtype=np.uint8)
    pixels[8:24, 6:30] = (90, 50, 40)
    mask[8:24, 6:30] = 255
    Image.fromarray(pixels).save(tmp_path / "ISIC_1.png")
    Image.fromarray(mask).save(tmp_path / "ISIC_1_segmentation.png")
    return Case("ISIC_1", "p1", tmp_path / "ISIC_1.png", tmp_path / "ISIC_1_segmentation.png")


@pytest.fixture
def ct_folder(tmp_path: Path) -> Path:
    """One KiTS case of 12 slices of 40 x 48: a kidney at 150 HU with a tumour at 90, in a body at 40 HU."""
    folder = tmp_path / "kits" / "case_00000"
    folder.mkdir(parents=True)
    hu = np.full((12, 40, 48), -1000, dtype=np.int16)
    labels = np.zeros(hu.shape, dtype=np.uint8)
    hu[:, 4:36, 4:44] = 40
    hu[3:9, 12:24, 8:20], labels[3:9, 12:24, 8:20] = 150, 1
    hu[5:8, 16:20, 12:16], labels[5:8, 16:20, 12:16] = 90, 2
    affine = fixed_affine((4.0, 2.0, 2.0))
    write_volume(hu, affine, folder / "imaging.nii.gz")
    write_volume(labels, affine, folder / "segmentation.nii.gz")
    return folder.parent


@pytest.fixture
def mr_folder(tmp_path: Path) -> Path:
    """One BraTS 2023 case of 32 x 28 x 24, stored as RAS: oedema around a core around an enhancing tumour."""
    folder = tmp_path / "brats" / "BraTS-GLI-00000-000"
    folder.mkdir(parents=True)
    labels = np.zeros((32, 28, 24), dtype=np.uint8)
    for label, inset in ((2, 0), (1, 2), (3, 3)):
        labels[10 + inset : 20 - inset, 8 + inset : 18 - inset, 6 + inset : 16 - inset] = label
    brain = np.zeros(labels.shape, dtype=bool)
    brain[3:29, 3:25, 3:21] = True
    generator = np.random.default_rng(0)
    shown = {"t1n": (0, 0, 0), "t1c": (0, 0, 400), "t2w": (100, 300, 100), "t2f": (100, 300, 50)}
    for sequence, contrast in shown.items():
        image = np.where(brain, 500.0 + generator.normal(0, 20, labels.shape), 0.0)
        for label, more in zip((1, 2, 3), contrast, strict=True):
            image += more * (labels == label)
        path = folder / f"BraTS-GLI-00000-000-{sequence}.nii.gz"
        write_volume(image.astype(np.float32), np.eye(4), path)
    write_volume(labels, np.eye(4), folder / "BraTS-GLI-00000-000-seg.nii.gz")
    return folder.parent


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Puts a distribution with entry points and one module on `sys.path`, as pip would."""

    def write(package: str, entry_points: str, source: str) -> None:
        site = tmp_path / f"site-{package}"
        metadata = site / f"{package}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[adpfl.tasks]\n{entry_points}\n")
        (site / f"{package}.py").write_text(source)
        monkeypatch.syspath_prepend(str(site))

    return write
