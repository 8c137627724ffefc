"""From scores of single cases to one figure a run: cases to patients, patients to sites, sites to the run.

Every mean is plain: a patient counts once however many images there are, a site counts once however many
patients it holds out. Scores are those of the last global model that was evaluated.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adpfl.experiment.report.comparison.metrics import Metric
from adpfl.federated.records import EvaluationRecord, SiteRunRecord


@dataclass(frozen=True)
class SiteFigure:
    """One metric at one site under one run's final model.

    Attributes:
        value: mean over patients, or the site's own figure where the metric has none of a patient; None where
            nothing could be measured.
        patients: figure of each held-out patient, by the site's label; None where it is not defined, because
            one of the two masks is empty in every case of the patient.
    """

    value: float | None
    patients: Mapping[str, float | None]

    @property
    def measured(self) -> tuple[float, ...]:
        """Figures of the patients that have one."""
        return tuple(value for value in self.patients.values() if value is not None)

    @property
    def missing(self) -> int:
        """Patients without a figure."""
        return len(self.patients) - len(self.measured)


@dataclass(frozen=True)
class RunFigure:
    """One metric of one run's final model.

    Attributes:
        value: mean over the sites that have a figure; None where none has.
        sites: by site, in the plan's order.
    """

    value: float | None
    sites: Mapping[str, SiteFigure]

    @property
    def patients(self) -> tuple[float, ...]:
        """Figures of all sites' patients that have one."""
        return tuple(value for site in self.sites.values() for value in site.measured)

    @property
    def patients_missing(self) -> int:
        """Patients of all sites without a figure."""
        return sum(site.missing for site in self.sites.values())

    @property
    def patient_variation(self) -> float | None:
        """Coefficient of variation over all sites' patients of this run; None of fewer than two."""
        values = self.patients
        if len(values) < 2 or not (mean := statistics.fmean(values)):
            return None
        return statistics.stdev(values) / abs(mean)


def run_figure(sites: Iterable[SiteRunRecord], metric: Metric, structure: str | None = None) -> RunFigure:
    """One metric of one run, of one structure or over all of them."""
    figures = {
        site.site: site_figure(site.evaluations[-1], metric, structure) for site in sites if site.evaluations
    }
    return RunFigure(
        value=_mean(figure.value for figure in figures.values() if figure.value is not None), sites=figures
    )


def site_figure(evaluation: EvaluationRecord, metric: Metric, structure: str | None = None) -> SiteFigure:
    """One metric of one evaluation.

    Args:
        evaluation: of the global model on the site's held-out patients.
        metric: what is measured.
        structure: one structure alone; None averages a patient's structures as it averages its cases.
    """
    if metric.key == "auroc":
        return SiteFigure(value=evaluation.auroc, patients={})
    by_patient: dict[str, list[float]] = {}
    for score in evaluation.scores:
        if structure is not None and score.structure != structure:
            continue
        values = by_patient.setdefault(score.patient, [])
        value = metric.of_case(score)
        if value is not None and math.isfinite(value):
            values.append(value)
    patients = {patient: _mean(values) for patient, values in by_patient.items()}
    return SiteFigure(
        value=_mean(value for value in patients.values() if value is not None), patients=patients
    )


def structures_of(sites: Iterable[SiteRunRecord]) -> tuple[str, ...]:
    """Names of the scored structures, in the records' order."""
    return tuple(
        dict.fromkeys(
            score.structure
            for site in sites
            for evaluation in site.evaluations
            for score in evaluation.scores
        )
    )


def rounds_of(sites: Iterable[SiteRunRecord], metric: Metric) -> dict[int, float]:
    """The metric after each round that every evaluated site evaluated: mean over patients, then sites."""
    by_round: dict[int, list[float]] = {}
    evaluated = [site for site in sites if site.evaluations]
    for site in evaluated:
        for evaluation in site.evaluations:
            if (value := site_figure(evaluation, metric).value) is not None:
                by_round.setdefault(evaluation.round, []).append(value)
    return {
        number: statistics.fmean(values)
        for number, values in sorted(by_round.items())
        if len(values) == len(evaluated)
    }


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.fmean(found) if found else None
