"""The closing table never shows a nominal epsilon without the honest one and its terms."""

import io

from rich.console import Console

from adpfl.experiment.report.record import DataNote, join
from adpfl.experiment.summary import print_next_steps, print_summary


def test_the_table_carries_figures_and_terms(plan_of, server_of, site_of):
    plan = plan_of("adp-fl")
    sites = tuple(site_of(plan, name) for name in plan.cohort.sites)
    record = join(server_of(plan), sites, DataNote(synthetic=True, patients_are="images"))
    output = io.StringIO()
    print_summary(record, Console(file=output, width=120))
    text = " ".join(output.getvalue().split())
    for part in (
        "hospital1",
        "honest ε",
        "∞",
        "10⁷",
        "0.001",
        "not a guarantee",
        "zero-out",
        "Poisson",
        "10⁻⁵",
        "mean of sites",
        "say nothing clinical",
        "every image counts as its own patient",
    ):
        assert part in text
    assert "No finite privacy guarantee" in text


def test_a_rigorous_run_has_no_nominal_column(plan_of, server_of, site_of):
    plan = plan_of("rigorous")
    record = join(server_of(plan), tuple(site_of(plan, name) for name in plan.cohort.sites))
    output = io.StringIO()
    print_summary(record, Console(file=output, width=80))
    text = " ".join(output.getvalue().split())
    for part in ("honest ε", "target ε", "A finite guarantee: ε at most 8 at every site", "noisy bits"):
        assert part in text
    for part in ("nominal", "if fixed", "not a guarantee", "∞"):
        assert part not in text


def test_the_next_commands_keep_their_line_on_a_narrow_terminal(plan_of, server_of):
    output = io.StringIO()
    print_next_steps(join(server_of(plan_of("adp-fl")), ()), Console(file=output, width=40))
    lines = [line.strip() for line in output.getvalue().splitlines()]
    assert "adpfl demo --arm dp-fl --output demo-dp-fl" in lines
    assert "adpfl-client enroll hospital1.bundle.json --site hospital1" in lines


def test_figures_stay_whole_on_a_terminal_of_eighty_columns(plan_of, server_of, site_of):
    for arm in ("dp-fl", "adp-fl"):
        plan = plan_of(arm)
        record = join(server_of(plan), tuple(site_of(plan, name) for name in plan.cohort.sites))
        output = io.StringIO()
        print_summary(record, Console(file=output, width=80))
        assert output.getvalue().count("3.7 × 10⁷") == 3  # noqa: RUF001 - a multiplication sign
        assert output.getvalue().count("0.001") == 3
        assert "…" not in output.getvalue()
