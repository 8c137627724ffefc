"""A site's share of volumes as a folder of its own: linked or copied, and read back the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adpfl.data.brain_layouts import read_brain_folder
from adpfl.data.brats import read_brain_image
from adpfl.data.case import Case
from adpfl.data.kidney_layouts import read_kidney_folder
from adpfl.data.site_folder import write_site_folder
from adpfl.data.volumes import read_label_volume, read_volume
from adpfl.errors import DataError

Folder = Callable[..., Path]


def told(cases: list[Case]) -> list[tuple[object, ...]]:
    return [(case.case, case.patient, case.source, case.labels) for case in cases]


def given(cases: list[Case]) -> list[Case]:
    """Two of the cases, with a patient and a source that only a table can keep."""
    return [replace(case, patient="anna", source="north") for case in cases[1:]]


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("year", [2019, 2021, 2023])
def test_cts(kits_folder: Folder, tmp_path: Path, year: int, link: bool) -> None:
    cases = given(read_kidney_folder(kits_folder(year=year)))
    write_site_folder(cases, tmp_path / "site", link=link)
    again = read_kidney_folder(tmp_path / "site")
    assert told(again) == told(cases)
    assert {case.image.is_symlink() for case in again} == {link}
    np.testing.assert_array_equal(read_volume(again[0].image).array, read_volume(cases[0].image).array)
    np.testing.assert_array_equal(
        read_label_volume(again[0].mask).array, read_label_volume(cases[0].mask).array
    )


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("convention", ["brats2020", "fets2022", "brats2023"])
def test_gliomas(brats_folder: Folder, tmp_path: Path, convention: str, link: bool) -> None:
    cases = given(read_brain_folder(brats_folder(convention)))
    write_site_folder(cases, tmp_path / "site", link=link)
    again = read_brain_folder(tmp_path / "site")
    assert told(again) == told(cases)
    assert {case.mask.is_symlink() for case in again} == {link}
    np.testing.assert_array_equal(read_brain_image(again[1]).array, read_brain_image(cases[1]).array)


@pytest.mark.parametrize("link", [True, False])
def test_the_decathlon(msd_folder: Folder, tmp_path: Path, link: bool) -> None:
    cases = given(read_brain_folder(msd_folder()))
    write_site_folder(cases, tmp_path / "site", link=link)
    again = read_brain_folder(tmp_path / "site")
    assert told(again) == told(cases)
    assert {case.image.is_symlink() for case in again} == {link}


def test_a_share_of_a_share_links_to_the_originals(kits_folder: Folder, tmp_path: Path) -> None:
    cases = read_kidney_folder(kits_folder())
    write_site_folder(cases, tmp_path / "first")
    write_site_folder(read_kidney_folder(tmp_path / "first"), tmp_path / "second")
    assert (tmp_path / "second" / "case_00000" / "imaging.nii.gz").readlink() == cases[0].image


def test_a_share_is_whole_or_absent(kits_folder: Folder, brats_folder: Folder, tmp_path: Path) -> None:
    kidneys, brains = read_kidney_folder(kits_folder()), read_brain_folder(brats_folder())
    with pytest.raises(
        DataError, match="cases are of brats2023 and kits23; a site folder holds one data set"
    ):
        write_site_folder([kidneys[0], brains[0]], tmp_path / "site")
    with pytest.raises(DataError, match="cases are of kits23 and photographs"):
        write_site_folder([kidneys[0], replace(kidneys[1], labels=None)], tmp_path / "site")
    with pytest.raises(DataError, match="case_00001 has no mask; a site folder needs one"):
        write_site_folder([kidneys[0], replace(kidneys[1], mask=None)], tmp_path / "site")
    assert not (tmp_path / "site").exists()
