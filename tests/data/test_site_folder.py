"""A site's share as a folder of its own: whole, readable again, or not there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from adpfl.data.case import Case
from adpfl.data.site_folder import staged_folder, write_site_folder
from adpfl.data.skin_layouts import read_skin_folder
from adpfl.errors import DataError


@pytest.fixture
def cases(isic_folder: Callable[..., Path]) -> list[Case]:
    found = read_skin_folder(isic_folder())
    return [replace(case, patient=f"p{index // 2}", source="north") for index, case in enumerate(found)]


@pytest.mark.parametrize("link", [True, False])
def test_a_written_folder_reads_back_with_patients_and_sources(
    cases: list[Case], tmp_path: Path, link: bool
) -> None:
    folder = tmp_path / "sites" / "hospital1"
    write_site_folder(cases, folder, link=link)
    again = read_skin_folder(folder)
    assert [(case.case, case.patient, case.source) for case in again] == [
        (case.case, case.patient, case.source) for case in cases
    ]
    assert all(case.image.is_symlink() is link for case in again)
    assert [case.image.read_bytes() for case in again] == [case.image.read_bytes() for case in cases]


def test_an_image_without_a_known_patient_reads_back_as_such(
    isic_folder: Callable[..., Path], tmp_path: Path
) -> None:
    original = read_skin_folder(isic_folder())
    write_site_folder(original, tmp_path / "site")
    again = read_skin_folder(tmp_path / "site")
    assert [(case.patient, case.patient_is) for case in again] == [(case.case, "image") for case in original]


def test_others_may_read_the_folder_as_the_umask_says(cases: list[Case], tmp_path: Path) -> None:
    write_site_folder(cases, tmp_path / "site")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "site").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_empty_folder_is_filled_and_a_full_one_refused(cases: list[Case], tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    write_site_folder(cases, folder)
    with pytest.raises(DataError, match="exists and is not empty"):
        write_site_folder(cases, folder)


def test_nothing_is_left_of_a_folder_that_fails(cases: list[Case], tmp_path: Path) -> None:
    parent = tmp_path / "sites"
    with pytest.raises(DataError, match="ISIC_0000003 has no mask"):
        write_site_folder([*cases[:2], replace(cases[2], mask=None)], parent / "a")
    with pytest.raises(DataError, match="cannot be written"):
        write_site_folder([replace(cases[0], image=tmp_path / "gone.jpg")], parent / "b", link=False)
    with pytest.raises(DataError, match="there are no cases"):
        write_site_folder([], parent / "c")
    assert list(parent.iterdir()) == []


def test_a_staged_folder_is_invisible_until_it_is_whole(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "new") as staging:
        (staging / "file").write_text("whole")
        assert not (tmp_path / "new").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
