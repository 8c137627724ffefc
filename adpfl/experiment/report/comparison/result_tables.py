"""Tables of what the arms reached: arms and structures, sites, spread, convergence, aims."""

import statistics
from itertools import pairwise

from adpfl.experiment.report.comparison.contents import Contents
from adpfl.experiment.report.comparison.metrics import Metric
from adpfl.experiment.report.comparison.series import Band, convergence, patient_row
from adpfl.experiment.report.comparison.statistics import Center, Difference
from adpfl.experiment.report.comparison.summary import FigureSummary, SettingSummary
from adpfl.experiment.report.comparison.table import DASH, Row, RowGroup, Table, table
from adpfl.experiment.report.comparison.targets import signed
from adpfl.experiment.report.words import capital

ALL_STRUCTURES = "All structures"
_NEARLY = 0.95
"""Of FL's final figure: the height whose first round is told."""


def arms_table(contents: Contents) -> Table:
    """The published comparison's table: arms by structures, with every figure that was recorded."""
    metrics = contents.metrics
    parts = _parts(contents)
    groups = tuple(
        RowGroup(
            heading=heading,
            rows=tuple(_arm_row(contents, summary, structure) for summary in contents.arm_summaries),
            arms=tuple(summary.arm for summary in contents.arm_summaries),
        )
        for heading, structure in parts
    )
    leading = metrics[0].label
    columns = ["Arm", *(_heading(metric, contents.unit) for metric in metrics)]
    columns += [f"{leading}, difference to FL", "95% interval (n)"]
    if any(metric.is_distance for metric in metrics):
        columns.append("Patients without a distance")
    return Table(
        caption=(
            "The last global model on held-out patients: mean over patients, then over sites, then over "
            "runs, ± the standard deviation between runs. "
            + " ".join(f"{metric.label}: {metric.meaning}." for metric in metrics)
        ),
        columns=tuple(columns),
        groups=groups,
    )


def sites_table(contents: Contents) -> Table:
    """The leading figure of every arm at every site."""
    summaries = contents.arm_summaries
    rows = []
    for site in contents.comparison.plan.data.sites:
        cells = [
            spread(summary.figure(contents.leading).sites.get(site), contents.leading)
            for summary in summaries
        ]
        rows.append((site, _patients_at(contents, site), *cells))
    return table(
        f"Mean {contents.leading.label} over the site's held-out patients and over runs, ± between runs.",
        ("Site", "Patients trained / held out", *(summary.label for summary in summaries)),
        rows,
    )


def variation_table(contents: Contents) -> Table:
    """How unlike runs and patients are under each arm."""
    rows = []
    for summary, setting in zip(contents.arm_summaries, contents.arms, strict=True):
        found = summary.variation
        patients = patient_row(setting, contents.leading)
        worst = f"{patients.values[0]:.3f}" if patients.values else DASH
        rows.append(
            (
                summary.label,
                _share(found.between_runs),
                _times(found.between_runs_ratio),
                _share(found.between_patients),
                _times(found.between_patients_ratio),
                worst,
            )
        )
    label = contents.leading.label
    return table(
        f"Coefficients of variation of {label}, standard deviation over mean: between runs, of the runs' "
        "means; between patients, of all sites' held-out patients within a run, then the mean over runs. "
        "Beside each its ratio to FL's own.",
        (
            "Arm",
            "Between runs",
            "Runs, over FL's",
            "Between patients",
            "Patients, over FL's",
            "Worst patient of any run",
        ),
        rows,
        arms=[summary.arm for summary in contents.arm_summaries],
    )


def convergence_table(contents: Contents) -> Table:
    """How fast and how smoothly each arm rises."""
    bands = [convergence(setting, contents.leading) for setting in contents.arms]
    reference = next((band for band in bands if band.arm == "fl" and band.mean), None)
    height = _NEARLY * reference.mean[-1] if reference else None
    rows = [(band.label, _first_at(band, height), _roughness(band), *_ends(band)) for band in bands]
    return table(
        f"First evaluated round at which the mean of the runs reached {_NEARLY:.0%} of FL's final figure, "
        "and the mean change from one evaluation to the next over the second half: small is smooth.",
        ("Arm", f"Round of {_NEARLY:.0%} of FL's final", "Change between evaluations", "Initial", "Final"),
        rows,
        arms=[band.arm for band in bands],
    )


def targets_table(contents: Contents) -> Table:
    """What was aimed at and what became of it."""
    return table(
        "",
        ("Aim", "Found", "Outcome"),
        [(target.aim, target.found, target.outcome) for target in contents.targets],
        prose=True,
    )


def spread(center: Center | None, metric: Metric) -> str:
    """A mean and its deviation between runs: "0.853 ± 0.004"."""
    if center is None:
        return DASH
    decimals = _distance_decimals(center.mean) if metric.is_distance else 3
    deviation = "" if center.deviation is None else f" ± {center.deviation:.{decimals}f}"
    return f"{center.mean:.{decimals}f}{deviation}"


def difference_cells(difference: Difference | None, relative: float | None) -> tuple[str, str]:
    """A difference with its relative size, and its interval with n."""
    if difference is None:
        return DASH, DASH
    share = "" if relative is None else f" ({signed(relative * 100, 1)}%)"
    if difference.interval is None:
        return f"{signed(difference.mean)}{share}", f"none ({difference.n})"
    ends = f"{signed(difference.interval.low)} to {signed(difference.interval.high)}"
    return f"{signed(difference.mean)}{share}", f"{ends} ({difference.n})"


def _parts(contents: Contents) -> list[tuple[str, str | None]]:
    if len(contents.structures) < 2:
        return [("", None)]
    named: list[tuple[str, str | None]] = [
        (capital(structure.replace("_", " ")), structure) for structure in contents.structures
    ]
    return [*named, (ALL_STRUCTURES, None)]


def _arm_row(contents: Contents, summary: SettingSummary, structure: str | None) -> Row:
    leading = summary.figure(contents.leading, structure)
    cells = [spread(summary.figure(metric, structure).center, metric) for metric in contents.metrics]
    cells += difference_cells(leading.difference, leading.relative_difference)
    distances = [metric for metric in contents.metrics if metric.is_distance]
    if distances:
        cells.append(_missing(summary.figure(distances[0], structure)))
    return (summary.label, *cells)


def _missing(figure: FigureSummary) -> str:
    return f"{figure.patients_missing} of {figure.patients}"


def _heading(metric: Metric, unit: str) -> str:
    return f"{metric.label}, {unit}" if metric.is_distance else metric.label


def _patients_at(contents: Contents, site: str) -> str:
    data = contents.comparison.plan.data
    return f"{data.training_patients[site]} / {data.held_out_patients.get(site, 0)}"


def _share(value: float | None) -> str:
    return DASH if value is None else f"{value:.1%}"


def _distance_decimals(mean: float) -> int:
    """Three digits of the mean; its deviation is told as finely."""
    return 2 if mean < 10 else 1 if mean < 100 else 0


def _times(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f} ×"  # noqa: RUF001 - a multiplication sign


def _first_at(band: Band, height: float | None) -> str:
    if height is None or not band.mean:
        return DASH
    return next(
        (f"{place:g}" for place, mean in zip(band.places, band.mean, strict=True) if mean >= height), "never"
    )


def _roughness(band: Band) -> str:
    half = band.mean[len(band.mean) // 2 :]
    steps = [abs(after - before) for before, after in pairwise(half)]
    return f"{statistics.fmean(steps):.4f}" if steps else DASH


def _ends(band: Band) -> tuple[str, str]:
    return (f"{band.mean[0]:.3f}", f"{band.mean[-1]:.3f}") if band.mean else (DASH, DASH)
