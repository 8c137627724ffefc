"""The last words give each arm's figures, and name what did not end well."""

import io
import json

import pytest
from rich.console import Console

from adpfl.experiment.comparison.ending import overhead, print_ending, worst_guarantee
from adpfl.experiment.comparison.folder import load_comparison
from adpfl.experiment.comparison.simulator import run_cell
from adpfl.experiment.comparison.workers import Outcome
from adpfl.experiment.report.words import at_most


@pytest.fixture
def comparison(tmp_path, comparison_of):
    folder, plan = comparison_of(tmp_path, rounds=1)
    for name in ("fl-seed0", "dp-fl-seed0"):
        run_cell(folder, plan, plan.cell(name))
    return load_comparison(tmp_path)


def ending(comparison, *outcomes, **console):
    output = io.StringIO()
    print_ending(comparison, outcomes, Console(file=output, width=120, **console))
    return output.getvalue()


def test_a_pipe_gets_one_object_with_both_epsilons(comparison):
    document = json.loads(ending(comparison))
    fl, dp_fl = document["results"]
    assert (fl["honest_epsilon"], fl["nominal_epsilon"]) == ("inf", None)
    assert dp_fl["honest_epsilon"] > 1000.0
    assert dp_fl["nominal_epsilon"] == 0.001
    assert len(dp_fl["dice"]) == 1
    assert document["unfinished"] == ["adp-fl-seed0"]
    assert document["coordination_share"] == pytest.approx(overhead(comparison), abs=1e-4)


def test_a_terminal_gets_a_table_that_says_what_the_images_are(comparison):
    text = ending(comparison, force_terminal=True, color_system=None)
    assert "shows no person" in " ".join(text.split())
    assert "DP-FL" in text
    assert "0.001" in text
    assert at_most(worst_guarantee(comparison.runs["dp-fl-seed0"]).epsilon) in text, "a bound is rounded up"


def test_what_did_not_end_is_named(comparison):
    text = ending(comparison, Outcome("adp-fl-seed0", "stopped", "image x cannot be read"))
    assert "adp-fl-seed0 did not end: image x cannot be read" in text


def test_a_run_s_figure_is_its_worst_site_s(comparison):
    run = comparison.runs["dp-fl-seed0"]
    assert worst_guarantee(run).epsilon == max(site.guarantee.epsilon for site in run.record.sites)
