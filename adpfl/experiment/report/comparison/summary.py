"""What the report says of each setting, as rows that are shown, written as CSV and kept in `run.json`."""

import statistics
from collections.abc import Iterable

from adpfl.config import FrozenModel
from adpfl.experiment.report.comparison.metrics import DICE, Metric, MetricKey
from adpfl.experiment.report.comparison.settings import Setting
from adpfl.experiment.report.comparison.statistics import (
    Center,
    Difference,
    Interval,
    center,
    paired_difference,
    ratio,
    ratio_interval,
)


class FigureSummary(FrozenModel):
    """One metric of one setting: mean over patients, then sites, then runs."""

    metric: MetricKey
    structure: str | None
    """None: a patient's structures are averaged first."""
    by_seed: dict[int, float]
    center: Center | None
    """Over runs."""
    sites: dict[str, Center]
    """Over runs, at each site alone."""
    patients: int
    """Held-out patients of all sites, counted once in each run."""
    patients_missing: int
    """Those among them without a figure."""
    difference: Difference | None = None
    """To the reference, paired by seed; None of the reference itself."""
    reference: float | None = None
    """The reference's mean over the same seeds."""
    relative_difference: float | None = None
    """The mean difference over `reference`."""


class VariationSummary(FrozenModel):
    """How unlike runs are, and how unlike patients are, of the leading metric; and both over FL's own."""

    between_runs: float | None
    """Deviation over mean of the runs' figures."""
    between_patients: float | None
    """Deviation over mean of all sites' patients within a run, then the mean over runs."""
    between_runs_ratio: float | None = None
    between_patients_ratio: float | None = None
    between_runs_interval: Interval | None = None
    """Of the ratio: what chance leaves open with so many runs of each."""
    between_patients_interval: Interval | None = None
    """Of the ratio: over runs paired by seed, and so of other seeds on these patients."""


class SettingSummary(FrozenModel):
    """Everything that the tables say of one setting."""

    group: str
    arm: str
    label: str
    value: float | None
    cells: tuple[str, ...]
    """Finished ones."""
    planned: int
    figures: tuple[FigureSummary, ...]
    variation: VariationSummary

    def figure(self, metric: Metric, structure: str | None = None) -> FigureSummary:
        """The summary of one metric; its center is None where nothing was measured."""
        for found in self.figures:
            if (found.metric, found.structure) == (metric.key, structure):
                return found
        return FigureSummary(
            metric=metric.key,
            structure=structure,
            by_seed={},
            center=None,
            sites={},
            patients=0,
            patients_missing=0,
        )


def summarize(
    setting: Setting,
    reference: Setting | None,
    metrics: Iterable[Metric],
    structures: Iterable[str],
) -> SettingSummary:
    """Summarise one setting.

    Args:
        setting: with at least one finished run.
        reference: what it is held against; None, or the setting itself, leaves differences and ratios out.
        metrics: the leading one first.
        structures: of the task; with one alone, only the figure over all structures is summarised.
    """
    against = None if reference is setting else reference
    names = tuple(structures)
    parts: tuple[str | None, ...] = (None, *names) if len(names) > 1 else (None,)
    wanted = tuple(metrics)
    leading = wanted[0] if wanted else DICE
    return SettingSummary(
        group=setting.group,
        arm=setting.arm,
        label=setting.label,
        value=setting.value,
        cells=tuple(run.cell.cell for run in setting.runs),
        planned=len(setting.planned),
        figures=tuple(
            _figure(setting, against, metric, structure) for structure in parts for metric in wanted
        ),
        variation=_variation(setting, reference, leading),
    )


def _figure(
    setting: Setting, reference: Setting | None, metric: Metric, structure: str | None
) -> FigureSummary:
    figures = setting.figures(metric, structure)
    ours = setting.by_seed(metric, structure)
    theirs = reference.by_seed(metric, structure) if reference else {}
    difference = paired_difference(ours, theirs)
    shared = [theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    reference_mean = statistics.fmean(shared) if shared else None
    by_site: dict[str, list[float]] = {}
    for figure in figures.values():
        for site, found in figure.sites.items():
            if found.value is not None:
                by_site.setdefault(site, []).append(found.value)
    return FigureSummary(
        metric=metric.key,
        structure=structure,
        by_seed=ours,
        center=center(list(ours.values())),
        sites={site: made for site, values in by_site.items() if (made := center(values)) is not None},
        patients=sum(len(site.patients) for figure in figures.values() for site in figure.sites.values()),
        patients_missing=sum(figure.patients_missing for figure in figures.values()),
        difference=difference,
        reference=reference_mean,
        relative_difference=ratio(difference.mean, reference_mean) if difference else None,
    )


def _variation(setting: Setting, reference: Setting | None, metric: Metric) -> VariationSummary:
    runs, by_seed = center(list(setting.by_seed(metric).values())), _between_patients(setting, metric)
    ours = VariationSummary(between_runs=runs.variation if runs else None, between_patients=_mean(by_seed))
    if reference is None or reference is setting:
        return ours
    their_runs, theirs = (
        center(list(reference.by_seed(metric).values())),
        _between_patients(reference, metric),
    )
    between_runs = ratio(ours.between_runs, their_runs.variation if their_runs else None)
    return ours.model_copy(
        update={
            "between_runs_ratio": between_runs,
            "between_patients_ratio": ratio(ours.between_patients, _mean(theirs)),
            "between_runs_interval": ratio_interval(
                between_runs, runs.n if runs else 0, their_runs.n if their_runs else 0
            ),
            "between_patients_interval": _patients_interval(by_seed, theirs),
        }
    )


def _between_patients(setting: Setting, metric: Metric) -> dict[int, float]:
    """Coefficient of variation of all sites' patients, by seed."""
    return {
        seed: variation
        for seed, figure in setting.figures(metric).items()
        if (variation := figure.patient_variation) is not None
    }


def _patients_interval(ours: dict[int, float], theirs: dict[int, float]) -> Interval | None:
    """The paired difference's interval, as a multiple of theirs."""
    difference = paired_difference(ours, theirs)
    reference = _mean({seed: theirs[seed] for seed in ours.keys() & theirs.keys()})
    if difference is None or difference.interval is None or not reference:
        return None
    interval = difference.interval
    return Interval(low=1 + interval.low / reference, high=1 + interval.high / reference)


def _mean(by_seed: dict[int, float]) -> float | None:
    return statistics.fmean(by_seed.values()) if by_seed else None
