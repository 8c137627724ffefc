"""What a plan has beyond plain training, in words."""

import pytest

from adpfl.experiment.report.training_words import beyond_plain_training, beyond_sentence
from adpfl.federated.run_plan import RunPlan

START = {"model_digest": "ab" * 32, "trained_on": "stated_public", "words": "9 steps on 3 images"}


@pytest.fixture
def changed(plan_of):
    def change(**keys):
        document = plan_of("adp-fl").model_dump()
        for name, value in keys.items():
            document[name] = document[name] | value if isinstance(document[name], dict) else value
        return RunPlan.model_validate(document)

    return change


def test_plain_training_needs_no_words(changed):
    assert beyond_plain_training(changed()) == ()
    assert beyond_sentence(changed()) == ""


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (
            {"warm_start": START},
            (
                "it starts from weights trained without protection on images that somebody stated to be "
                "public (9 steps on 3 images)"
            ),
        ),
        ({"network": {"trainable": ("head", "norms")}}, "it trains head and norms alone"),
        (
            {"local": {"augmentations_per_record": 4}},
            "the gradients of four views of each image are averaged before the clip",
        ),
        (
            {"aggregation": {"averaging": {"method": "ema", "decay": 0.8}}},
            "it publishes the exponential average of its models, decay 0.8",
        ),
        (
            {"aggregation": {"averaging": {"method": "tail", "rounds": 3}}},
            "it publishes the mean of its last three models",
        ),
    ],
)
def test_each_thing_is_told(changed, keys, told):
    assert beyond_plain_training(changed(**keys)) == (told,)


def test_all_of_it_is_one_sentence(changed):
    plan = changed(warm_start=START, network={"trainable": ("head",)})
    sentence = beyond_sentence(plan)
    assert sentence.startswith("It starts from weights")
    assert sentence.endswith("; it trains head alone.")
