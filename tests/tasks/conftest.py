"""One small case on disk, and an installed package that exists only for a test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adpfl.data.case import Case


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
