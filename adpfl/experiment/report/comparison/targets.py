"""What was aimed at, what was found, and whether that reaches it: each aim a rule that can fail."""

from collections.abc import Sequence
from typing import Final, Literal

from adpfl.config import FrozenModel
from adpfl.experiment.comparison.folder import CellTiming
from adpfl.experiment.report.comparison.metrics import Metric
from adpfl.experiment.report.comparison.statistics import Difference, Interval, chance_ratio
from adpfl.experiment.report.comparison.summary import SettingSummary
from adpfl.experiment.report.words import count, joined, number

LARGEST_LOSS: Final = 0.02
"""Of FL's figure, relative: what ADP-FL may lose."""
LARGEST_VARIATION: Final = 1.2
"""Times FL's own coefficient of variation."""
LARGEST_OVERHEAD: Final = 0.05
"""Of the time of all finished runs."""

Outcome = Literal["reached", "not reached", "cannot be told"]

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


def doubt_words(adp_fl: SettingSummary, metric: Metric) -> str:
    """Why the interval does not settle whether ADP-FL's loss is small enough; empty where it does."""
    figure = adp_fl.figure(metric)
    difference = figure.difference
    if difference is None or figure.reference is None:
        return ""
    if difference.interval is None:
        return "one run does not settle it"
    limit = -LARGEST_LOSS * figure.reference
    if not difference.interval.low < limit < difference.interval.high:
        return ""
    return f"{count(difference.n, 'pair')} of runs do not settle it: the interval holds the limit"


def overhead(timings: Sequence[CellTiming]) -> float:
    """Share of all cells' time that was neither local training nor evaluation."""
    total = sum(timing.total_seconds for timing in timings)
    return sum(timing.coordination_seconds for timing in timings) / total if total else 0.0


def interval_words(difference: Difference) -> str:
    """The interval of a difference with its n, or why there is none."""
    if difference.interval is None:
        return "one run each: no interval"
    return f"95% interval {_between(difference.interval)}, n = {difference.n}"


def _loss(adp_fl: SettingSummary, metric: Metric) -> Target | None:
    figure = adp_fl.figure(metric)
    if figure.difference is None or figure.relative_difference is None:
        return None
    loss = -figure.relative_difference
    doubt = f"; {words}" if (words := doubt_words(adp_fl, metric)) else ""
    return Target(
        key="loss",
        aim=f"ADP-FL's {metric.label} at most {LARGEST_LOSS:.0%} under FL's",
        found=(
            f"{change_words(figure.relative_difference)} FL: {signed(figure.difference.mean)} "
            f"({interval_words(figure.difference)}){doubt}"
        ),
        outcome="reached" if loss <= LARGEST_LOSS else "not reached",
    )


def _fixed(dp_fl: SettingSummary, metric: Metric, fixed_at: str) -> Target | None:
    figure = dp_fl.figure(metric)
    if figure.difference is None or figure.relative_difference is None:
        return None
    interval = figure.difference.interval
    where = f" with {fixed_at}" if fixed_at else ""
    outcome: Outcome = "cannot be told"
    if interval is not None:
        below = interval.high < 0 and -figure.relative_difference > LARGEST_LOSS
        outcome = "reached" if below else "not reached"
    return Target(
        key="fixed",
        aim=(
            f"DP-FL{where} clearly under FL: by more than {LARGEST_LOSS:.0%}, the whole interval of the "
            "difference below 0"
        ),
        found=(
            f"{change_words(figure.relative_difference)} FL: {signed(figure.difference.mean)} "
            f"({interval_words(figure.difference)})"
        ),
        outcome=outcome,
    )


def _patients(
    fl: SettingSummary, adp_fl: SettingSummary, dp_fl: SettingSummary | None, metric: Metric
) -> Target | None:
    if metric.key == "auroc":
        return None
    ratio = adp_fl.variation.between_patients_ratio
    told = [_variation("FL", fl.variation.between_patients, None)]
    told.append(_variation("ADP-FL", adp_fl.variation.between_patients, ratio))
    if dp_fl:
        told.append(
            _variation("DP-FL", dp_fl.variation.between_patients, dp_fl.variation.between_patients_ratio)
        )
    return Target(
        key="patients",
        aim=f"ADP-FL's variation between patients at most {LARGEST_VARIATION:g} times FL's own",
        found=joined(told),
        outcome=_ratio_outcome(ratio),
    )


def _runs(fl: SettingSummary, adp_fl: SettingSummary, dp_fl: SettingSummary | None, metric: Metric) -> Target:
    ratio = adp_fl.variation.between_runs_ratio
    told = [_variation("FL", fl.variation.between_runs, None)]
    told.append(_variation("ADP-FL", adp_fl.variation.between_runs, ratio))
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
    return Target(
        key="runs",
        aim=f"ADP-FL's variation between runs at most {LARGEST_VARIATION:g} times FL's own",
        found=f"{joined(told)}{by_chance}" if ratio is not None else _TOO_FEW,
        outcome=_ratio_outcome(ratio),
    )


def _overhead(timings: Sequence[CellTiming]) -> Target:
    share = overhead(timings)
    total = sum(timing.total_seconds for timing in timings)
    evaluated = sum(timing.evaluation_seconds for timing in timings) / total if total else 0.0
    return Target(
        key="overhead",
        aim=f"Coordination under {LARGEST_OVERHEAD:.0%} of the time: everything but training and evaluation",
        found=f"{share:.1%} of the time of {count(len(timings), 'run')}; evaluation took {evaluated:.1%}",
        outcome="reached" if share < LARGEST_OVERHEAD else "not reached",
    )


def _variation(label: str, variation: float | None, ratio: float | None) -> str:
    if variation is None:
        return f"{label} unknown"
    times = "" if ratio is None else f" ({ratio:.2f} times FL's)"
    return f"{label} {variation:.1%}{times}"


def _ratio_outcome(ratio: float | None) -> Outcome:
    if ratio is None:
        return "cannot be told"
    return "reached" if ratio <= LARGEST_VARIATION else "not reached"


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
