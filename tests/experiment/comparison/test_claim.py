"""A folder is one comparison's, for one command at a time."""

import pytest

from adpfl.errors import ConfigError
from adpfl.experiment.comparison.claim import claimed, earlier_plan, working_on
from adpfl.experiment.comparison.folder import ComparisonFolder


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(ConfigError, match="no comparison made"), claimed(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="must be a folder"), claimed(tmp_path / "out"):
        pass


def test_a_second_command_on_the_same_folder_is_refused(tmp_path):
    with (
        claimed(tmp_path / "out"),
        pytest.raises(ConfigError, match="another command is using it"),
        claimed(tmp_path / "out"),
    ):
        pass
    with claimed(tmp_path / "out"):
        pass


def test_what_fails_before_it_begins_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), claimed(tmp_path / "out"):
        raise RuntimeError
    assert not (tmp_path / "out").exists()


def test_what_fails_later_stays(tmp_path):
    with claimed(tmp_path / "out") as folder:
        folder.data.mkdir()
    with pytest.raises(RuntimeError), claimed(tmp_path / "out"):
        raise RuntimeError
    assert folder.data.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="--output is"), claimed(tmp_path / "file" / "out"):
        pass


def test_the_same_choices_find_the_plan_again(tmp_path, comparison_of, choices_of):
    folder, plan = comparison_of(tmp_path)
    assert earlier_plan(folder, choices_of()) == plan


def test_other_choices_are_refused_naming_what_differs(tmp_path, comparison_of, choices_of):
    folder, _ = comparison_of(tmp_path)
    other = choices_of(rounds=3, curves={"clip_norms": [0.1, 10.0]})
    with pytest.raises(ConfigError, match=r"curves.clip_norms is 0.1,10, was ; rounds is 3, was 2\)"):
        earlier_plan(folder, other)


def test_data_without_a_plan_is_made_anew(tmp_path, choices_of):
    folder = ComparisonFolder(tmp_path)
    folder.site_data("site1").mkdir(parents=True)
    assert earlier_plan(folder, choices_of()) is None
    assert not folder.data.exists()


def test_one_process_works_on_a_cell(tmp_path):
    with working_on(tmp_path / ".lock") as first, working_on(tmp_path / ".lock") as second:
        assert (first, second) == (True, False)
    with working_on(tmp_path / ".lock") as again:
        assert again
