"""What the charts draw: figures over rounds and over a varied value, patients, thresholds over steps."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adpfl.experiment.report.comparison.metrics import Metric
from adpfl.experiment.report.comparison.reduction import rounds_of
from adpfl.experiment.report.comparison.settings import Setting
from adpfl.experiment.report.comparison.summary import SettingSummary
from adpfl.federated.records import SiteRunRecord, StepRecord

MOST_PLACES = 60
"""Steps that a threshold chart tells apart; more are put together, neighbours by their median."""


@dataclass(frozen=True)
class Band:
    """One arm's figure along an axis: mean, lowest and highest of its runs at each place.

    Attributes:
        label: of the arm.
        arm: its key.
        places: rounds or values, rising.
        mean: over runs.
        low: the lowest run.
        high: the highest run.
    """

    label: str
    arm: str
    places: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class PatientRow:
    """One arm's held-out patients, each once in every run.

    Attributes:
        label: of the arm.
        arm: its key.
        values: of the patients that have a figure, ascending.
        missing: how many have none.
    """

    label: str
    arm: str
    values: tuple[float, ...]
    missing: int


@dataclass(frozen=True)
class ThresholdTrace:
    """Thresholds and median norms of one arm at one site in one run, along its steps.

    Attributes:
        label: of the arm.
        arm: its key.
        places: local steps, counted through the run from 1.
        clip_norms: C; None where nothing is clipped.
        medians: median norm before clipping; None of a step without units.
    """

    label: str
    arm: str
    places: tuple[float, ...]
    clip_norms: tuple[float | None, ...]
    medians: tuple[float | None, ...]


def convergence(setting: Setting, metric: Metric) -> Band:
    """The figure after each round that all of the setting's runs evaluated."""
    curves = [rounds_of(run.sites, metric) for run in setting.runs]
    shared = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    return _band(setting.label, setting.arm, {float(n): [curve[n] for curve in curves] for n in shared})


def value_bands(points: Sequence[SettingSummary], metric: Metric) -> tuple[Band, ...]:
    """Figures along a curve's axis, an arm a band."""
    arms: dict[tuple[str, str], dict[float, list[float]]] = {}
    for point in points:
        values = list(point.figure(metric).by_seed.values())
        if point.value is not None and values:
            arms.setdefault((point.label, point.arm), {})[point.value] = values
    return tuple(_band(label, arm, dict(sorted(by_value.items()))) for (label, arm), by_value in arms.items())


def patient_row(setting: Setting, metric: Metric, site: str | None = None) -> PatientRow:
    """Every run's held-out patients, of one site or of all."""
    figures = [
        figure
        for run in setting.figures(metric).values()
        for name, figure in run.sites.items()
        if site in (None, name)
    ]
    return PatientRow(
        label=setting.label,
        arm=setting.arm,
        values=tuple(sorted(value for figure in figures for value in figure.measured)),
        missing=sum(figure.missing for figure in figures),
    )


def threshold_trace(setting: Setting, record: SiteRunRecord) -> ThresholdTrace:
    """One site's steps; where there are more than `MOST_PLACES`, neighbours stand together."""
    width = -(-len(record.steps) // MOST_PLACES) or 1
    groups = [record.steps[start : start + width] for start in range(0, len(record.steps), width)]
    return ThresholdTrace(
        label=setting.label,
        arm=setting.arm,
        places=tuple(1 + index * width + (len(group) - 1) / 2 for index, group in enumerate(groups)),
        clip_norms=tuple(_median([step.clip_norm for step in group]) for group in groups),
        medians=tuple(_median([_median_norm(step) for step in group]) for group in groups),
    )


def _band(label: str, arm: str, by_place: Mapping[float, Sequence[float]]) -> Band:
    return Band(
        label=label,
        arm=arm,
        places=tuple(by_place),
        mean=tuple(statistics.fmean(values) for values in by_place.values()),
        low=tuple(min(values) for values in by_place.values()),
        high=tuple(max(values) for values in by_place.values()),
    )


def _median_norm(step: StepRecord) -> float | None:
    return step.norm_quantiles[len(step.norm_quantiles) // 2] if step.norm_quantiles else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
