"""Folders that are neither BraTS, FeTS nor the decathlon."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adpfl.data.brain_layouts import read_brain_folder
from adpfl.errors import DataError


def test_folders_of_no_known_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: is no folder"):
        read_brain_folder(tmp_path / "gone")
    with pytest.raises(DataError, match="is empty; must be one of BraTS 2020"):
        read_brain_folder(tmp_path)
    (tmp_path / "patient1").mkdir()
    with pytest.raises(DataError, match="has no known layout; must be one of BraTS 2020"):
        read_brain_folder(tmp_path)


@pytest.mark.parametrize("write", ["brats_folder", "msd_folder"])
def test_the_folder_inside_is_named(write: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(write)()
    with pytest.raises(DataError, match=rf"has no known layout; .*; name the folder {folder.name} in it"):
        read_brain_folder(folder.parent)


def test_a_table_that_lists_nothing(msd_folder: Callable[..., Path]) -> None:
    folder = msd_folder(lambda table: table.update(training=[]))
    for image in (folder / "imagesTr").iterdir():
        image.unlink()
    with pytest.raises(DataError, match="holds no images"):
        read_brain_folder(folder)
