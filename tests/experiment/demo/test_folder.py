"""The demonstration empties only what it made."""

import pytest

from adpfl.errors import ConfigError, DataError
from adpfl.experiment.demo.folder import MARKER, DemoFolder, claimed


def test_a_new_folder_is_made_and_marked(tmp_path):
    with claimed(tmp_path / "a" / "demo") as folder:
        assert (folder.root / MARKER).is_file()
        assert folder.log("server").parent.is_dir()
        assert folder.site_config("hospital1").parent.is_dir()


def test_git_ignores_all_of_it(tmp_path):
    for _ in range(2):
        with claimed(tmp_path / "demo") as folder:
            assert (folder.root / ".gitignore").read_text() == "*\n"


def fail_after_writing(root, path):
    with claimed(root):
        path.write_text("half")
        raise DataError("no masks")


@pytest.mark.parametrize("existed", [True, False])
def test_a_demonstration_that_never_started_leaves_nothing(tmp_path, existed):
    root = tmp_path / "demo"
    if existed:
        root.mkdir()
    with pytest.raises(DataError, match="no masks"):
        fail_after_writing(root, DemoFolder(root).server_config)
    assert root.exists() is existed
    assert not existed or not any(root.iterdir())


def test_logs_of_a_demonstration_that_failed_stay(tmp_path):
    log = DemoFolder(tmp_path / "demo").log("server")
    with pytest.raises(DataError, match="no masks"):
        fail_after_writing(tmp_path / "demo", log)
    assert log.read_text() == "half"


def test_an_empty_folder_is_taken(tmp_path):
    with claimed(tmp_path) as folder:
        assert folder.root == tmp_path.resolve()


def test_an_earlier_demonstration_is_emptied(tmp_path):
    with claimed(tmp_path / "demo") as folder:
        folder.report.write_text("old")
        (folder.root / "state" / "deep").mkdir(parents=True)
    with claimed(tmp_path / "demo") as folder:
        assert not folder.report.exists()
        assert not (folder.root / "state" / "deep").exists()
        assert (folder.root / MARKER).is_file()


def test_a_folder_of_anyone_else_is_refused_and_untouched(tmp_path):
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years")
    with pytest.raises(ConfigError, match="did not make"), claimed(tmp_path):
        pass
    assert thesis.read_text() == "years"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_marker_that_is_a_link_marks_nothing(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    elsewhere = tmp_path.parent / f"{tmp_path.name}-marker"
    elsewhere.write_text("")
    (tmp_path / MARKER).symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="did not make"), claimed(tmp_path):
        pass


@pytest.mark.parametrize("kind", ["file", "link"])
def test_only_a_folder_can_be_claimed(tmp_path, kind):
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("x")
    else:
        (tmp_path / "real").mkdir()
        target.symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError, match="must be a folder"), claimed(target):
        pass


def test_links_inside_are_removed_and_never_followed(tmp_path):
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "gold.txt").write_text("gold")
    with claimed(tmp_path / "demo") as folder:
        (folder.root / "link").symlink_to(treasure)
        (folder.root / "state" / "link").symlink_to(treasure)
    with claimed(tmp_path / "demo"):
        pass
    assert (treasure / "gold.txt").read_text() == "gold"


def test_two_demonstrations_do_not_share_a_folder(tmp_path):
    with (
        claimed(tmp_path / "demo"),
        pytest.raises(ConfigError, match="another demonstration is using it"),
        claimed(tmp_path / "demo"),
    ):
        pass
    with claimed(tmp_path / "demo"):
        pass
