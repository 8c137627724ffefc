"""Progress is read from the records as they appear."""

import io

import pytest
from rich.console import Console

from adpfl.errors import StateError
from adpfl.experiment.demo.folder import DemoFolder
from adpfl.experiment.demo.progress import Standing, display, read_standing
from adpfl.experiment.report.record import write_record


@pytest.fixture
def plan(plan_of):
    return plan_of("adp-fl")


@pytest.fixture
def folder(tmp_path, plan, server_of, site_of):
    folder = DemoFolder(tmp_path)
    server = folder.server_state / "runs" / plan.run
    server.mkdir(parents=True)
    record = server_of(plan, missing={2: ("hospital2",)})
    write_record(server / "run.json", record.model_copy(update={"rounds": record.rounds[:2]}))
    site = folder.site_state("hospital1") / "runs" / plan.run
    site.mkdir(parents=True)
    full = site_of(plan, "hospital1")
    write_record(
        site / "site.json",
        full.model_copy(update={"evaluations": full.evaluations[:2], "steps": full.steps[:12]}),
    )
    return folder


def test_nothing_yet(tmp_path, plan):
    standing = read_standing(DemoFolder(tmp_path), plan)
    assert (standing.rounds, standing.dice, standing.steps) == (0, {}, {})


def test_what_the_records_say(folder, plan):
    standing = read_standing(folder, plan)
    assert (standing.rounds, standing.shares) == (2, (3, 2))
    assert standing.steps == {"hospital1": 12}
    assert standing.dice["hospital1"][0] == 1


def test_a_broken_record_is_not_hidden(folder, plan):
    (folder.server_state / "runs" / plan.run / "run.json").write_text("{")
    with pytest.raises(StateError, match="is not a JSON document"):
        read_standing(folder, plan)


def test_lines_where_there_is_no_terminal(folder, plan):
    output = io.StringIO()
    with display(Console(file=output, width=200), plan) as shown:
        standing = read_standing(folder, plan)
        shown.show(standing)
        shown.show(standing)
    lines = output.getvalue().splitlines()
    assert [line.split(";")[0] for line in lines] == [
        "round 1 of 10: 3 of 3 sites",
        "round 2 of 10: 2 of 3 sites",
    ]
    assert "Dice" not in lines[0], "scores are told once"
    assert "; Dice after round 1: hospital1 0." in lines[1]


def test_scores_stand_under_their_own_round_and_the_last_ones_end_it(plan):
    output = io.StringIO()
    dice = {"hospital1": (1, 0.5), "hospital2": (2, 0.6), "hospital3": (0, 0.1)}
    with display(Console(file=output, width=200), plan) as shown:
        shown.show(Standing(rounds=2, shares=(3, 3), dice=dice, steps={}))
        shown.conclude(Standing(rounds=2, shares=(3, 3), dice=dict.fromkeys(dice, (2, 0.6)), steps={}))
    assert (
        "; Dice after round 2: hospital2 0.600; Dice after round 1: hospital1 0.500; "
        "Dice before training: hospital3 0.100\n"
    ) in output.getvalue()
    assert output.getvalue().endswith(
        "training ended; Dice after round 2: hospital1 0.600, hospital2 0.600, hospital3 0.600; "
        "mean of sites 0.600\n"
    )


def test_bars_on_a_terminal(folder, plan):
    output = io.StringIO()
    with display(Console(file=output, width=120, force_terminal=True), plan) as shown:
        shown.show(read_standing(folder, plan))
    for part in ("rounds", "2/10", "12/60", "hospital3", "after round 1"):
        assert part in output.getvalue()
