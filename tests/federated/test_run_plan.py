"""The plan's canonical JSON: what a site approves, and what an older plan keeps."""

import json

import pytest

from adpfl.federated.run_plan import RunPlan

FIRST_PLAN = {
    "aggregation": {"strategy": "fedavg", "weights": "uniform"},
    "cohort": {"quorum": 1, "round_deadline_seconds": 60.0, "sites": ["a"]},
    "image_size": [64, 64],
    "local": {
        "augment": True,
        "fedprox_mu": 0.0,
        "learning_rate": 0.1,
        "momentum": 0.0,
        "records_per_unit": 1,
        "steps": 3,
        "weight_decay": 0.0,
    },
    "network": {"architecture": "unet", "size": "tiny"},
    "privacy": {
        "clip_norm": None,
        "mechanism": None,
        "mode": "none",
        "noise_multiplier": None,
        "sampling": {"mode": "full", "probability": 1.0},
        "unit": "patient",
    },
    "rounds": 2,
    "run": "first",
    "seed": 0,
    "task": "skin_lesion",
}
"""A plan as the first version wrote it, every key."""


def test_a_plan_older_than_a_key_keeps_its_canonical_json():
    plan = RunPlan.model_validate(FIRST_PLAN)
    written = json.dumps(FIRST_PLAN, sort_keys=True, separators=(",", ":")).encode()
    assert plan.canonical_json() == written


@pytest.mark.parametrize("change", [{"local": {"augmentations_per_record": 4}}])
def test_a_later_key_that_is_set_is_in_the_canonical_json(change):
    document = FIRST_PLAN | {name: FIRST_PLAN[name] | keys for name, keys in change.items()}
    plan = RunPlan.model_validate(document)
    assert json.loads(plan.canonical_json()) == document
    assert RunPlan.model_validate_json(plan.canonical_json()) == plan
