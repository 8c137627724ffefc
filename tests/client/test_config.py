"""The site's configuration: found, strict, of the right site, with paths relative to the file."""

from pathlib import Path

import pytest

from adpfl.errors import ConfigError
from adpfl_client import config as site_config
from adpfl_client.config import find_site_config, load_site_config

EXAMPLE = Path(__file__).parents[2] / "examples" / "hospital1.yaml"

MINIMAL = """
site: hospital1
state_dir: state
data: {skin_lesion: {path: images}}
policy: {data_set_id: set1, allowed_tasks: [skin_lesion]}
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str = MINIMAL, name: str = "hospital1.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_example_loads_and_names_every_key():
    config = load_site_config("hospital1", EXAMPLE)
    text = EXAMPLE.read_text(encoding="utf-8")
    for model in (config, config.policy, config.data["skin_lesion"]):
        for key in type(model).model_fields:
            assert f"{key}:" in text


def test_paths_are_relative_to_the_file(write, tmp_path):
    config = load_site_config(None, write(name="sites/hospital1.yaml"))
    assert config.state_dir == tmp_path / "sites" / "state"
    assert config.data["skin_lesion"].path == tmp_path / "sites" / "images"


def test_absolute_paths_stay(write):
    text = MINIMAL.replace("state_dir: state", "state_dir: /var/lib/adpfl")
    assert load_site_config(None, write(text)).state_dir == Path("/var/lib/adpfl")


def test_a_site_is_found_in_sites_before_etc(write, tmp_path, monkeypatch):
    write(name="etc/hospital1.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(site_config, "SEARCHED_FOLDERS", (Path("sites"), tmp_path / "etc"))
    assert find_site_config("hospital1", None) == tmp_path / "etc" / "hospital1.yaml"
    write(name="sites/hospital1.yaml")
    assert find_site_config("hospital1", None) == Path("sites/hospital1.yaml")


@pytest.mark.parametrize(
    ("site", "file", "message"),
    [
        (None, None, "--site is missing"),
        ("nowhere", None, "there is no sites/nowhere.yaml or /etc/adpfl/sites/nowhere.yaml"),
        (None, Path("absent.yaml"), "--config is absent.yaml; there is no such file"),
    ],
)
def test_an_unfindable_file_is_said_in_one_line(tmp_path, monkeypatch, site, file, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        find_site_config(site, file)


def test_the_name_in_the_file_must_be_the_one_asked_for(write):
    with pytest.raises(ConfigError, match="site is hospital1; must be hospital2"):
        load_site_config("hospital2", write())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("state_dir: state", "statedir: state", "statedir is not a known key"),
        ("state_dir: state\n", "", "state_dir is missing"),
        (
            "{path: images}",
            "{path: images, held_out_fraction: 1.0}",
            "held_out_fraction is 1.0; must be less than 1",
        ),
        ("{skin_lesion: {path: images}}", "{}", "data"),
        ("site: hospital1", "site: Hospital One", "site is 'Hospital One'"),
        ("site: hospital1", "site: hospital1\nthreads: 0", "threads is 0"),
    ],
)
def test_a_wrong_key_stops_the_start(write, old, new, message):
    path = write(MINIMAL.replace(old, new))
    with pytest.raises(ConfigError, match=message) as raised:
        load_site_config(None, path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("proxy", ["http://proxy.example:3128", "http://[::1]:3128/", "direct"])
def test_a_proxy_is_an_address_or_none(write, proxy):
    assert load_site_config(None, write(f'{MINIMAL}proxy: "{proxy}"\n')).proxy == proxy


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ("proxy: https://proxy:3128", "proxy is 'https://proxy:3128'; must be http://host:port or direct"),
        ("proxy: proxy", "proxy is 'proxy'; must be"),
        (
            "proxy: http://user:hidden@proxy:3128",
            "must not hold a user or a password; put user:password into",
        ),
        ("proxy_credentials: file", "there is none"),
        ("proxy: direct\nproxy_credentials: file", "there is none"),
    ],
)
def test_an_unusable_proxy_stops_the_start_and_shows_no_password(write, keys, rule):
    with pytest.raises(ConfigError, match=rule) as raised:
        load_site_config(None, write(f"{MINIMAL}{keys}\n"))
    assert "hidden" not in str(raised.value)


def test_a_proxys_credentials_are_relative_to_the_file(write, tmp_path):
    keys = "proxy: http://proxy:3128\nproxy_credentials: proxy.secret\n"
    config = load_site_config(None, write(f"{MINIMAL}{keys}", name="sites/hospital1.yaml"))
    assert config.proxy_credentials == tmp_path / "sites" / "proxy.secret"


def test_data_of_another_task_is_said(write):
    with pytest.raises(ConfigError, match="data has no task kidney_tumor; this site has: skin_lesion"):
        load_site_config(None, write()).data_of("kidney_tumor")
