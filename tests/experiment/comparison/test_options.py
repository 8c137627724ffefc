"""What is not said follows the task; what is said is taken, or refused by its name."""

import pytest

from adpfl.errors import ConfigError
from adpfl.experiment.comparison.options import (
    PartitionOption,
    SharedOptions,
    numbers,
)
from adpfl.experiment.comparison.task_settings import settings_of

REST = {"arms": ["fl"], "seeds": 1}


@pytest.mark.parametrize("task", ["skin_lesion", "kidney_tumor", "brain_tumor"])
def test_every_task_has_defaults(task):
    choices, settings = SharedOptions(task=task).choices(**REST), settings_of(task)
    assert choices.image_size == settings.image_size
    assert choices.spacing_mm == settings.spacing_mm
    assert (choices.rounds, choices.steps) == (settings.rounds, settings.steps)
    assert (choices.clip_norm, choices.percentile) == (settings.clip_norm, settings.percentile)
    assert choices.sites == 4


def test_what_is_given_is_taken():
    options = SharedOptions(image_size="32, 64", spacing_mm="1.5,2", rounds=7, clip_norm=0.25, sites=3)
    choices = options.choices(**REST)
    assert (choices.image_size, choices.spacing_mm) == ((32, 64), (1.5, 2.0))
    assert (choices.rounds, choices.clip_norm, choices.sites) == (7, 0.25, 3)


def test_sites_follow_the_sources_where_the_deal_is_by_source(tmp_path):
    options = SharedOptions(data=tmp_path, partition=PartitionOption.SOURCE)
    assert options.choices(**REST).sites is None


def test_workers_and_backend_decide_nothing():
    slow, fast = SharedOptions(workers=1), SharedOptions(workers=8)
    assert slow.choices(**REST) == fast.choices(**REST)


def test_every_choice_is_kept_as_text():
    text = SharedOptions().choices(**REST, curves={"clip_norms": [0.1, 10.0]}).options()
    assert text["curves.clip_norms"] == "0.1,10"
    assert text["partition.method"] == "equal"
    assert (text["data"], text["delta"]) == ("none", "1e-05")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SharedOptions(task="teeth"), "--task is 'teeth'"),
        (SharedOptions(rounds=0), "rounds is 0"),
        (SharedOptions(image_size="64"), "--image-size is '64'; must be 2 numbers for task skin_lesion"),
        (SharedOptions(image_size=""), "--image-size is ''; must be 2 numbers"),
        (SharedOptions(task="brain_tumor", image_size="64,64"), "must be 3 numbers for task brain_tumor"),
        (SharedOptions(concentration=-1.0), "partition.concentration is -1.0"),
        (SharedOptions(held_out_fraction=1.0), "held_out_fraction is 1.0"),
    ],
)
def test_what_breaks_a_rule_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        options.choices(**REST)


def test_numbers_are_read_or_named():
    assert numbers("--x", "1, 2,3", int) == [1, 2, 3]
    assert numbers("--x", "", float) == []
    with pytest.raises(ConfigError, match="--x is '1;2'"):
        numbers("--x", "1;2", float)
