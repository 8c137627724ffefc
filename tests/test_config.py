"""A configuration that breaks a rule stops the start with one line that names key, value and rule."""

import time
from pathlib import Path

import pytest

from adpfl.config import load_json, load_yaml
from adpfl.errors import ConfigError
from adpfl.federated.run_plan import RunPlan

GOOD = """
run: skin-2026
task: skin_lesion
image_size: [128, 128]
rounds: 10
local: {steps: 6, learning_rate: 0.1}
cohort: {sites: [hospital1, hospital2], quorum: 2}
privacy:
  mode: paper
  reading: multiplier
  threshold: {method: percentile, percentile: 50}
  sampling: {mode: poisson, probability: 0.2}
"""


def load(tmp_path: Path, text: str) -> RunPlan:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return load_yaml(path, RunPlan)


def message(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(tmp_path / "run.yaml"))
    assert caught.value.exit_code == 2
    return line


def test_a_good_file_loads(tmp_path):
    plan = load(tmp_path, GOOD)
    assert plan.arm == "adp-fl"
    assert plan.image_size == (128, 128)


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("rounds: 10", "rounds: 0", ["rounds is 0", "greater than or equal to 1"]),
        ("rounds: 10", "rounds: ten", ["rounds is 'ten'", "must be an integer"]),
        ("rounds: 10", 'rounds: "10"', ["rounds is '10'", "must be an integer"]),
        ("rounds: 10", "rounds: true", ["rounds is True", "must be an integer"]),
        ("image_size: [128, 128]", "image_size: 128", ["image_size is 128", "must be a list"]),
        ("local: {steps: 6, learning_rate: 0.1}", "local: 6", ["local is 6", "must be a mapping"]),
        ("rounds: 10", "ronds: 10", ["ronds is not a known key", "rounds is missing"]),
        ("learning_rate: 0.1", "learning_rate: .nan", ["local.learning_rate is nan", "finite"]),
        ("learning_rate: 0.1", "learning_rate: -0.1", ["local.learning_rate is -0.1", "greater than 0"]),
        ("quorum: 2", "quorum: 3", ["cohort: quorum is 3", "at most the number of sites, 2"]),
        ("[hospital1, hospital2]", "[hospital1, hospital1]", ["cohort", "names a site twice"]),
        ("[hospital1, hospital2]", "[../etc, hospital2]", ["cohort.sites.0 is '../etc'", "pattern"]),
        (
            "percentile: 50}",
            "percentile: 101}",
            ["privacy.threshold.percentile is 101", "less than or equal to 100"],
        ),
        ("  reading: multiplier\n", "", ["privacy.reading is missing"]),
        ("reading: multiplier", "reading: both", ["privacy.reading is 'both'", "'multiplier'"]),
        (
            "mode: poisson, probability: 0.2",
            "mode: full, probability: 0.2",
            ["privacy.sampling", "probability is 0.2"],
        ),
        ("mode: paper", "mode: secret", ["privacy.mode is 'secret'", "must be one of 'none', 'paper'"]),
    ],
)
def test_each_mistake_is_named(tmp_path, old, new, parts):
    assert old in GOOD
    line = message(tmp_path, GOOD.replace(old, new))
    for part in parts:
        assert part in line


def test_numbers_may_be_written_as_yaml_1_2_does(tmp_path):
    assert (
        load(tmp_path, GOOD.replace("learning_rate: 0.1", "learning_rate: 1e-3")).local.learning_rate == 1e-3
    )


def test_a_missing_mode_is_named(tmp_path):
    assert "privacy.mode is missing" in message(tmp_path, GOOD.replace("  mode: paper\n", ""))


def test_a_key_written_twice_is_refused(tmp_path):
    assert "'rounds' stands twice" in message(tmp_path, GOOD + "rounds: 11\n")


def test_a_broken_document_names_its_line(tmp_path):
    assert "line 2" in message(tmp_path, "run: [a\n")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text"])
def test_a_document_that_is_no_mapping_is_refused(tmp_path, text):
    assert "must be a mapping" in message(tmp_path, text)


def test_python_objects_are_not_built(tmp_path):
    assert "could not determine a constructor" in message(
        tmp_path, "run: !!python/object/apply:os.getcwd []\n"
    )


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read: No such file"):
        load_yaml(tmp_path / "absent.yaml", RunPlan)


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"run: \xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_yaml(path, RunPlan)


BOMB = "\n".join(
    f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9) if level else 1}]" for level in range(12)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "its aliases (*) unfold"),
        ("&a {run: *a}", "recursive"),
        ("run: " + "[" * 20_000, "nested too deeply"),
        ("- " * 5_000, "nested too deeply"),
        ("run: " + "9" * 5_000, "cannot be read"),
        ("run: 2026-99-99", "cannot be read"),
        ("run: !!bool maybe", "cannot be read"),
        ("run: !!timestamp soon", "cannot be read"),
        ("run: !!int ''", "cannot be read"),
    ],
)
def test_a_document_that_was_made_to_harm_is_one_line(tmp_path, text, words):
    started = time.monotonic()
    assert words in message(tmp_path, text)
    assert time.monotonic() - started < 10


def test_an_alias_that_saves_writing_is_fine(tmp_path):
    text = GOOD.replace("learning_rate: 0.1", "learning_rate: &rate 0.1")
    assert load(tmp_path, text).local.learning_rate == 0.1


def test_of_many_mistakes_some_are_told(tmp_path):
    line = message(tmp_path, "".join(f"{'k' * 500}{number}: 1\n" for number in range(1000)))
    assert len(line) < 5_000
    assert "more" in line


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", b"\xff", "9" * 5_000])
def test_json_that_cannot_be_read_is_a_value_error(text):
    with pytest.raises(ValueError):
        load_json(text)
