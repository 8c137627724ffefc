"""The decathlon's brain tumours: one file of four channels, a table that lists the cases."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adpfl.data.brain_layouts import read_brain_folder
from adpfl.data.brats import read_brain_image
from adpfl.data.labels import structures_of
from adpfl.data.msd import read_msd
from adpfl.data.volumes import read_label_volume, read_volume
from adpfl.errors import DataError

Folder = Callable[..., Path]
Writer = Callable[..., Path]


def test_the_tables_cases_are_read(msd_folder: Folder) -> None:
    cases = read_brain_folder(msd_folder())
    assert [case.case for case in cases] == ["BRATS_001", "BRATS_002", "BRATS_003"]
    assert {case.labels for case in cases} == {"msd_task01"}
    structures = structures_of(read_label_volume(cases[0].mask).array, "msd_task01")
    assert structures.sum((1, 2, 3)).tolist() == [6, 4, 2, 2]


def test_channels_come_in_the_order_of_brats(msd_folder: Folder) -> None:
    case = read_brain_folder(msd_folder())[0]
    stored = read_volume(case.image).array  # FLAIR, T1w, t1gd, T2w
    volume = read_brain_image(case)
    assert volume.array.shape == (4, 8, 7, 6)
    np.testing.assert_array_equal(volume.array, stored[[1, 2, 3, 0]])


def test_images_alone_include_the_test_cases(msd_folder: Folder) -> None:
    cases = read_brain_folder(msd_folder(), with_masks=False)
    assert [case.case for case in cases] == ["BRATS_001", "BRATS_002", "BRATS_003", "BRATS_009"]
    assert {case.mask for case in cases} == {None}


def test_unpacked_files_stand_for_listed_archives(
    msd_folder: Folder, write_nifti: Writer, image: Writer
) -> None:
    folder = msd_folder()
    (folder / "imagesTr" / "BRATS_001.nii.gz").unlink()
    write_nifti(folder / "imagesTr" / "BRATS_001.nii", image(1, (6, 7, 8, 4)))
    assert read_brain_folder(folder)[0].image.name == "BRATS_001.nii"


def test_all_that_is_wrong_is_listed(msd_folder: Folder, write_nifti: Writer, image: Writer) -> None:
    folder = msd_folder()
    (folder / "imagesTr" / "BRATS_001.nii.gz").unlink()
    (folder / "labelsTr" / "BRATS_001.nii.gz").unlink()
    write_nifti(folder / "imagesTr" / "BRATS_002.nii.gz", image(2))
    write_nifti(folder / "labelsTr" / "BRATS_003.nii.gz", np.zeros((6, 7, 8), np.uint8), np.eye(4))
    write_nifti(folder / "imagesTr" / "BRATS_004.nii.gz", image(4, (6, 7, 8, 4)))
    (folder / "imagesTr" / "._BRATS_005.nii.gz").write_bytes(b"left by an archive tool")
    _, problems = read_msd(folder)
    assert problems == [
        "BRATS_001 is listed in dataset.json, but imagesTr/BRATS_001.nii.gz is absent",
        "BRATS_001 is listed in dataset.json, but labelsTr/BRATS_001.nii.gz is absent",
        "imagesTr/BRATS_002.nii.gz has 3 dimensions; must have 4",
        "labelsTr/BRATS_003.nii.gz is oriented RAS; must be LPS, as BRATS_003.nii.gz is",
        "BRATS_004 lies in imagesTr and is not listed in dataset.json",
    ]


def test_another_number_of_channels_is_refused(
    msd_folder: Folder, write_nifti: Writer, image: Writer
) -> None:
    folder = msd_folder()
    write_nifti(folder / "imagesTr" / "BRATS_001.nii.gz", image(2, (6, 7, 8, 3)))
    with pytest.raises(DataError, match=r"BRATS_001: BRATS_001\.nii\.gz must have 4 channels"):
        read_brain_image(read_brain_folder(folder)[0])


def test_a_case_listed_twice_is_named(msd_folder: Folder) -> None:
    folder = msd_folder(lambda table: table["training"].append(table["training"][0]))
    with pytest.raises(DataError, match=r"BRATS_001 stands twice in dataset\.json"):
        read_brain_folder(folder)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("modality", {"0": "CT"}, "modality is .*; must be FLAIR, T1w, t1gd, T2w from 0 to 3"),
        (
            "modality",
            {"0": "T1w", "1": "FLAIR", "2": "t1gd", "3": "T2w"},
            ".*; must be FLAIR, T1w, t1gd, T2w",
        ),
        ("labels", {"0": "background", "1": "liver"}, "labels is .*; must be"),
        ("training", None, "training must be a list of cases"),
        (
            "training",
            [{"image": "../secret.nii.gz", "label": "x"}],
            "lists '../secret.nii.gz'; must be a file",
        ),
        ("training", [{"image": "/etc/a.nii.gz", "label": "x"}], "lists '/etc/a.nii.gz'; must be a file"),
        ("training", ["./imagesTr/BRATS_001.nii.gz"], "lists None; must be a file in the folder"),
    ],
)
def test_a_table_of_another_kind_is_refused(msd_folder: Folder, key: str, value: Any, told: str) -> None:
    with pytest.raises(DataError, match=rf"dataset\.json: {told}"):
        read_brain_folder(msd_folder(lambda table: table.update({key: value})))


@settings(max_examples=100, deadline=None)
@given(content=st.one_of(st.binary(max_size=60), st.text('{}[]":,nul0a\\', max_size=60).map(str.encode)))
def test_a_broken_table_is_refused_in_one_line(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("msd")
    (folder / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=r"dataset\.json: "):
        read_brain_folder(folder)


def test_data_sets_are_kept_apart(msd_folder: Folder) -> None:
    folder = msd_folder()
    (folder / "BraTS2021_00000").mkdir()
    with pytest.raises(
        DataError, match=r"dataset\.json lies among folders of BraTS cases; keep data sets apart"
    ):
        read_brain_folder(folder)
