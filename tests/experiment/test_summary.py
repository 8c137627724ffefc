"""The closing table never shows a nominal epsilon without the honest one and its terms."""

import io

from rich.console import Console

from adpfl.experiment.report.record import join
from adpfl.experiment.summary import print_summary


def test_the_table_carries_figures_and_terms(plan_of, server_of, site_of):
    plan = plan_of("adp-fl")
    record = join(server_of(plan), tuple(site_of(plan, name) for name in plan.cohort.sites))
    output = io.StringIO()
    print_summary(record, Console(file=output, width=120))
    text = output.getvalue()
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
    ):
        assert part in text
    assert "No finite privacy guarantee" in text
