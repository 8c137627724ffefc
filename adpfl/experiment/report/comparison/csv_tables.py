"""Tables of single figures as CSV, for whoever wants to work them out again."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from adpfl.experiment.report.comparison.contents import Contents
from adpfl.experiment.report.comparison.reduction import site_figure
from adpfl.experiment.report.comparison.settings import Run
from adpfl.experiment.report.comparison.summary import SettingSummary

TABLES: Final = {
    "scores.csv": "every score of the final models: a row a cell, site, patient, case and structure",
    "presences.csv": "a classifier's answers, summed up: a row a cell, site, patient, case and structure",
    "summary.csv": "every setting's means, spreads and differences to FL, also site by site",
    "rounds.csv": "the leading figure after every evaluated round: a row a cell, site and round",
    "steps.csv": "thresholds, noise scales and gradient norms: a row a cell, site and local step",
    "guarantees.csv": "every site's privacy figures with all of their terms: a row a cell and site",
}

_CELL: Final = ("cell", "group", "arm", "label", "value", "seed")


def tables(contents: Contents) -> dict[str, str]:
    """The CSV files by name, as text; a table without a row is left out."""
    runs = contents.settings.runs
    made = {
        "scores.csv": _csv(_SCORE_COLUMNS, _scores(runs)),
        "presences.csv": _csv(_PRESENCE_COLUMNS, _presences(runs)),
        "summary.csv": _csv(_SUMMARY_COLUMNS, _summary(contents)),
        "rounds.csv": _csv((*_CELL, "site", "round", "metric", "figure"), _rounds(contents)),
        "steps.csv": _csv(_STEP_COLUMNS, _steps(runs)),
        "guarantees.csv": _csv(_GUARANTEE_COLUMNS, _guarantees(runs)),
    }
    return {name: text for name, text in made.items() if text.count("\n") > 1}


_SCORE_COLUMNS: Final = (
    *_CELL,
    "site",
    "patient",
    "case",
    "structure",
    "dice",
    "hd95",
    "assd",
    "distance_unit",
    "surface_dice",
)
_PRESENCE_COLUMNS: Final = (
    *_CELL,
    "site",
    "patient",
    "case",
    "structure",
    "crops",
    "crops_that_show_it",
    "mean_probability",
    "site_auroc",
)
_SUMMARY_COLUMNS: Final = (
    "group",
    "arm",
    "label",
    "value",
    "metric",
    "structure",
    "site",
    "runs",
    "mean",
    "deviation_between_runs",
    "difference_to_fl",
    "difference_low",
    "difference_high",
    "difference_pairs",
    "relative_difference",
    "patients",
    "patients_missing",
    "variation_between_runs",
    "variation_between_runs_over_fl",
    "variation_between_patients",
    "variation_between_patients_over_fl",
)
_STEP_COLUMNS: Final = (
    *_CELL,
    "site",
    "round",
    "step",
    "clip_norm",
    "noise_scale",
    "norm_min",
    "norm_25",
    "norm_median",
    "norm_75",
    "norm_max",
    "units",
    "clipped_units",
    "nonfinite_units",
)
_GUARANTEE_TERMS: Final = (
    "epsilon",
    "epsilon_if_fixed",
    "nominal_epsilon",
    "target_epsilon",
    "delta",
    "unit",
    "neighboring_relation",
    "sampling",
    "mechanism",
    "threshold",
    "noise_multiplier",
    "reading",
    "steps",
    "accountant",
)
_GUARANTEE_COLUMNS: Final = (*_CELL, "site", *_GUARANTEE_TERMS, "caveats")


def _scores(runs: Iterable[Run]) -> Iterator[Sequence[Any]]:
    for run in runs:
        for site in run.sites:
            for evaluation in site.evaluations[-1:]:
                for score in evaluation.scores:
                    yield (
                        *_cell_cells(run),
                        site.site,
                        score.patient,
                        score.case,
                        score.structure,
                        score.dice,
                        score.hd95,
                        score.assd,
                        score.hd95_unit,
                        score.surface_dice,
                    )


def _presences(runs: Iterable[Run]) -> Iterator[Sequence[Any]]:
    for run in runs:
        for site in run.sites:
            for evaluation in site.evaluations[-1:]:
                for presence in evaluation.presences:
                    yield (
                        *_cell_cells(run),
                        site.site,
                        presence.patient,
                        presence.case,
                        presence.structure,
                        presence.crops,
                        presence.shown,
                        presence.mean_probability,
                        evaluation.auroc,
                    )


def _summary(contents: Contents) -> Iterator[Sequence[Any]]:
    own = {curve.group: curve.points for curve in contents.curves}
    for summary in (
        *contents.arm_summaries,
        *(point for points in own.values() for point in points),
        *contents.utility_summaries,
    ):
        yield from _summary_rows(summary, contents.leading.key)


def _summary_rows(summary: SettingSummary, leading: str) -> Iterator[Sequence[Any]]:
    start = (summary.group, summary.arm, summary.label, summary.value)
    for figure in summary.figures:
        what = (figure.metric, figure.structure or "all")
        center, difference = figure.center, figure.difference
        interval = difference.interval if difference else None
        variation: tuple[float | None, ...] = (None,) * 4
        if figure.metric == leading and figure.structure is None:
            found = summary.variation
            variation = (
                found.between_runs,
                found.between_runs_ratio,
                found.between_patients,
                found.between_patients_ratio,
            )
        yield (
            *start,
            *what,
            "all",
            center.n if center else 0,
            center.mean if center else None,
            center.deviation if center else None,
            difference.mean if difference else None,
            interval.low if interval else None,
            interval.high if interval else None,
            difference.n if difference else None,
            figure.relative_difference,
            figure.patients,
            figure.patients_missing,
            *variation,
        )
        for site, at_site in figure.sites.items():
            yield (*start, *what, site, at_site.n, at_site.mean, at_site.deviation, *(None,) * 11)


def _rounds(contents: Contents) -> Iterator[Sequence[Any]]:
    metric = contents.leading
    for run in contents.settings.runs:
        for site in run.sites:
            for evaluation in site.evaluations:
                figure = site_figure(evaluation, metric).value
                yield (*_cell_cells(run), site.site, evaluation.round, metric.key, figure)


def _steps(runs: Iterable[Run]) -> Iterator[Sequence[Any]]:
    for run in runs:
        for site in run.sites:
            for step in site.steps:
                norms = step.norm_quantiles if len(step.norm_quantiles) == 5 else (None,) * 5
                yield (
                    *_cell_cells(run),
                    site.site,
                    step.round,
                    step.step,
                    step.clip_norm,
                    step.noise_scale,
                    *norms,
                    step.units,
                    step.clipped_units,
                    step.nonfinite_units,
                )


def _guarantees(runs: Iterable[Run]) -> Iterator[Sequence[Any]]:
    for run in runs:
        for site in run.sites:
            terms = site.guarantee.model_dump(mode="json")
            yield (
                *_cell_cells(run),
                site.site,
                *(terms[name] for name in _GUARANTEE_TERMS),
                "; ".join(site.guarantee.caveats),
            )


def _cell_cells(run: Run) -> tuple[Any, ...]:
    cell = run.cell
    return (cell.cell, cell.group, cell.arm, cell.label, cell.value, cell.seed)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV of RFC 4180, lines ended by a line feed; an absent figure is an empty field."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()
