"""The plan's document: its digest outlives new keys, and a grid that cannot be is refused."""

import json

import pytest

from adpfl.config import parse
from adpfl.data.grid import Grid
from adpfl.errors import ConfigError
from adpfl.federated.run_plan import RunPlan

DOCUMENT = {
    "run": "old",
    "task": "skin_lesion",
    "image_size": [128, 128],
    "rounds": 1,
    "local": {"steps": 1, "learning_rate": 0.1},
    "cohort": {"sites": ["a"], "quorum": 1},
    "privacy": {"mode": "none", "sampling": {"mode": "full"}},
}


def plan_of(**keys: object) -> RunPlan:
    return parse(DOCUMENT | keys, RunPlan, source="plan")


def test_a_plan_without_spacing_says_nothing_of_it() -> None:
    """Sites compare digests: a plan written before the key existed must keep the one that was approved."""
    assert "spacing_mm" not in json.loads(plan_of().canonical_json())
    assert plan_of(spacing_mm=None).digest() == plan_of().digest()


def test_a_spacing_is_part_of_what_a_site_approves() -> None:
    fine = plan_of(image_size=[64, 64, 64], spacing_mm=[1.5, 1, 1])
    coarse = plan_of(image_size=[64, 64, 64], spacing_mm=[3, 3, 3])
    assert fine.grid == Grid((64, 64, 64), (1.5, 1.0, 1.0))
    assert fine.digest() != coarse.digest()
    again = parse(json.loads(fine.canonical_json()), RunPlan, source="plan")
    assert again.digest() == fine.digest()


@pytest.mark.parametrize(
    ("size", "spacing", "said"),
    [
        ([64, 64], [1.0, 1.0, 1.0], "spacing_mm is .1.0, 1.0, 1.0.; must be absent where image_size has 2"),
        ([64, 64], [1.0, 1.0], "spacing_mm"),
        ([64, 64, 64], [1.0, 1.0], "spacing_mm"),
        ([64, 64, 64], [1.0, 1.0, 0.0], "spacing_mm.2 is 0.0"),
        ([64, 64, 64], 2.0, "spacing_mm is 2.0; must be a list"),
    ],
)
def test_a_spacing_that_cannot_be_is_refused(size: list[int], spacing: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_of(image_size=size, spacing_mm=spacing)


FIRST_CANONICAL_JSON = (
    b'{"aggregation":{"strategy":"fedavg","weights":"uniform"},'
    b'"cohort":{"quorum":1,"round_deadline_seconds":3600.0,"sites":["a"]},"image_size":[128,128],'
    b'"local":{"augment":true,"fedprox_mu":0.0,"learning_rate":0.1,"momentum":0.0,"records_per_unit":1,'
    b'"steps":1,"weight_decay":0.0},"network":{"architecture":"unet","size":"tiny"},'
    b'"privacy":{"clip_norm":null,"mechanism":null,"mode":"none","noise_multiplier":null,'
    b'"sampling":{"mode":"full","probability":1.0},"unit":"patient"},'
    b'"rounds":1,"run":"old","seed":0,"task":"skin_lesion"}'
)
"""`DOCUMENT` as the first version of the software wrote it."""


def test_a_plan_older_than_every_later_key_keeps_its_canonical_json() -> None:
    assert plan_of().canonical_json() == FIRST_CANONICAL_JSON


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("local", "augmentations_per_record", 4),
        ("aggregation", "averaging", {"method": "ema", "decay": 0.5}),
        ("aggregation", "max_update_norm", 12.5),
        ("network", "trainable", ["head", "*.adn.N.*"]),
    ],
)
def test_a_later_key_that_is_set_is_part_of_the_plan(section: str, key: str, value: object) -> None:
    first = json.loads(FIRST_CANONICAL_JSON)
    plan = plan_of(**{section: first[section] | {key: value}})
    assert json.loads(plan.canonical_json())[section][key] == value
    assert plan.digest() != plan_of().digest()
    again = parse(json.loads(plan.canonical_json()), RunPlan, source="plan")
    assert again.digest() == plan.digest()
