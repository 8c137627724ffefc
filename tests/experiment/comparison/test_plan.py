"""A comparison's plan holds only cells that belong together, and knows its curves."""

import pytest
from pydantic import ValidationError

from adpfl.experiment.comparison.cells import plan_cells
from adpfl.experiment.comparison.plan import CellPlan, ComparisonPlan, DataDescription

SITES = ("site1", "site2")


def plan_of(cells: tuple[CellPlan, ...], *, sites: tuple[str, ...] = SITES) -> ComparisonPlan:
    data = DataDescription(
        words="generated",
        synthetic=True,
        patients_are="patients",
        partition="by profile",
        training_patients=dict.fromkeys(sites, 6),
        held_out_patients=dict.fromkeys(sites, 2),
        held_out_fraction=0.25,
        split_seed=0,
    )
    return ComparisonPlan(task="skin_lesion", command="adpfl compare", options={}, data=data, cells=cells)


def test_a_cell_is_named_as_its_run_and_has_its_seed(choices_of):
    cell = plan_cells(choices_of(), SITES)[0]
    for change in ({"cell": "other"}, {"seed": 7}):
        with pytest.raises(ValidationError, match="must agree"):
            CellPlan.model_validate(cell.model_dump() | change)


def test_a_cell_stands_once(choices_of):
    cells = plan_cells(choices_of(), SITES)
    with pytest.raises(ValidationError, match="fl-seed0 stands twice"):
        plan_of((*cells, cells[0]))


def test_every_cell_is_of_the_data_s_sites(choices_of):
    with pytest.raises(ValidationError, match="other sites"):
        plan_of(plan_cells(choices_of(), SITES), sites=("site1", "site2", "site3"))


def test_a_curve_has_the_arms_own_cells_at_their_own_value(choices_of):
    choices = choices_of(seeds=2, curves={"clip_norms": [0.1, 1.0, 10.0]})
    plan = plan_of(plan_cells(choices, SITES))
    points = plan.curve("clip_norm", "dp-fl")
    assert [(point.value, point.cell.cell) for point in points] == [
        (0.1, "dp-fl-clip-norm-0p1-seed0"),
        (1.0, "dp-fl-seed0"),
        (1.0, "dp-fl-seed1"),
        (10.0, "dp-fl-clip-norm-10-seed0"),
    ]


def test_an_axis_that_nobody_varied_has_no_curve(choices_of):
    plan = plan_of(plan_cells(choices_of(), SITES))
    assert plan.curve("percentile", "adp-fl") == ()


def test_a_plan_reads_back_as_it_was_written(choices_of):
    plan = plan_of(plan_cells(choices_of(curves={"target_epsilons": [1.0]}), SITES))
    assert ComparisonPlan.model_validate_json(plan.model_dump_json()) == plan
