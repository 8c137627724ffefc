"""Files that depend on their content alone, and say that they were generated."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from adpfl.data.synthetic.nifti import is_marked, write_nifti
from adpfl.errors import DataError

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])


def test_content_and_place_come_back(tmp_path: Path) -> None:
    array = np.arange(-30, 30, dtype=np.int16).reshape(3, 4, 5)
    write_nifti(array, AFFINE, tmp_path / "a.nii.gz")
    image = nib.load(tmp_path / "a.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), array)
    assert np.array_equal(image.affine, AFFINE)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    array = np.ones((3, 3, 3), dtype=np.uint8)
    for name in ("a", "other-name"):
        write_nifti(array, AFFINE, tmp_path / f"{name}.nii.gz")
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "other-name.nii.gz").read_bytes()
    assert content[4:8] == bytes(4)  # gzip's time stamp
    assert gzip.decompress(content)


def test_the_mark_stays_with_a_copy(tmp_path: Path) -> None:
    write_nifti(np.ones((3, 3, 3), dtype=np.uint8), AFFINE, tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), dtype=np.uint8), AFFINE), tmp_path / "real.nii.gz")
    assert is_marked(tmp_path / "b.nii.gz")
    assert not is_marked(tmp_path / "real.nii.gz")


@pytest.mark.parametrize("content", [b"", b"no volume at all"])
def test_what_is_no_nifti_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.nii\.gz: cannot be read as NIfTI"):
        is_marked(tmp_path / "bad.nii.gz")
