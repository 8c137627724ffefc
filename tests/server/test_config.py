"""The server's configuration: what it promises, and one clear line for each mistake."""

import pytest
import yaml

from adpfl.errors import ConfigError
from adpfl_server.config import load_server_config
from adpfl_server.operating.starter import write_starter


@pytest.fixture
def write(tmp_path, consortium):
    def write(**changes):
        document = {
            "state_dir": "state",
            "listen": "127.0.0.1:7400",
            "enroll_listen": "127.0.0.1:7401",
            "public_address": "fl.example.org:7400",
            "public_enroll_address": "fl.example.org:7401",
            "runs": [consortium.plan()],
        } | changes
        path = tmp_path / "server.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
        return path

    return write


def test_paths_are_relative_to_the_file(write, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    config = load_server_config(write())
    assert config.state_dir == tmp_path / "state"
    assert config.initial_model_path("demo") == tmp_path / "state" / "initial" / "demo.safetensors"
    assert config.public_hosts() == ("fl.example.org",)


def test_the_plan_is_the_entry_without_its_local_part(write, tmp_path, consortium):
    (tmp_path / "w.safetensors").write_bytes(b"")
    config = load_server_config(write(runs=[consortium.plan() | {"initial_model": "w.safetensors"}]))
    assert config.initial_model_path("demo") == tmp_path / "w.safetensors"
    assert b"initial_model" not in config.entry("demo").plan.canonical_json()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state_dir": None}, "state_dir is missing"),
        ({"colour": "red"}, "colour is not a known key"),
        ({"listen": "7400"}, "listen is '7400'; must be host:port"),
        ({"listen": "127.0.0.1:70000"}, "its port must be 0 to 65535"),
        ({"public_address": "fl.example.org:0"}, "its port must be 1 to 65535"),
        ({"public_address": "https://fl.example.org:1"}, "public_address is"),
        ({"enroll_listen": "127.0.0.1:7400"}, "listen and enroll_listen are both 127.0.0.1:7400"),
        ({"site_silence_seconds": 0}, "site_silence_seconds is 0"),
    ],
)
def test_mistakes_are_named(write, changes, words):
    with pytest.raises(ConfigError) as error:
        load_server_config(write(**changes))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rounds": 0}, "runs.0.rounds is 0"),
        ({"epochs": 3}, "runs.0.epochs is not a known key"),
        ({"initial_model": "none.safetensors"}, "runs.0.initial_model is"),
        ({"cohort": {"sites": ["a"], "quorum": 2}}, "quorum is 2"),
    ],
)
def test_mistakes_in_a_run_are_named(write, consortium, changes, words):
    with pytest.raises(ConfigError) as error:
        load_server_config(write(runs=[consortium.plan() | changes]))
    assert words in str(error.value)


def test_a_run_stands_once(write, consortium):
    with pytest.raises(ConfigError, match="runs names demo twice"):
        load_server_config(write(runs=[consortium.plan(), consortium.plan()]))


def test_an_unknown_run_is_answered_with_the_known_ones(write):
    with pytest.raises(ConfigError, match="has no run other; the configuration names: demo"):
        load_server_config(write()).entry("other")


@pytest.mark.parametrize("host", ["fl.example.org", "192.0.2.7", "2001:db8::7"])
def test_the_starter_is_valid_and_names_the_host(tmp_path, host):
    path = tmp_path / "fresh.yaml"
    write_starter(path, host)
    assert load_server_config(path).public_hosts() == (host,)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_starter(path, host)


def test_the_starters_example_run_is_valid(tmp_path):
    path = tmp_path / "fresh.yaml"
    write_starter(path, "fl.example.org")
    head, example = path.read_text().split("runs: []\n")
    lines = [line.removeprefix("#") for line in example.splitlines()]  # as the README says, and no more
    path.write_text(head + "runs:\n" + "\n".join(lines) + "\n")
    (entry,) = load_server_config(path).runs
    assert entry.run == "lesions-1"
