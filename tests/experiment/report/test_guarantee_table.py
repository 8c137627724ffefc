"""Columns stand where there is a figure for them, and a bound is never rounded down."""

import pytest

from adpfl.experiment.report.guarantee_table import columns_of, guarantee_rows, privacy_columns
from adpfl.experiment.report.results import site_results


@pytest.fixture
def results_of(plan_of, server_of, site_of):
    def make(arm, **changes):
        plan = plan_of(arm)
        site = site_of(plan, "hospital1")
        site = site.model_copy(update={"guarantee": site.guarantee.model_copy(update=changes)})
        return site_results(server_of(plan), [site])

    return make


@pytest.mark.parametrize(
    ("arm", "nominal", "target"),
    [("fl", False, False), ("dp-fl", True, False), ("adp-fl", True, False), ("rigorous", False, True)],
)
def test_columns_of_the_arms(results_of, arm, nominal, target):
    columns = privacy_columns(results_of(arm))
    assert (columns.nominal, columns.target) == (nominal, target)
    assert ("Three figures" in columns.caption) is nominal


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ("fl", "None of them is a guarantee: an infinite honest ε bounds nothing."),
        ("adp-fl", "None of them is a guarantee: an infinite honest ε bounds nothing."),
        ("dp-fl", "Only the honest ε is a bound."),
        ("rigorous", "and what the noise was calibrated to."),
    ],
)
def test_no_caption_calls_an_infinite_epsilon_a_guarantee(results_of, arm, told):
    assert privacy_columns(results_of(arm)).caption.endswith(told)


def test_the_caption_of_unlike_rows_says_which_of_them_bound_nothing(results_of):
    rows = [result.record.guarantee for arm in ("dp-fl", "adp-fl") for result in results_of(arm)]
    assert (
        columns_of(rows).which_counts == "Only the honest ε is a bound, and an infinite one bounds nothing."
    )


def test_a_rigorous_row(results_of):
    (row,) = guarantee_rows(results_of("rigorous"))
    assert (row.honest, row.target, row.delta, row.steps) == ("8", "8", "10⁻⁵", "60")


def test_an_honest_epsilon_is_rounded_up(results_of):
    (row,) = guarantee_rows(results_of("rigorous", epsilon=8.001))
    assert row.honest == "8.01"
