"""The site file that `init` writes: it loads, it is found, and it never takes another's place."""

import pytest
import yaml

from adpfl.errors import ConfigError
from adpfl.tasks.registry import built_in_tasks
from adpfl_client.config import load_site_config, require_known_tasks
from adpfl_client.operating.starter import write_starter


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("task", built_in_tasks())
def test_what_is_written_loads_by_the_sites_name(tmp_path, task):
    path = write_starter("hospital1", None, task=task, data=None)
    settings = load_site_config("hospital1", None)
    require_known_tasks(settings, source=str(path))
    assert settings.state_dir == tmp_path / "state" / "hospital1"
    assert settings.data[task].path == tmp_path / "data" / task
    assert settings.policy.allowed_tasks == (task,)
    assert settings.policy.accept_unbounded == ()


@pytest.mark.parametrize("site", ["1", "1e5", "null", "on", "h" * 63])
def test_any_name_that_can_be_enrolled_will_do(site):
    write_starter(site, None, task="kidney_tumor_presence", data=None)
    settings = load_site_config(site, None)
    assert settings.site == site
    assert settings.policy.data_set_id == f"{site}-kidney_tumor_presence"[:63]


def test_a_file_of_ones_own_choice_keeps_everything_beside_itself(tmp_path):
    path = write_starter("h-1", tmp_path / "etc" / "site.yaml", task="skin_lesion", data=None)
    assert load_site_config("h-1", path).state_dir == tmp_path / "etc" / "state" / "h-1"


@pytest.mark.parametrize("folder", ["images: old #1", 'a "quoted" one', "{braces}", "Bilder-Ä"])
def test_the_data_folder_is_taken_as_the_command_line_means_it(tmp_path, folder):
    write_starter("hospital1", None, task="skin_lesion", data=tmp_path / folder)
    assert load_site_config("hospital1", None).data["skin_lesion"].path == tmp_path / folder


def test_a_relative_data_folder_is_the_working_folders(tmp_path):
    (tmp_path / "isic").mkdir()
    write_starter("hospital1", None, task="skin_lesion", data=(tmp_path / "isic").relative_to(tmp_path))
    assert load_site_config("hospital1", None).data["skin_lesion"].path == tmp_path / "isic"


def test_the_accepted_run_loads_once_its_comment_marks_are_off():
    path = write_starter("hospital1", None, task="skin_lesion", data=None)
    head, marked = path.read_text().split("accept_unbounded: []\n")
    entry = [line[1:] if line.startswith("#   ") else line for line in marked.splitlines()]
    path.write_text("\n".join([f"{head}accept_unbounded:", *entry]))
    (accepted,) = load_site_config("hospital1", None).policy.accept_unbounded
    assert accepted.by == "dr.example"
    assert yaml.safe_load(path.read_text())["threads"] == 1


def test_a_file_that_is_there_stays_as_it_is(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"site\.yaml: exists already; a site's file is never overwritten"):
        write_starter("hospital1", path, task="skin_lesion", data=None)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("site", "task", "words"),
    [("../h", "skin_lesion", "init: site"), ("hospital1", "retina", "--task is 'retina'; must be one of: ")],
)
def test_a_wrong_name_writes_nothing(tmp_path, site, task, words):
    with pytest.raises(ConfigError, match=words):
        write_starter(site, None, task=task, data=None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "sites").write_text("a file in the way")
    with pytest.raises(ConfigError, match=r"hospital1\.yaml"):
        write_starter("hospital1", None, task="skin_lesion", data=None)
