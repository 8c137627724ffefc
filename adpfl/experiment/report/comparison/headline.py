"""What was found, in the first sentences that a reader meets: plainly, also where an aim was missed."""

from collections.abc import Mapping, Sequence
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
    loss_doubt,
)
from adpfl.experiment.report.comparison.verdict import leaning
from adpfl.experiment.report.words import TASKS, capital, count, joined, listed, number

NOTHING_FOUND: Final = "No run of an arm has finished: there is nothing to compare yet."
"""Stands where there is no finding."""

_LEVEL: Final = 0.005
"""A relative difference that is called level: three decimals of a Dice hardly show it."""

_FEW_RUNS: Final = 10
"""Under this many, a spread between runs is told with a caution."""

_BEST_IS_OPTIMISTIC: Final = (
    "That best C was found by looking at held-out scores: the look costs privacy that no ε here counts, and "
    "the figure is optimistic. DP-FL's learning rate is FL's, so a small C also means small steps."
)
_FL_CAN_HAVE_IT_TOO: Final = (
    "What a better start, several views or an average win lies in these differences, and FL can have it too: "
    "a difference over FL is no gain from privacy."
)


def title(plan: ComparisonPlan, arms: Sequence[Setting], utility: Sequence[Setting] = ()) -> str:
    """The page's heading: which arms, on what; or what was asked of an honest budget."""
    task = TASKS.get(plan.task, plan.task.replace("_", " ")).split(" in ")[0]
    labels = list(dict.fromkeys(setting.label for setting in arms))
    if utility and len(labels) < 2:
        return f"{capital(task)} at an honest budget"
    return f"{joined(labels)}: {task}" if labels else f"{capital(task)}, compared"


def findings(
    arms: Sequence[SettingSummary],
    metric: Metric,
    aims: Sequence[Target],
    *,
    fixed_at: str = "",
    best_fixed: str = "",
    utility: Sequence[SettingSummary] = (),
) -> tuple[str, ...]:
    """What the arms reached, how evenly, and whether that is what was aimed at.

    Args:
        arms: summaries of group `arms`.
        metric: the leading one.
        aims: as `targets` found them.
        fixed_at: where DP-FL's threshold stands, in words.
        best_fixed: the best point of the curve over it, in words; empty without a curve.
        utility: summaries of group `utility`.
    """
    by_arm = {summary.arm: summary for summary in reversed(arms)}
    by_key: dict[str, Target] = {aim.key: aim for aim in aims}
    found = []
    if fl := by_arm.get("fl"):
        found.append(_reference(fl, metric))
    if adp_fl := by_arm.get("adp-fl"):
        found.append(_adaptive(adp_fl, metric, by_key.get("loss")))
    if dp_fl := by_arm.get("dp-fl"):
        found.append(_fixed(dp_fl, metric, by_key.get("fixed"), fixed_at, best_fixed))
        if best_fixed:
            found.append(_BEST_IS_OPTIMISTIC)
    found += [_other(summary, metric) for summary in arms if summary.arm not in {"fl", "dp-fl", "adp-fl"}]
    if fl and adp_fl:
        found.append(_evenness(adp_fl, by_arm.get("dp-fl"), metric, by_key))
    if utility:
        found += [*(_other(summary, metric) for summary in utility), _FL_CAN_HAVE_IT_TOO]
    return tuple(sentence for sentence in found if sentence)


def privacy_finding(settings: Sequence[Setting]) -> str:
    """Which arms protect a patient, without a figure: each figure stands with its terms further down."""
    by_verdict: dict[str, list[str]] = {}
    for setting in settings:
        by_verdict.setdefault(judged(setting).words, []).append(setting.label)
    if not by_verdict:
        return ""
    told = [
        f"{listed(labels)} {'has' if len(labels) == 1 else 'have'} {words}"
        for words, labels in by_verdict.items()
    ]
    return (
        f"{capital('; '.join(told))}: every ε stands under Privacy, with the terms that give it a meaning. "
        "A nominal ε names the noise and protects nobody by itself."
    )


def best_point(
    points: Sequence[SettingSummary], metric: Metric, name: str, arms: Sequence[SettingSummary] = ()
) -> str:
    """The best point of a curve in words; empty of none.

    For example "at C = 10, the best of five values tried, 0.861 (one run, where the arms have three runs)".

    Args:
        points: of the curve.
        metric: the leading one.
        name: of what is varied.
        arms: whose number of runs is told where the point has fewer.
    """
    known = [(center, point) for point in points if (center := point.figure(metric).center) is not None]
    if len(known) < 2:
        return ""
    best, point = max(known, key=lambda entry: entry[0].mean)
    most = max((center.n for arm in arms if (center := arm.figure(metric).center)), default=best.n)
    beside = f", where the arms have {count(most, 'run')}" if most > best.n else ""
    tried = count(len(known), "value")
    return (
        f"at {name} = {number(point.value or 0.0)}, the best of {tried} tried, {best.mean:.3f} "
        f"({count(best.n, 'run')}{beside})"
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
    limit = f"the {LARGEST_LOSS:.0%} that were aimed at"
    verdict = {
        "reached": f"within {limit}",
        "not reached": f"more than {limit}: this aim was not reached",
        "cannot be told": (f"whether that is within {limit} cannot be told ({loss_doubt(adp_fl, metric)})"),
    }[aim.outcome]
    return f"{told}, {change_words(figure.relative_difference)} FL: {verdict}."


def _fixed(dp_fl: SettingSummary, metric: Metric, aim: Target | None, fixed_at: str, best: str) -> str:
    figure = dp_fl.figure(metric)
    where = f" at {fixed_at}" if fixed_at else ""
    told = f"DP-FL with its threshold fixed{where} reached {reached_words(dp_fl, metric)}"
    if figure.relative_difference is not None:
        told += f", {change_words(figure.relative_difference)} FL{_clearly(dp_fl, metric, aim)}"
    return f"{told}; {best}." if best else f"{told}."


def _clearly(dp_fl: SettingSummary, metric: Metric, aim: Target | None) -> str:
    if aim is None:
        return ""
    if aim.outcome == "cannot be told":
        doubt = loss_doubt(dp_fl, metric)
        return f": whether clearly, by more than {LARGEST_LOSS:.0%}, cannot be told ({doubt})"
    if aim.outcome == "reached":
        return f": clearly, by more than {LARGEST_LOSS:.0%}"
    relative = dp_fl.figure(metric).relative_difference or 0.0
    return ", so here a fixed threshold costs " + (
        "nothing" if relative > -_LEVEL else f"no more than {LARGEST_LOSS:.0%}"
    )


def _other(summary: SettingSummary, metric: Metric) -> str:
    relative = summary.figure(metric).relative_difference
    against = "" if relative is None else f", {change_words(relative)} FL"
    return f"{summary.label} reached {reached_words(summary, metric)}{against}."


def _evenness(
    adp_fl: SettingSummary, dp_fl: SettingSummary | None, metric: Metric, aims: Mapping[str, Target]
) -> str:
    parts = []
    for name in ("patients", "runs"):
        ours: float | None = getattr(adp_fl.variation, f"between_{name}_ratio")
        if ours is None:
            continue
        theirs: float | None = getattr(dp_fl.variation, f"between_{name}_ratio") if dp_fl else None
        beside = "" if theirs is None else f" (DP-FL's {theirs:.2f} times)"
        verdict = f", {_even(ours, aims[name])}" if name in aims else ""
        parts.append(f"between {name} {ours:.2f} times as much as FL's{beside}{verdict}")
    if not parts:
        return ""
    center = adp_fl.figure(metric).center
    few = adp_fl.variation.between_runs_ratio is not None and center is not None and center.n < _FEW_RUNS
    caution = " So few runs say little about the spread between runs." if few else ""
    return f"ADP-FL's {metric.label} varies {'; '.join(parts)}.{caution}"


def _even(ratio: float, aim: Target) -> str:
    limit = f"the {LARGEST_VARIATION:g} times aimed at"
    if aim.outcome == "cannot be told":
        side = leaning(ratio, LARGEST_VARIATION)
        return f"and whether that is within {limit} cannot be told: the estimate alone lies {side}"
    return f"{'within' if aim.outcome == 'reached' else 'above'} {limit}"
