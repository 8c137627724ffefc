"""Arms differ in nothing but the privacy plan, and privacy plans in nothing but what the arm says."""

import pytest

from adpfl.errors import ConfigError
from adpfl.experiment.comparison.cells import plan_cells
from adpfl.privacy.plan import PaperPrivacy, RigorousPrivacy

SITES = ("site1", "site2", "site3")
ALL_ARMS = ["fl", "dp-fl", "adp-fl", "rigorous"]


@pytest.fixture
def cells(choices_of):
    curves = {
        "clip_norms": [0.1, 10.0],
        "percentiles": [10.0, 90.0],
        "nominal_epsilons": [0.001, 1.0],
        "target_epsilons": [1.0, 64.0],
    }
    return plan_cells(choices_of(arms=ALL_ARMS, seeds=3, curves=curves), SITES)


def test_within_a_seed_every_cell_of_every_group_differs_by_name_and_privacy_alone(cells):
    for seed in range(3):
        rest = {
            cell.plan.model_copy(update={"run": "same", "privacy": cells[0].plan.privacy}).digest()
            for cell in cells
            if cell.seed == seed
        }
        assert len(rest) == 1


def test_seeds_differ_by_seed_alone(cells):
    for arm in ALL_ARMS:
        plans = [cell.plan for cell in cells if cell.group == "arms" and cell.arm == arm]
        assert [plan.seed for plan in plans] == [0, 1, 2]
        assert len({plan.model_copy(update={"run": "same", "seed": 0}).digest() for plan in plans}) == 1


def test_all_arms_share_unit_sampling_and_delta(cells):
    shared = {(cell.plan.privacy.unit, cell.plan.privacy.sampling) for cell in cells}
    assert len(shared) == 1
    assert len({cell.plan.privacy.delta for cell in cells if cell.arm != "fl"}) == 1


def test_the_published_arms_differ_by_their_threshold_alone(cells):
    fixed, adaptive = (
        next(cell.plan.privacy for cell in cells if cell.cell == name)
        for name in ("dp-fl-seed0", "adp-fl-seed0")
    )
    assert isinstance(fixed, PaperPrivacy)
    assert isinstance(adaptive, PaperPrivacy)
    assert fixed.model_copy(update={"threshold": adaptive.threshold}) == adaptive
    assert (fixed.threshold.method, adaptive.threshold.method) == ("fixed", "percentile")


def test_a_curve_varies_what_it_says_and_nothing_else(cells):
    by_name = {cell.cell: cell.plan.privacy for cell in cells}
    arm = by_name["dp-fl-seed0"]
    point = by_name["dp-fl-noise-1-seed0"]
    assert isinstance(arm, PaperPrivacy)
    assert arm.model_copy(update={"nominal_epsilon": 1.0}) == point
    narrow = by_name["dp-fl-clip-norm-0p1-seed0"]
    assert isinstance(narrow, PaperPrivacy)
    assert narrow.model_copy(update={"threshold": arm.threshold}) == arm
    budget = by_name["rigorous-budget-64-seed0"]
    assert isinstance(budget, RigorousPrivacy)
    assert budget.target_epsilon == 64.0


def test_points_at_the_arms_own_value_are_not_run_twice(cells):
    assert "dp-fl-noise-0p001-seed0" not in {cell.cell for cell in cells}


def test_points_stand_where_no_arm_stands_in_for_them(choices_of):
    choices = choices_of(arms=["fl"], curves={"nominal_epsilons": [0.001]})
    assert {cell.cell for cell in plan_cells(choices, SITES)} == {
        "fl-seed0",
        "dp-fl-noise-0p001-seed0",
        "adp-fl-noise-0p001-seed0",
    }


def test_extreme_values_still_name_folders(choices_of):
    choices = choices_of(arms=["fl"], curves={"clip_norms": [1e-7, 1e12]})
    assert [cell.cell for cell in plan_cells(choices, SITES)[1:]] == [
        "dp-fl-clip-norm-1e-07-seed0",
        "dp-fl-clip-norm-1e12-seed0",
    ]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"image_size": [8, 32]}, r"options: image_size.0 is 8; must be greater than or equal to 16"),
        ({"image_size": [32]}, r"options: image_size is \(32,\); must have at least 2 items"),
        ({"spacing_mm": [1.0, 1.0, 1.0]}, r"options: spacing_mm is \[1.0, 1.0, 1.0\]; must be absent where"),
        ({"rounds": 100_001}, r"options: rounds is 100001; must be less than or equal to 100000"),
        ({"steps": 100_001}, r"options: steps is 100001; must be less than"),
        ({"curves": {"clip_norms": [0.5, 0.5]}}, r"options: clip_norm 0.5 stands twice"),
        ({"curves": {"clip_norms": [0.5, 0.5000000001]}}, r"options: clip_norm 0.5 stands twice"),
    ],
)
def test_what_no_plan_allows_is_one_line_with_key_value_and_rule(choices_of, choices, message):
    with pytest.raises(ConfigError, match=message) as refused:
        plan_cells(choices_of(**choices), SITES)
    assert "\n" not in str(refused.value)
