"""What ends a demonstration: Dice, privacy figures with their terms, thresholds, and what to do next."""

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from adpfl.experiment.report.data_words import SYNTHETIC
from adpfl.experiment.report.explanation import explanation
from adpfl.experiment.report.guarantee_table import guarantee_rows, privacy_columns
from adpfl.experiment.report.next_steps import next_steps
from adpfl.experiment.report.privacy_words import facts
from adpfl.experiment.report.record import JoinedRecord
from adpfl.experiment.report.results import (
    Scores,
    SiteResult,
    clip_norm_range,
    mean_over_sites,
    metric_of,
    site_results,
)
from adpfl.experiment.report.view import optional
from adpfl.experiment.report.words import number
from adpfl.privacy.guarantee import IF_FIXED_MEANING


def print_summary(record: JoinedRecord, console: Console) -> None:
    """Print the table and the terms that must stand beside its figures."""
    console.print(summary(record))


def print_next_steps(record: JoinedRecord, console: Console) -> None:
    """Print what a person does next; commands keep their line, so that they can be copied."""
    console.print("next:", style="bold")
    for step in next_steps(record):
        console.print(Padding(f"{step.words}:", (0, 0, 0, 2)), highlight=False, markup=False)
        for command in step.commands:
            console.print(f"    {command}", highlight=False, markup=False, soft_wrap=True)


def summary(record: JoinedRecord) -> Group:
    """The table, the meaning of its figures and their terms."""
    results = site_results(record.server, record.sites)
    table = _results_table(results)
    terms = Table.grid(padding=(0, 2))
    for fact in facts([(result.site, result.record.guarantee) for result in results], record.data_note):
        terms.add_row(Text(fact.term, style="dim"), Text(fact.value))
    meaning = Text(f"{explanation(record.server.plan, record.sites).heading}.", style="bold")
    parts: list[RenderableType] = [Text(SYNTHETIC, style="bold")] if record.data_note.synthetic else []
    parts += [table, meaning]
    if privacy_columns(results).nominal:
        parts.append(Text(f"* {IF_FIXED_MEANING}", style="dim"))
    parts += [Text(), terms, Text()]
    return Group(*parts)


def _results_table(results: Sequence[SiteResult]) -> Table:
    """A row a site; on a narrow terminal the headings break, the figures never."""
    columns = privacy_columns(results)
    headings = ["site", f"{metric_of(results)}, first → last", "threshold C", "honest ε"]
    headings += ["ε if fixed*", "nominal ε"] if columns.nominal else []
    headings += ["target ε"] if columns.target else []
    rows = [
        (
            *(result.site, _metric(result), _thresholds(result), row.honest),
            *((row.if_fixed, row.nominal) if columns.nominal else ()),
            *((row.target,) if columns.target else ()),
        )
        for result, row in zip(results, guarantee_rows(results), strict=True)
    ]
    means = (_mean(results, lambda result: result.initial), _mean(results, lambda result: result.final))
    rows.append(("mean of sites", " → ".join(means), *[""] * (len(headings) - 2)))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for place, heading in enumerate(headings):
        widest = max(len(row[place]) for row in rows)
        table.add_column(heading, justify="right" if place else "left", min_width=widest)
    for row in rows[:-1]:
        table.add_row(*row)
    if len(results) > 1:
        table.add_section()
        table.add_row(*rows[-1])
    return table


def _mean(results: Sequence[SiteResult], pick: Callable[[SiteResult], Scores | None]) -> str:
    return optional(mean_over_sites(results, pick))


def _metric(result: SiteResult) -> str:
    if result.initial is None or result.final is None:
        return "not evaluated"
    return f"{optional(result.initial.value)} → {optional(result.final.value)}"


def _thresholds(result: SiteResult) -> str:
    ends = clip_norm_range(result.record)
    if ends is None:
        return "none"
    low, high = (number(end, 2) for end in ends)
    return low if low == high else f"{low} to {high}"
