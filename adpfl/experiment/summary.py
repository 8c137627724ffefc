"""The table that ends a demonstration: Dice, privacy figures with their terms, thresholds."""

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from adpfl.experiment.report.privacy_words import explanation, facts
from adpfl.experiment.report.record import JoinedRecord
from adpfl.experiment.report.results import SiteResult, clip_norm_range, site_results
from adpfl.experiment.report.view import fixed, guarantee_rows
from adpfl.experiment.report.words import number
from adpfl.privacy.guarantee import IF_FIXED_MEANING


def print_summary(record: JoinedRecord, console: Console) -> None:
    """Print the table and the terms that must stand beside its figures."""
    console.print(summary(record))


def summary(record: JoinedRecord) -> Group:
    """The table, the meaning of its figures and their terms."""
    results = site_results(record.server, record.sites)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("site", no_wrap=True)
    table.add_column("Dice", justify="right", no_wrap=True)
    for heading in ("threshold C", "honest ε", "ε if fixed*", "nominal ε"):
        table.add_column(heading, justify="right")
    for result, row in zip(results, guarantee_rows(results), strict=True):
        table.add_row(result.site, _dice(result), _thresholds(result), row.honest, row.if_fixed, row.nominal)
    terms = Table.grid(padding=(0, 2))
    for fact in facts([(result.site, result.record.guarantee) for result in results]):
        terms.add_row(Text(fact.term, style="dim"), Text(fact.value))
    meaning = Text(f"{explanation(record.server.plan, record.sites).heading}.", style="bold")
    return Group(table, meaning, Text(f"* {IF_FIXED_MEANING}", style="dim"), Text(), terms, Text())


def _dice(result: SiteResult) -> str:
    if result.initial is None or result.final is None:
        return "not evaluated"
    return f"{fixed(result.initial.mean_dice)} → {fixed(result.final.mean_dice)}"


def _thresholds(result: SiteResult) -> str:
    ends = clip_norm_range(result.record)
    if ends is None:
        return "none"
    low, high = (number(end, 2) for end in ends)
    return low if low == high else f"{low} to {high}"
