"""Generated MRI: the layout of BraTS 2023, reproducible, and hospitals that differ."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from adpfl.data.brain_layouts import read_brain_folder
from adpfl.data.case import Case
from adpfl.data.synthetic.mri import CHANNELS, is_generated, write_hospital
from adpfl.data.synthetic.mri_sites import PROFILES
from adpfl.errors import ConfigError, DataError

PIXEL_MM = 4.5


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _read(case: Case, name: str) -> np.ndarray:
    return np.asarray(nib.load(case.image / f"{case.case}-{name}.nii.gz").dataobj)


def test_files_lie_and_point_as_in_brats(tmp_path: Path) -> None:
    (case,) = write_hospital(tmp_path / "site", "B", cases=1, seed=0, pixel_mm=PIXEL_MM)
    assert case.image == tmp_path / "site" / "BraTS-GLI-60000-000"
    assert case.mask == case.image / "BraTS-GLI-60000-000-seg.nii.gz"
    names = {path.name.removeprefix("BraTS-GLI-60000-000-") for path in case.image.iterdir()}
    assert names == {f"{name}.nii.gz" for name in (*CHANNELS, "seg")}
    for path in case.image.iterdir():
        image = nib.load(path)
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        assert image.shape == (32, 40, 32)
        assert image.header.get_zooms() == pytest.approx((PIXEL_MM,) * 3)


def test_a_hospital_reads_back_as_it_was_written(tmp_path: Path) -> None:
    written = write_hospital(tmp_path / "site", "A", cases=3, seed=0, pixel_mm=PIXEL_MM)
    assert read_brain_folder(tmp_path / "site") == written


def test_the_table_names_patient_and_site(tmp_path: Path) -> None:
    write_hospital(tmp_path / "site", "A", cases=2, seed=0, pixel_mm=PIXEL_MM)
    assert (tmp_path / "site" / "metadata.csv").read_text().splitlines() == [
        "case,patient,site,labels",
        "BraTS-GLI-50000-000,A-00000,site-A,brats2023",
        "BraTS-GLI-50001-000,A-00001,site-A,brats2023",
    ]


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_hospital(tmp_path / name, "C", cases=2, seed=seed, pixel_mm=PIXEL_MM)
    assert _contents(tmp_path / "a") == _contents(tmp_path / "b")
    assert _contents(tmp_path / "a") != _contents(tmp_path / "c")


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_patient_has_oedema_and_an_enhancing_tumour(tmp_path: Path, profile: str) -> None:
    for case in write_hospital(tmp_path / profile, profile, cases=4, seed=3, pixel_mm=PIXEL_MM):
        labels = _read(case, "seg")
        assert set(np.unique(labels)) <= {0, 1, 2, 3}
        assert (labels == 2).sum() > 40
        assert (labels == 3).sum() > 15


def test_the_skull_is_stripped_alike_in_all_channels(tmp_path: Path) -> None:
    (case,) = write_hospital(tmp_path / "site", "D", cases=1, seed=0, pixel_mm=PIXEL_MM)
    brains = [_read(case, name) != 0 for name in CHANNELS]
    assert all(np.array_equal(brains[0], brain) for brain in brains)
    assert 0.2 < brains[0].mean() < 0.6
    assert not (_read(case, "seg")[~brains[0]]).any()


def test_generated_cases_are_known(tmp_path: Path) -> None:
    (case,) = write_hospital(tmp_path / "site", "A", cases=1, seed=0, pixel_mm=PIXEL_MM)
    assert is_generated(case)


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="synthetic profile is 'Z'; must be one of A, B, C, D"):
        write_hospital(tmp_path / "x", "Z", cases=1, seed=0)
    with pytest.raises(ConfigError, match="synthetic cases is 0; must be 1 to 10000"):
        write_hospital(tmp_path / "x", "A", cases=0, seed=0)
    with pytest.raises(ConfigError, match=r"must be >= 32 voxels of 9\.0 mm"):
        write_hospital(tmp_path / "x", "A", cases=1, seed=0, pixel_mm=9.0)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "note").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        write_hospital(tmp_path, "A", cases=1, seed=0)
