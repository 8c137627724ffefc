"""A command's folder is held by one command at a time."""

import pytest

from adpfl.errors import ConfigError
from adpfl.experiment.held_folder import held

OPTIONS = {"marker": ".mark", "text": "made by a test\n", "other": "command"}


def test_a_folder_is_made_marked_and_held_until_the_block_ends(tmp_path):
    root = tmp_path / "a/b"
    with held(root, **OPTIONS) as existed:
        assert not existed
        assert (root / ".mark").read_text() == "made by a test\n"
        with pytest.raises(ConfigError, match="another command is using it"), held(root, **OPTIONS):
            pass
    with held(root, **OPTIONS) as existed:
        assert existed
        assert (root / ".mark").read_text() == "made by a test\n"


def test_a_folder_is_let_go_by_a_block_that_fails(tmp_path):
    with pytest.raises(RuntimeError, match="so it goes"), held(tmp_path, **OPTIONS):
        raise RuntimeError("so it goes")
    with held(tmp_path, **OPTIONS):
        pass


def test_a_disk_that_refuses_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    refused = pytest.raises(ConfigError, match=r"^--output is .*: Not a directory$")
    with refused, held(tmp_path / "file/folder", **OPTIONS):
        pass
    with pytest.raises(ConfigError, match="No such file or directory"), held(tmp_path, **OPTIONS):
        (tmp_path / "absent").read_text()


def test_an_error_of_the_block_that_names_no_file_is_its_own(tmp_path):
    with pytest.raises(ConnectionError), held(tmp_path, **OPTIONS):
        raise ConnectionError("lost")
