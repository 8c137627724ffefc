"""Figures derived from a joined record: scores a site, their spread over patients, thresholds over steps.

A patient counts once: its images and structures are averaged before patients are compared.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from adpfl.federated.records import CaseScore, EvaluationRecord, ServerRound, ServerRunRecord, SiteRunRecord


@dataclass(frozen=True)
class Spread:
    """How one score is spread over held-out patients.

    Attributes:
        values: one value a patient, ascending.
        mean: arithmetic mean.
        deviation: sample standard deviation; 0 for a single patient.
        quartiles: 25, 50 and 75 %, linearly interpolated.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float
    quartiles: tuple[float, float, float]

    @property
    def lowest(self) -> float:
        """The worst patient, where larger is better."""
        return self.values[0]

    @property
    def highest(self) -> float:
        """The best patient, where larger is better."""
        return self.values[-1]


@dataclass(frozen=True)
class Scores:
    """One evaluation of the global model on one site's held-out patients, all structures or one.

    Attributes:
        round: 0 is the initial model.
        metric: what the evaluation is judged by: AUROC of a classifier, else Dice.
        value: of the metric, as the site recorded it; None where an AUROC is undefined.
        dice: over patients; None where the record holds no score.
        surface_dice: over patients; None where there is none.
        assd: over patients with a finite distance, in the unit of `hd95`; None where there is none.
        hd95: over patients with a finite distance; None where there is none.
        hd95_unit: `mm` or `px`.
        hd95_undefined: patients without a distance, because one of the two masks is empty.
    """

    round: int
    metric: Literal["Dice", "AUROC"]
    value: float | None
    dice: Spread | None
    surface_dice: Spread | None
    assd: Spread | None
    hd95: Spread | None
    hd95_unit: str
    hd95_undefined: int


@dataclass(frozen=True)
class SiteResult:
    """What the report tells of one site.

    Attributes:
        site: its name.
        position: its place in the plan, which gives it a colour and a marker.
        record: its own record.
        initial: scores of the first evaluation, the initial model's where it was evaluated.
        final: scores of the last evaluation.
    """

    site: str
    position: int
    record: SiteRunRecord
    initial: Scores | None
    final: Scores | None


def contributors(server: ServerRunRecord) -> tuple[str, ...]:
    """Sites whose update stands in at least one round's model, in the plan's order."""
    took_part = {site for entry in closed_rounds(server) for site in entry.sites}
    return tuple(site for site in server.plan.cohort.sites if site in took_part)


def closed_rounds(server: ServerRunRecord) -> tuple[ServerRound, ...]:
    """Rounds that made a model."""
    return tuple(entry for entry in server.rounds if entry.result_digest is not None)


def site_results(server: ServerRunRecord, sites: Iterable[SiteRunRecord]) -> tuple[SiteResult, ...]:
    """Results of the given sites, in the order given."""
    order = server.plan.cohort.sites
    return tuple(
        SiteResult(
            site=record.site,
            position=order.index(record.site),
            record=record,
            initial=scores_of(record.evaluations[0]) if record.evaluations else None,
            final=scores_of(record.evaluations[-1]) if record.evaluations else None,
        )
        for record in sites
    )


def scores_of(evaluation: EvaluationRecord) -> Scores:
    """Summarise one evaluation over its patients."""
    hd95 = _per_patient(evaluation.scores, lambda score: score.hd95)
    patients = {score.patient for score in evaluation.scores}
    return Scores(
        round=evaluation.round,
        metric=evaluation.metric,
        value=evaluation.value,
        dice=spread(_per_patient(evaluation.scores, lambda score: score.dice)),
        surface_dice=spread(_per_patient(evaluation.scores, lambda score: score.surface_dice)),
        assd=spread(_per_patient(evaluation.scores, lambda score: score.assd)),
        hd95=spread(hd95),
        hd95_unit=evaluation.scores[0].hd95_unit if evaluation.scores else "px",
        hd95_undefined=len(patients) - len(hd95),
    )


def scores_by_structure(evaluation: EvaluationRecord) -> tuple[tuple[str, Scores], ...]:
    """Summarise one evaluation structure by structure, in the record's order."""
    names = dict.fromkeys(score.structure for score in evaluation.scores)
    parts = {name: tuple(score for score in evaluation.scores if score.structure == name) for name in names}
    return tuple(
        (
            name,
            scores_of(
                EvaluationRecord(
                    round=evaluation.round,
                    mean_dice=statistics.fmean(_per_patient(scores, lambda score: score.dice)),
                    scores=scores,
                )
            ),
        )
        for name, scores in parts.items()
    )


def spread(values: Iterable[float]) -> Spread | None:
    """Spread of the values; None of none."""
    ordered = tuple(sorted(values))
    if not ordered:
        return None
    return Spread(
        values=ordered,
        mean=statistics.fmean(ordered),
        deviation=statistics.stdev(ordered) if len(ordered) > 1 else 0.0,
        quartiles=(_quantile(ordered, 0.25), _quantile(ordered, 0.5), _quantile(ordered, 0.75)),
    )


def mean_over_sites(
    results: Iterable[SiteResult], pick: Callable[[SiteResult], Scores | None]
) -> float | None:
    """Plain mean of the sites' metric, whatever their sizes; None where no site has one."""
    picked = [scores.value for result in results if (scores := pick(result)) is not None]
    means = [value for value in picked if value is not None]
    return statistics.fmean(means) if means else None


def metric_of(results: Iterable[SiteResult]) -> Literal["Dice", "AUROC"]:
    """What a run is judged by."""
    return next((result.final.metric for result in results if result.final), "Dice")


def clip_norm_range(record: SiteRunRecord) -> tuple[float, float] | None:
    """Lowest and highest threshold C over a site's steps; None where nothing was clipped."""
    norms = [step.clip_norm for step in record.steps if step.clip_norm is not None]
    return (min(norms), max(norms)) if norms else None


def clipped_share(record: SiteRunRecord) -> float | None:
    """Share of the run's gradients that were clipped; None where there was no threshold or no unit."""
    if clip_norm_range(record) is None:
        return None
    units = sum(step.units for step in record.steps)
    return sum(step.clipped_units for step in record.steps) / units if units else None


def _per_patient(scores: Iterable[CaseScore], pick: Callable[[CaseScore], float | None]) -> tuple[float, ...]:
    by_patient: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        value = pick(score)
        if value is not None and math.isfinite(value):
            by_patient[score.patient].append(value)
    return tuple(statistics.fmean(values) for values in by_patient.values())


def _quantile(ordered: tuple[float, ...], probability: float) -> float:
    place = probability * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
