"""What was found, in the first sentences that a reader meets: plainly, also where an aim was missed."""

from collections.abc import Sequence
from typing import Final

from adpfl.experiment.comparison.plan import ComparisonPlan
from adpfl.experiment.report.comparison.guarantees import judged
from adpfl.experiment.report.comparison.metrics import Metric
from adpfl.experiment.report.comparison.settings import Setting
from adpfl.experiment.report.comparison.summary import SettingSummary
from adpfl.experiment.report.comparison.targets import (
    LARGEST_LOSS,
    LARGEST_VARIATION,
    Target,
    change_words,
    doubt_words,
)
from adpfl.experiment.report.words import TASKS, capital, count, joined, number

_LEVEL: Final = 0.005
"""A relative difference that is called level: three decimals of a Dice hardly show it."""

_FEW_RUNS: Final = 10
"""Under this many, a spread between runs is told with a caution."""


def title(plan: ComparisonPlan, arms: Sequence[Setting]) -> str:
    """The page's heading: which arms, on what."""
    task = TASKS.get(plan.task, plan.task.replace("_", " ")).split(" in ")[0]
    labels = list(dict.fromkeys(setting.label for setting in arms))
    return f"{joined(labels)}: {task}" if labels else f"{capital(task)}, compared"


def findings(
    arms: Sequence[SettingSummary],
    metric: Metric,
    aims: Sequence[Target],
    *,
    fixed_at: str = "",
    best_fixed: str = "",
) -> tuple[str, ...]:
    """What the arms reached, how evenly, and whether that is what was aimed at.

    Args:
        arms: summaries of group `arms`.
        metric: the leading one.
        aims: as `targets` found them.
        fixed_at: where DP-FL's threshold stands, in words.
        best_fixed: the best point of the curve over it, in words; empty without a curve.
    """
    by_arm = {summary.arm: summary for summary in reversed(arms)}
    found = []
    if fl := by_arm.get("fl"):
        found.append(_reference(fl, metric))
    if adp_fl := by_arm.get("adp-fl"):
        found.append(_adaptive(adp_fl, metric, {aim.key: aim for aim in aims}.get("loss")))
    if dp_fl := by_arm.get("dp-fl"):
        found.append(_fixed(dp_fl, metric, fixed_at, best_fixed))
    found += [_other(summary, metric) for summary in arms if summary.arm not in {"fl", "dp-fl", "adp-fl"}]
    if fl and adp_fl:
        found.append(_evenness(adp_fl, by_arm.get("dp-fl"), metric))
    return tuple(sentence for sentence in found if sentence)


def privacy_finding(settings: Sequence[Setting]) -> str:
    """Which arms protect a patient, without a figure: each figure stands with its terms further down."""
    by_verdict: dict[str, list[str]] = {}
    for setting in settings:
        by_verdict.setdefault(judged(setting).words, []).append(setting.label)
    if not by_verdict:
        return ""
    told = [
        f"{joined(labels)} {'has' if len(labels) == 1 else 'have'} {words}"
        for words, labels in by_verdict.items()
    ]
    return (
        f"{capital('; '.join(told))}: every ε stands under Privacy, with the terms that give it a meaning. "
        "A nominal ε names the noise and protects nobody by itself."
    )


def best_point(points: Sequence[SettingSummary], metric: Metric, name: str) -> str:
    """The best point of a curve in words: "at C = 10, the best of five tried, 0.861"; empty of none."""
    known = [(figure.mean, point) for point in points if (figure := point.figure(metric).center) is not None]
    if len(known) < 2:
        return ""
    mean, best = max(known, key=lambda entry: entry[0])
    return (
        f"at {name} = {number(best.value or 0.0)}, the best of {count(len(known), 'value')} tried, {mean:.3f}"
    )


def reached_words(summary: SettingSummary, metric: Metric) -> str:
    """Mean and deviation over runs: "0.853 ± 0.004 over three runs"."""
    center = summary.figure(metric).center
    if center is None:
        return "no figure"
    spread = "" if center.deviation is None else f" ± {center.deviation:.3f}"
    return f"{center.mean:.3f}{spread} over {count(center.n, 'run')}"


def _reference(fl: SettingSummary, metric: Metric) -> str:
    reached = reached_words(fl, metric)
    return f"Without any privacy mechanism (FL) the model reached a mean {metric.label} of {reached}."


def _adaptive(adp_fl: SettingSummary, metric: Metric, aim: Target | None) -> str:
    figure = adp_fl.figure(metric)
    reached = reached_words(adp_fl, metric)
    told = f"ADP-FL, whose clipping threshold follows each site's gradients, reached {reached}"
    if figure.relative_difference is None or aim is None:
        return f"{told}."
    verdict = (
        f"within the {LARGEST_LOSS:.0%} that were aimed at"
        if aim.outcome == "reached"
        else f"more than the {LARGEST_LOSS:.0%} that were aimed at: this aim was not reached"
    )
    doubt = f" ({words})" if (words := doubt_words(adp_fl, metric)) else ""
    return f"{told}, {change_words(figure.relative_difference)} FL: {verdict}{doubt}."


def _fixed(dp_fl: SettingSummary, metric: Metric, fixed_at: str, best: str) -> str:
    figure = dp_fl.figure(metric)
    where = f" at {fixed_at}" if fixed_at else ""
    told = f"DP-FL with its threshold fixed{where} reached {reached_words(dp_fl, metric)}"
    if figure.relative_difference is not None:
        told += f", {change_words(figure.relative_difference)} FL"
        if figure.relative_difference > -_LEVEL:
            told += ", so here a fixed threshold costs nothing"
    return f"{told}; {best}." if best else f"{told}."


def _other(summary: SettingSummary, metric: Metric) -> str:
    relative = summary.figure(metric).relative_difference
    against = "" if relative is None else f", {change_words(relative)} FL"
    return f"{summary.label} reached {reached_words(summary, metric)}{against}."


def _evenness(adp_fl: SettingSummary, dp_fl: SettingSummary | None, metric: Metric) -> str:
    parts = []
    for name, pick in (("patients", "between_patients_ratio"), ("runs", "between_runs_ratio")):
        ours: float | None = getattr(adp_fl.variation, pick)
        if ours is None:
            continue
        theirs: float | None = getattr(dp_fl.variation, pick) if dp_fl else None
        beside = "" if theirs is None else f" (DP-FL's {theirs:.2f} times)"
        verdict = "within" if ours <= LARGEST_VARIATION else "above"
        parts.append(
            f"between {name} {ours:.2f} times as much as FL's{beside}, {verdict} the "
            f"{LARGEST_VARIATION:g} times aimed at"
        )
    if not parts:
        return ""
    center = adp_fl.figure(metric).center
    few = adp_fl.variation.between_runs_ratio is not None and center is not None and center.n < _FEW_RUNS
    caution = " So few runs say little about the spread between runs." if few else ""
    return f"ADP-FL's {metric.label} varies {'; '.join(parts)}.{caution}"
