"""Folders that are no KiTS."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adpfl.data.kidney_layouts import read_kidney_folder
from adpfl.errors import DataError


def test_folders_of_no_known_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: is no folder"):
        read_kidney_folder(tmp_path / "gone")
    with pytest.raises(DataError, match="is empty; must be one of KiTS 2019 or 2023"):
        read_kidney_folder(tmp_path)
    (tmp_path / "case_00000").write_text("a file, no folder")
    with pytest.raises(DataError, match="has no known layout; must be one of KiTS"):
        read_kidney_folder(tmp_path)


def test_the_folder_inside_is_named(kits_folder: Callable[..., Path]) -> None:
    folder = kits_folder()
    with pytest.raises(DataError, match=r"has no known layout; .*; name the folder kits in it"):
        read_kidney_folder(folder.parent)
