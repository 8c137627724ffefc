"""Recipes change what they name and nothing of the privacy plan."""

import pytest

from adpfl.experiment.comparison.cells import plan_cells
from adpfl.experiment.comparison.recipes import RECIPES
from adpfl.privacy.plan import RigorousPrivacy, UnsafeNonePrivacy

SITES = ("site1", "site2")
WARM = {"model_digest": "ab" * 32, "trained_on": "generated", "words": "600 steps"}


@pytest.fixture
def cells(choices_of):
    return plan_cells(choices_of(arms=["fl"], seeds=2, utility={"warm_start": WARM}), SITES)


def plan_of(cells, key, seed=0):
    (cell,) = (one for one in cells if (one.arm, one.seed, one.group) == (key, seed, "utility"))
    return cell.plan


def test_every_recipe_is_a_cell_at_every_seed(cells):
    found = [(cell.arm, cell.label, cell.seed) for cell in cells if cell.group == "utility"]
    assert found == [(recipe.key, recipe.label, seed) for seed in (0, 1) for recipe in RECIPES]
    assert [cell.cell for cell in cells if cell.group == "arms"] == ["fl-seed0", "fl-seed1"]


def test_all_rigorous_recipes_have_one_privacy_plan(cells):
    plans = {recipe.key: plan_of(cells, recipe.key).privacy for recipe in RECIPES}
    private = [privacy for key, privacy in plans.items() if key != "fl-warm"]
    assert all(privacy == private[0] for privacy in private)
    assert isinstance(private[0], RigorousPrivacy)
    assert private[0].target_epsilon == 8.0
    assert private[0].total_steps == 4
    assert isinstance(plans["fl-warm"], UnsafeNonePrivacy)


def test_a_recipe_differs_from_the_plain_run_by_what_it_names(cells):
    plain = plan_of(cells, "rigorous").model_dump()
    steady = {
        "local": {"augmentations_per_record": 2},
        "aggregation": {"averaging": {"method": "ema", "decay": 0.8}},
    }
    warm = steady | {"warm_start": WARM, "local": steady["local"] | {"learning_rate": 0.0125}}
    part = steady | {"warm_start": WARM} | {"network": {"trainable": ("head", "norms")}}
    for key, changes in {"rigorous-steady": steady, "rigorous-warm": warm, "rigorous-part": part}.items():
        expected = plain | {"run": f"utility-{key}-seed0"}
        for name, change in changes.items():
            expected[name] = expected[name] | change if isinstance(expected[name], dict) else change
        assert plan_of(cells, key).model_dump() == expected, key


def test_without_an_initial_model_nothing_starts_warm(choices_of):
    cells = plan_cells(choices_of(arms=["fl"], utility={"warm_start": None}), SITES)
    assert {cell.arm for cell in cells} == {"fl", "rigorous", "rigorous-steady"}
    assert all(cell.plan.warm_start is None for cell in cells)
    assert not [cell for cell in plan_cells(choices_of(arms=["fl"]), SITES) if cell.group == "utility"]


def test_another_initial_model_is_another_comparison(choices_of):
    one, other = (
        choices_of(arms=["fl"], utility={"warm_start": WARM | {"model_digest": digest * 32}}).options()
        for digest in ("ab", "cd")
    )
    assert {name for name in one if one[name] != other[name]} == {"utility.warm_start"}
