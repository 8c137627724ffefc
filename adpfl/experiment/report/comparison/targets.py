"""What was aimed at, what was found, and whether that reaches it: each aim a rule that can fail."""

from collections.abc import Sequence
from typing import Final, Literal

from adpfl.config import FrozenModel
from adpfl.experiment.comparison.folder import CellTiming
from adpfl.experiment.report.comparison.metrics import Metric
from adpfl.experiment.report.comparison.statistics import Difference, Interval, chance_ratio
from adpfl.experiment.report.comparison.summary import FigureSummary, SettingSummary
from adpfl.experiment.report.comparison.verdict import Outcome, at_most, doubt_words, more_than
from adpfl.experiment.report.words import count, duration, joined, number

LARGEST_LOSS: Final = 0.02
"""Of FL's figure, relative: what ADP-FL may lose."""
LARGEST_VARIATION: Final = 1.2
"""Times FL's own coefficient of variation."""
LARGEST_OVERHEAD: Final = 0.05
"""Of the time of all finished runs."""

_TOO_FEW: Final = "needs at least two runs of each arm"


class Target(FrozenModel):
    """One aim and what became of it."""

    key: Literal["loss", "fixed", "patients", "runs", "overhead"]
    aim: str
    found: str
    outcome: Outcome


def targets(
    arms: Sequence[SettingSummary], metric: Metric, timings: Sequence[CellTiming], *, fixed_at: str = ""
) -> tuple[Target, ...]:
    """The aims that this comparison has the arms for.

    Args:
        arms: the settings of group `arms`.
        metric: the leading one.
        timings: of every cell that is over.
        fixed_at: where DP-FL's threshold stands, in words.
    """
    by_arm = {summary.arm: summary for summary in reversed(arms)}
    fl, dp_fl, adp_fl = (by_arm.get(arm) for arm in ("fl", "dp-fl", "adp-fl"))
    found = []
    if fl and adp_fl:
        found.append(_loss(adp_fl, metric))
    if fl and dp_fl:
        found.append(_fixed(dp_fl, metric, fixed_at))
    if fl and adp_fl:
        found.append(_patients(fl, adp_fl, dp_fl, metric))
        found.append(_runs(fl, adp_fl, dp_fl, metric))
    if timings:
        found.append(_overhead(timings))
    return tuple(target for target in found if target is not None)


def loss_doubt(summary: SettingSummary, metric: Metric) -> str:
    """Why the runs do not settle whether an arm is within the largest loss of FL; empty where they do."""
    figure = summary.figure(metric)
    if figure.difference is None or figure.relative_difference is None:
        return ""
    return doubt_words(
        -figure.relative_difference, loss_interval(figure), LARGEST_LOSS, f"{LARGEST_LOSS:.0%} under FL"
    )


def loss_interval(figure: FigureSummary) -> Interval | None:
    """What the arm loses, as a share of FL's figure; negative where it gains. None of a single run."""
    if figure.difference is None or figure.difference.interval is None or not figure.reference:
        return None
    interval = figure.difference.interval
    return Interval(low=-interval.high / figure.reference, high=-interval.low / figure.reference)


def overhead(timings: Sequence[CellTiming]) -> float:
    """Share of all cells' time that was neither local training nor evaluation."""
    total = sum(timing.total_seconds for timing in timings)
    return sum(timing.coordination_seconds for timing in timings) / total if total else 0.0


def all_but_training(timings: Sequence[CellTiming]) -> float:
    """Share of all cells' time that was not local training: evaluation and coordination."""
    total = sum(timing.total_seconds for timing in timings)
    spent = sum(timing.evaluation_seconds + timing.coordination_seconds for timing in timings)
    return spent / total if total else 0.0


def interval_words(difference: Difference) -> str:
    """The interval of a difference with its n, or why there is none."""
    if difference.interval is None:
        return "one run each: no interval"
    return f"95% interval {_between(difference.interval)}, n = {difference.n}"


def _loss(adp_fl: SettingSummary, metric: Metric) -> Target | None:
    figure = adp_fl.figure(metric)
    if figure.relative_difference is None:
        return None
    return Target(
        key="loss",
        aim=f"ADP-FL's {metric.label} at most {LARGEST_LOSS:.0%} under FL's",
        found=_against_fl(adp_fl, metric),
        outcome=at_most(loss_interval(figure), LARGEST_LOSS),
    )


def _fixed(dp_fl: SettingSummary, metric: Metric, fixed_at: str) -> Target | None:
    figure = dp_fl.figure(metric)
    if figure.relative_difference is None:
        return None
    where = f" with {fixed_at}" if fixed_at else ""
    return Target(
        key="fixed",
        aim=f"DP-FL{where} clearly under FL: by more than {LARGEST_LOSS:.0%}",
        found=_against_fl(dp_fl, metric),
        outcome=more_than(loss_interval(figure), LARGEST_LOSS),
    )


def _against_fl(summary: SettingSummary, metric: Metric) -> str:
    figure = summary.figure(metric)
    if figure.difference is None or figure.relative_difference is None:
        return ""
    doubt = f"; {words}" if (words := loss_doubt(summary, metric)) else ""
    return (
        f"{change_words(figure.relative_difference)} FL: {signed(figure.difference.mean)} "
        f"({interval_words(figure.difference)}){doubt}"
    )


def _patients(
    fl: SettingSummary, adp_fl: SettingSummary, dp_fl: SettingSummary | None, metric: Metric
) -> Target | None:
    if metric.key == "auroc":
        return None
    ours = adp_fl.variation
    told = [_variation("FL", fl.variation.between_patients, None)]
    told.append(_variation("ADP-FL", ours.between_patients, ours.between_patients_ratio))
    if dp_fl:
        told.append(
            _variation("DP-FL", dp_fl.variation.between_patients, dp_fl.variation.between_patients_ratio)
        )
    interval = ours.between_patients_interval
    return Target(
        key="patients",
        aim=f"ADP-FL's variation between patients at most {LARGEST_VARIATION:g} times FL's own",
        found=f"{joined(told)}{_ratio_words(ours.between_patients_ratio, interval)}",
        outcome=_ratio_outcome(ours.between_patients_ratio, interval),
    )


def _runs(fl: SettingSummary, adp_fl: SettingSummary, dp_fl: SettingSummary | None, metric: Metric) -> Target:
    ours = adp_fl.variation
    told = [_variation("FL", fl.variation.between_runs, None)]
    told.append(_variation("ADP-FL", ours.between_runs, ours.between_runs_ratio))
    if dp_fl:
        told.append(_variation("DP-FL", dp_fl.variation.between_runs, dp_fl.variation.between_runs_ratio))
    counts = len(adp_fl.figure(metric).by_seed), len(fl.figure(metric).by_seed)
    chance = chance_ratio(*counts)
    by_chance = (
        f"; with {counts[0]} and {counts[1]} runs chance alone makes ratios up to {number(chance, 2)} of "
        "equal spreads"
        if chance
        else ""
    )
    doubt = _ratio_words(ours.between_runs_ratio, ours.between_runs_interval)
    return Target(
        key="runs",
        aim=f"ADP-FL's variation between runs at most {LARGEST_VARIATION:g} times FL's own",
        found=f"{joined(told)}{by_chance}{doubt}" if ours.between_runs_ratio is not None else _TOO_FEW,
        outcome=_ratio_outcome(ours.between_runs_ratio, ours.between_runs_interval),
    )


def _overhead(timings: Sequence[CellTiming]) -> Target:
    """Measured, not estimated: no interval belongs to it."""
    share = overhead(timings)
    total = sum(timing.total_seconds for timing in timings)
    return Target(
        key="overhead",
        aim=(
            f"Coordination under {LARGEST_OVERHEAD:.0%} of the runs' time: everything but local training and "
            "the scoring of held-out patients"
        ),
        found=(
            f"coordination alone {share:.1%}; everything but local training, scoring included, "
            f"{all_but_training(timings):.1%}. The whole is {duration(total)}, the time of "
            f"{count(len(timings), 'run')} added up; start-up, the generation of images and this report lie "
            "outside it"
        ),
        outcome="reached" if share < LARGEST_OVERHEAD else "not reached",
    )


def _variation(label: str, variation: float | None, ratio: float | None) -> str:
    if variation is None:
        return f"{label} unknown"
    times = "" if ratio is None else f" ({ratio:.2f} times FL's)"
    return f"{label} {variation:.1%}{times}"


def _ratio_outcome(ratio: float | None, interval: Interval | None) -> Outcome:
    return at_most(None if ratio is None else interval, LARGEST_VARIATION)


def _ratio_words(ratio: float | None, interval: Interval | None) -> str:
    """The interval of ADP-FL's ratio, and why nothing is settled where nothing is."""
    if ratio is None:
        return ""
    span = f"; ADP-FL's 95% interval {interval.low:.2f} to {interval.high:.2f} times" if interval else ""
    doubt = doubt_words(ratio, interval, LARGEST_VARIATION, f"{LARGEST_VARIATION:g} times")
    return f"{span}; {doubt}" if doubt else span


def change_words(relative: float) -> str:
    """A relative difference as a clause: "0.8% under", "1.2% over", "level with"."""
    share = f"{abs(relative):.1%}"
    if share == "0.0%":
        return "level with"
    return f"{share} {'under' if relative < 0 else 'over'}"


def signed(value: float, decimals: int = 3) -> str:
    """A difference with its sign; the minus is a true one."""
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _between(interval: Interval) -> str:
    return f"{signed(interval.low)} to {signed(interval.high)}"
