"""What a comparison says when it ends: each arm's score with both epsilons, the overhead, what went wrong."""

import json
import statistics
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from adpfl.experiment.comparison.folder import Comparison
from adpfl.experiment.comparison.plan import CellPlan
from adpfl.experiment.comparison.workers import Outcome
from adpfl.experiment.report.data_words import SYNTHETIC
from adpfl.experiment.report.record import JoinedRun
from adpfl.experiment.report.words import at_most, number
from adpfl.privacy.guarantee import IF_FIXED_MEANING, Guarantee


def final_value(run: JoinedRun) -> float | None:
    """The final model's Dice or AUROC, the mean over sites that have one; None where none has."""
    values = [site.evaluations[-1].value for site in run.record.sites]
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if defined else None


def metric_of(comparison: Comparison) -> str:
    """What the runs are judged by: "Dice", or "AUROC" of classifiers."""
    runs = comparison.runs.values()
    return next((site.evaluations[-1].metric for run in runs for site in run.record.sites), "Dice")


def worst_guarantee(run: JoinedRun) -> Guarantee:
    """The run's figure: the largest honest epsilon of its sites, whose patients are disjoint."""
    return max(
        (site.guarantee for site in run.record.sites),
        key=lambda one: (one.epsilon, one.epsilon_if_fixed or 0.0),
    )


def overhead(comparison: Comparison) -> float:
    """Coordination's share of the wall time of all cells that are over."""
    total = sum(timing.total_seconds for timing in comparison.timings.values())
    spent = sum(timing.coordination_seconds for timing in comparison.timings.values())
    return spent / total if total else 0.0


def print_ending(comparison: Comparison, outcomes: Sequence[Outcome], console: Console) -> None:
    """Print the figures, as a table on a terminal and as one JSON object elsewhere."""
    if console.is_terminal:
        _print_table(comparison, console)
    else:
        console.print(json.dumps(_document(comparison)), highlight=False, markup=False, soft_wrap=True)
    for cell, reason in comparison.failed.items():
        console.print(f"{cell} failed: {reason}", style="bold", highlight=False, markup=False, soft_wrap=True)
    for outcome in outcomes:
        if outcome.status == "stopped":
            console.print(f"{outcome.cell} did not end: {outcome.detail}", highlight=False, markup=False)


def _document(comparison: Comparison) -> dict[str, object]:
    groups = [
        {
            "group": cells[0].group,
            "arm": cells[0].arm,
            "value": cells[0].value,
            metric_of(comparison).lower(): [_rounded(comparison.runs[cell.cell]) for cell in cells],
            "honest_epsilon": _figure(worst_guarantee(comparison.runs[cells[0].cell]).epsilon),
            "nominal_epsilon": worst_guarantee(comparison.runs[cells[0].cell]).nominal_epsilon,
        }
        for cells in _rows(comparison)
    ]
    return {
        "event": "ended",
        "results": groups,
        "failed": comparison.failed,
        "unfinished": comparison.unfinished,
        "coordination_share": round(overhead(comparison), 4),
    }


def _print_table(comparison: Comparison, console: Console) -> None:
    if comparison.plan.data.synthetic:
        console.print(SYNTHETIC, style="bold")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(
        (
            "",
            "varied",
            "runs",
            f"{metric_of(comparison)}, mean",
            "least to most",
            "honest ε",
            "ε if fixed*",
            "nominal ε",
        )
    ):
        table.add_column(heading, justify="right" if place else "left")
    for cells in _rows(comparison):
        values = [final_value(comparison.runs[cell.cell]) for cell in cells]
        scores = [value for value in values if value is not None]
        figure = worst_guarantee(comparison.runs[cells[0].cell])
        table.add_row(
            cells[0].label,
            "" if cells[0].value is None else f"{cells[0].group.replace('_', ' ')} {cells[0].value:g}",
            str(len(cells)),
            f"{statistics.fmean(scores):.3f}" if scores else "undefined",
            f"{min(scores):.3f} to {max(scores):.3f}" if scores else "",
            at_most(figure.epsilon),
            "" if figure.epsilon_if_fixed is None else number(figure.epsilon_if_fixed),
            "" if figure.nominal_epsilon is None else f"{figure.nominal_epsilon:g}",
        )
    console.print(table)
    console.print(f"* {IF_FIXED_MEANING}", style="dim")
    console.print(
        f"coordination took {overhead(comparison):.1%} of the time of all runs; training and scoring the rest"
    )


def _rows(comparison: Comparison) -> list[list[CellPlan]]:
    """Finished cells that differ by seed alone, together."""
    rows: dict[tuple[str, str, float | None], list[CellPlan]] = {}
    for cell in comparison.plan.cells:
        if cell.cell in comparison.runs:
            rows.setdefault((cell.group, cell.arm, cell.value), []).append(cell)
    return list(rows.values())


def _rounded(run: JoinedRun) -> float | None:
    value = final_value(run)
    return None if value is None else round(value, 4)


def _figure(epsilon: float) -> float | str:
    return "inf" if epsilon == float("inf") else epsilon
