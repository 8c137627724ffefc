"""When a few runs settle whether a figure keeps to a limit: the same rule whichever way it falls."""

from typing import Literal

from adpfl.experiment.report.comparison.statistics import Interval

Outcome = Literal["reached", "not reached", "cannot be told"]


def at_most(interval: Interval | None, limit: float) -> Outcome:
    """Whether a figure is at most a limit, as far as its interval tells.

    Only the whole interval on one side settles it; an estimate alone never does.

    Args:
        interval: of the figure; None where a single run has none.
        limit: in the figure's unit.
    """
    if interval is None or interval.low <= limit < interval.high:
        return "cannot be told"
    return "reached" if interval.high <= limit else "not reached"


def more_than(interval: Interval | None, limit: float) -> Outcome:
    """The contrary of `at_most`: settled exactly where that is."""
    contrary: dict[Outcome, Outcome] = {"reached": "not reached", "not reached": "reached"}
    found = at_most(interval, limit)
    return contrary.get(found, found)


def leaning(estimate: float, limit: float) -> Literal["within", "beyond"]:
    """On which side of a limit the estimate lies."""
    return "within" if estimate <= limit else "beyond"


def doubt_words(estimate: float, interval: Interval | None, limit: float, limit_words: str) -> str:
    """Why nothing is settled, and where the estimate points; empty where something is."""
    if at_most(interval, limit) != "cannot be told":
        return ""
    why = (
        f"one run does not settle it; the limit is {limit_words}"
        if interval is None
        else f"the interval holds the limit, {limit_words}"
    )
    return f"{why}; the estimate lies {leaning(estimate, limit)} it"
