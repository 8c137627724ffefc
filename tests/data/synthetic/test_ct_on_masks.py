"""CT painted on masks: outlines and hospitals stay, intensities are the hospital's double's."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from adpfl.data.kidney_layouts import read_kidney_folder
from adpfl.data.synthetic.ct_on_masks import hospital_profile, paint, write_painted
from adpfl.data.synthetic.ct_sites import PROFILES
from adpfl.data.synthetic.hospitals import is_generated
from adpfl.data.synthetic.kidney_masks import RealMask, read_masks
from adpfl.errors import ConfigError, DataError


@pytest.fixture
def mask() -> RealMask:
    labels = np.zeros((20, 16, 50), dtype=np.uint8)
    labels[2:18, 2:14, 2:16] = 1
    labels[2:18, 2:14, 34:48] = 1
    labels[6:14, 4:12, 40:50] = 2
    return RealMask("case_00007", labels, hospital=13, slice_mm=2.0)


def test_the_annotators_outlines_stay(mask: RealMask) -> None:
    made = paint(mask, seed=0)
    assert made.spacing_mm == (3.0, 3.0, 3.0)
    assert (made.labels == 2).sum() == (mask.labels == 2).sum()
    drawn = (made.labels > 0).sum()
    assert (mask.labels > 0).sum() <= drawn <= 1.5 * (mask.labels > 0).sum()  # cysts add a little


def test_thick_slices_of_the_real_scan_stay_thick(mask: RealMask) -> None:
    thick = RealMask(mask.case, mask.labels, mask.hospital, slice_mm=6.0)
    made = paint(thick, seed=0)
    assert made.spacing_mm == (6.0, 3.0, 3.0)
    assert (made.labels == 2).sum() * 2 == pytest.approx((mask.labels == 2).sum(), rel=0.3)


def test_the_folder_reads_back_with_the_real_hospitals(tmp_path: Path, mask: RealMask) -> None:
    other = RealMask("case_00002", mask.labels, hospital=67, slice_mm=5.0)
    written = write_painted(tmp_path / "data", [mask, other], seed=0)
    assert read_kidney_folder(tmp_path / "data") == written
    assert [(case.case, case.source) for case in written] == [
        ("case_00002", "site-67"),
        ("case_00007", "site-13"),
    ]
    assert all(is_generated(case) for case in written)
    assert nib.aff2axcodes(nib.load(written[0].image).affine) == ("I", "P", "L")


def test_the_seed_changes_the_body_and_not_the_case(mask: RealMask) -> None:
    first, again, other = (paint(mask, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.hu, again.hu)
    assert not np.array_equal(first.hu, other.hu)
    assert np.array_equal(first.labels == 2, other.labels == 2)


def test_a_hospital_keeps_its_habits_and_shares_them_with_none() -> None:
    assert hospital_profile(13) == hospital_profile(13)
    assert len({hospital_profile(number).noise_hu for number in range(40)}) == 40
    noise = [profile.noise_hu for profile in PROFILES.values()]
    assert all(min(noise) <= hospital_profile(number).noise_hu <= max(noise) for number in range(40))


def test_bad_requests_are_refused(tmp_path: Path, mask: RealMask) -> None:
    with pytest.raises(ConfigError, match="masks to paint on is 0"):
        write_painted(tmp_path / "x", [], seed=0)
    with pytest.raises(ConfigError, match=r"pixel of painted scans is 0\.0 mm"):
        write_painted(tmp_path / "x", [mask], seed=0, pixel_mm=0.0)
    (tmp_path / "note").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        write_painted(tmp_path, [mask], seed=0)


@pytest.mark.real_data
def test_real_masks_carry_their_hospitals(tmp_path: Path) -> None:
    root = os.environ.get("ADPFL_TEST_DATA")
    path = Path(root or "") / "kits19_masks" / "kits19_masks_3mm.npz"
    if root is None or not path.is_file():
        pytest.skip("ADPFL_TEST_DATA names no folder with kits19_masks/kits19_masks_3mm.npz")
    masks = read_masks(path)
    assert len(masks) == 210
    chosen = masks[:3]
    written = write_painted(tmp_path / "data", chosen, seed=0)
    assert [case.source for case in written] == [f"site-{mask.hospital}" for mask in chosen]
    for case, mask in zip(read_kidney_folder(tmp_path / "data"), chosen, strict=True):
        assert case.mask is not None
        image = nib.load(case.mask)
        tumor_ml = (np.asarray(image.dataobj) == 2).sum() * np.prod(image.header.get_zooms()) / 1000.0
        assert tumor_ml == pytest.approx((mask.labels == 2).sum() * 0.027, rel=0.05)
