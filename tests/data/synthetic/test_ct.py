"""Generated CT: the layout of KiTS, reproducible, and hospitals that differ."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from adpfl.data.case import Case
from adpfl.data.kidney_layouts import read_kidney_folder
from adpfl.data.synthetic.ct import is_generated, write_hospital
from adpfl.data.synthetic.ct_sites import PROFILES
from adpfl.errors import ConfigError, DataError

PIXEL_MM = 5.5


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _read(case: Case) -> tuple[np.ndarray, np.ndarray]:
    assert case.mask is not None
    return tuple(np.asarray(nib.load(path).dataobj) for path in (case.image, case.mask))


def test_files_lie_and_point_as_in_kits(tmp_path: Path) -> None:
    (case,) = write_hospital(tmp_path / "site", "B", cases=1, seed=0, pixel_mm=PIXEL_MM)
    assert case.image == tmp_path / "site" / "case_60000" / "imaging.nii.gz"
    assert case.mask == tmp_path / "site" / "case_60000" / "segmentation.nii.gz"
    image, mask = nib.load(case.image), nib.load(case.mask)
    assert nib.aff2axcodes(image.affine) == ("I", "P", "L")
    assert np.array_equal(image.affine, mask.affine)
    assert image.shape == mask.shape
    assert (image.get_data_dtype(), mask.get_data_dtype()) == (np.int16, np.uint8)
    assert image.header.get_zooms() == pytest.approx((6.05, 6.05, 6.05))


def test_a_hospital_reads_back_as_it_was_written(tmp_path: Path) -> None:
    written = write_hospital(tmp_path / "site", "A", cases=3, seed=0, pixel_mm=PIXEL_MM)
    assert read_kidney_folder(tmp_path / "site") == written


def test_the_table_names_patient_and_site(tmp_path: Path) -> None:
    write_hospital(tmp_path / "site", "A", cases=2, seed=0, pixel_mm=PIXEL_MM)
    assert (tmp_path / "site" / "metadata.csv").read_text().splitlines() == [
        "case,patient,site,labels",
        "case_50000,A-00000,site-A,kits23",
        "case_50001,A-00001,site-A,kits23",
    ]


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_hospital(tmp_path / name, "C", cases=2, seed=seed, pixel_mm=PIXEL_MM)
    assert _contents(tmp_path / "a") == _contents(tmp_path / "b")
    assert _contents(tmp_path / "a") != _contents(tmp_path / "c")


def test_a_longer_data_set_begins_with_the_shorter_one(tmp_path: Path) -> None:
    short = write_hospital(tmp_path / "short", "D", cases=1, seed=0, pixel_mm=PIXEL_MM)
    long = write_hospital(tmp_path / "long", "D", cases=3, seed=0, pixel_mm=PIXEL_MM)
    assert [case.image.read_bytes() for case in short] == [case.image.read_bytes() for case in long[:1]]


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_patient_has_kidneys_and_a_tumour(tmp_path: Path, profile: str) -> None:
    for case in write_hospital(tmp_path / profile, profile, cases=4, seed=3, pixel_mm=PIXEL_MM):
        hu, labels = _read(case)
        assert set(np.unique(labels)) <= {0, 1, 2, 3}
        assert (labels == 1).sum() > 200
        assert (labels == 2).sum() > 5
        assert -1030 <= hu.min() < -900
        assert 150 < hu.max() < 2000


def test_generated_cases_are_known_after_links_and_other_names(tmp_path: Path) -> None:
    (case,) = write_hospital(tmp_path / "site", "A", cases=1, seed=0, pixel_mm=PIXEL_MM)
    link = tmp_path / "case_00001.nii.gz"
    link.symlink_to(case.image)
    assert is_generated(case)
    assert is_generated(Case("case_00001", "1", link, None))


def test_another_image_is_not_generated(tmp_path: Path) -> None:
    path = tmp_path / "imaging.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), path)
    assert not is_generated(Case("case_00001", "1", path, None))


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="synthetic profile is 'Z'; must be one of A, B, C, D"):
        write_hospital(tmp_path / "x", "Z", cases=1, seed=0)
    with pytest.raises(ConfigError, match="synthetic cases is 0; must be 1 to 10000"):
        write_hospital(tmp_path / "x", "A", cases=0, seed=0)
    with pytest.raises(ConfigError, match=r"must be >= 32 pixels of 9\.0 mm"):
        write_hospital(tmp_path / "x", "A", cases=1, seed=0, pixel_mm=9.0)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "note").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        write_hospital(tmp_path, "A", cases=1, seed=0)
