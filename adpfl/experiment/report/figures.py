"""The report's charts: Dice or AUROC over rounds, Dice over patients, thresholds and norms over steps.

Dice axes always run from 0 to 1, so that no arm looks better by its scale. Series differ by colour, marker
and label.
"""

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from adpfl.experiment.report.drawing import drawing, quiet, short, spread_apart, to_svg
from adpfl.experiment.report.palette import LIGHT, SITE_MARKERS, site_role
from adpfl.experiment.report.results import SiteResult, Spread, metric_of
from adpfl.experiment.report.words import number
from adpfl.federated.records import StepRecord

NARROW = 352
WIDE = 848
PANEL = 352

ChartAt = Callable[[str, Sequence[SiteResult], int], Markup]
"""A chart by name, results and width in CSS pixels."""

_FEW_ROUNDS = 40


def both_widths(name: str, draw: ChartAt, results: Sequence[SiteResult]) -> Markup:
    """One chart drawn for a telephone and for a desk; the page's style shows one of them."""
    return draw(f"{name}-narrow", results, NARROW) + draw(f"{name}-wide", results, WIDE)


def convergence(name: str, results: Sequence[SiteResult], width: int) -> Markup:
    """Held-out Dice, or AUROC, of the global model at each site, over rounds."""
    evaluated = [result for result in results if _measured(result)]
    metric = "AUROC" if metric_of(results) == "AUROC" else "mean Dice"
    last_round = max(number for result in evaluated for number, _ in _measured(result))
    with drawing(name, width, 260 if width < WIDE else 330) as figure:
        axes = figure.subplots()
        quiet(axes)
        for result in evaluated:
            rounds, values = zip(*_measured(result), strict=True)
            color = LIGHT[site_role(result.position)]
            axes.plot(
                rounds,
                values,
                color=color,
                linewidth=2,
                marker=SITE_MARKERS[result.position % len(SITE_MARKERS)],
                markersize=7 if len(rounds) <= _FEW_ROUNDS else 0,
                markeredgecolor=LIGHT["paper"],
                markeredgewidth=0.8,
                clip_on=False,
            )
        _label_ends(axes, evaluated, last_round)
        axes.set_ylim(0, 1)
        axes.set_xlim(0, max(last_round, 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6 if width < WIDE else 12))
        axes.set_xlabel("round (0 is the initial model)")
        axes.set_title(f"{metric} on held-out patients", loc="left", color=LIGHT["muted"])
        ends = "; ".join(f"{r.site} {number(_measured(r)[-1][1])}" for r in evaluated)
        return to_svg(
            figure,
            description=f"{metric} over rounds 0 to {last_round}. At the end: {ends}.",
            css_class="wide" if width >= WIDE else "narrow",
        )


def patients(name: str, results: Sequence[SiteResult], width: int) -> Markup:
    """Every held-out patient's final Dice as a mark, with quartiles and mean, one row a site."""
    rows = [(result, result.final.dice) for result in results if result.final and result.final.dice]
    with drawing(name, width, 56 + (44 if width < WIDE else 50) * len(rows)) as figure:
        axes = figure.subplots()
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        for row, (result, dice) in enumerate(rows):
            _patient_row(axes, len(rows) - 1 - row, result, dice)
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_yticks(
            [len(rows) - 1 - row for row in range(len(rows))],
            [short(result.site, 12 if width < WIDE else 24) for result, _ in rows],
        )
        axes.set_xlabel("Dice of one patient, final model")
        ranges = "; ".join(
            f"{result.site}: median {number(dice.quartiles[1])}, "
            f"from {number(dice.lowest)} to {number(dice.highest)}"
            for result, dice in rows
        )
        return to_svg(
            figure,
            description=f"Dice of each held-out patient under the final model. {ranges}.",
            css_class="wide" if width >= WIDE else "narrow",
        )


def thresholds(name: str, result: SiteResult, *, top: float, bottom: float) -> Markup:
    """One site's gradient norms and threshold over its steps, with the share that was clipped below.

    Args:
        name: unique in the page.
        result: the site, with at least one step.
        top: upper end of the norm axis, common to all sites' panels.
        bottom: lower end, above 0.
    """
    steps = result.record.steps
    color = LIGHT[site_role(result.position)]
    clipping = any(step.clip_norm is not None for step in steps)
    norms = f"gradient norms ({'L1' if result.record.guarantee.mechanism == 'laplace_l1' else 'L2'})"
    with drawing(name, PANEL, 300 if clipping else 210) as figure:
        if clipping:
            upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
            _clipped_bars(lower, steps, color)
            lower.set_xlabel("local step")
        else:
            upper = figure.subplots()
            upper.set_xlabel("local step")
        _norm_bands(upper, steps)
        places = range(1, len(steps) + 1)
        if clipping:
            clip_norms = [math.nan if step.clip_norm is None else step.clip_norm for step in steps]
            upper.step(places, clip_norms, where="mid", color=color, linewidth=2)
        quiet(upper)
        upper.set_yscale("log")
        upper.set_ylim(bottom, top)
        upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 2)))
        upper.yaxis.set_minor_locator(NullLocator())
        upper.set_xlim(0.5, len(steps) + 0.5)
        upper.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        _round_marks(upper, steps)
        upper.set_title(
            f"threshold C and {norms}" if clipping else f"{norms}; nothing is clipped",
            loc="left",
            color=LIGHT["muted"],
        )
        return to_svg(figure, description=_threshold_words(result))


def norm_range(results: Sequence[SiteResult]) -> tuple[float, float] | None:
    """Axis ends that hold every site's positive norms and thresholds; None where there are none."""
    seen = [
        value
        for result in results
        for step in result.record.steps
        for value in (*step.norm_quantiles, step.clip_norm or 0.0)
        if value > 0 and math.isfinite(value)
    ]
    return (min(seen) / 1.25, max(seen) * 1.25) if seen else None


def _measured(result: SiteResult) -> list[tuple[int, float]]:
    """Rounds with the metric's value, where it is defined."""
    evaluations = result.record.evaluations
    return [(one.round, one.value) for one in evaluations if one.value is not None]


def _label_ends(axes: Axes, evaluated: Sequence[SiteResult], last_round: int) -> None:
    """Name each curve at its end and give its last value, without overlaps."""
    ends = [_measured(result)[-1][1] for result in evaluated]
    for result, end, height in zip(evaluated, ends, spread_apart(ends, 0.075, 0.03, 0.97), strict=True):
        axes.annotate(
            f"{short(result.site)} {end:.3f}",
            xy=(last_round, end),
            xytext=(10, height),
            textcoords=("offset points", "data"),
            va="center",
            color=LIGHT[site_role(result.position)],
            annotation_clip=False,
        )


def _patient_row(axes: Axes, row: int, result: SiteResult, dice: Spread) -> None:
    color = LIGHT[site_role(result.position)]
    low, median, high = dice.quartiles
    axes.barh(row, high - low, left=low, height=0.5, color=color, alpha=0.16, linewidth=0)
    # A fixed, low-discrepancy jitter keeps dots apart and the page the same at every making.
    heights = [row + 0.36 * (math.modf(index * 0.6180339887)[0] - 0.5) for index in range(len(dice.values))]
    axes.scatter(
        dice.values,
        heights,
        s=34,
        color=color,
        marker=SITE_MARKERS[result.position % len(SITE_MARKERS)],
        edgecolors=LIGHT["paper"],
        linewidths=0.6,
        clip_on=False,
        zorder=3,
    )
    axes.vlines(median, row - 0.3, row + 0.3, color=color, linewidth=2.5, zorder=4)


def _norm_bands(axes: Axes, steps: Sequence[StepRecord]) -> None:
    empty = (math.nan,) * 5
    rows = [step.norm_quantiles if len(step.norm_quantiles) == len(empty) else empty for step in steps]
    low, quarter, median, three_quarters, high = zip(*rows, strict=True)
    places = range(1, len(steps) + 1)
    axes.fill_between(places, low, high, step="mid", color=LIGHT["band"], alpha=0.22, linewidth=0)
    axes.fill_between(
        places, quarter, three_quarters, step="mid", color=LIGHT["band"], alpha=0.38, linewidth=0
    )
    axes.step(places, median, where="mid", color=LIGHT["muted"], linewidth=1.2, linestyle=(0, (3, 2)))


def _clipped_bars(axes: Axes, steps: Sequence[StepRecord], color: str) -> None:
    shares = [step.clipped_units / step.units if step.units else 0.0 for step in steps]
    axes.bar(range(1, len(steps) + 1), shares, width=0.8, color=color, alpha=0.55, linewidth=0)
    quiet(axes)
    axes.set_ylim(0, 1)
    axes.set_yticks((0, 0.5, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title("share of gradients clipped", loc="left", color=LIGHT["muted"])


def _round_marks(axes: Axes, steps: Sequence[StepRecord]) -> None:
    """Faint upright lines where a round begins, as long as they can be told apart."""
    starts = [place + 0.5 for place in range(1, len(steps)) if steps[place].round != steps[place - 1].round]
    if len(starts) <= _FEW_ROUNDS:
        for start in starts:
            axes.axvline(start, color=LIGHT["rule"], linewidth=0.8, zorder=0)


def _threshold_words(result: SiteResult) -> str:
    steps = result.record.steps
    clip_norms = [step.clip_norm for step in steps if step.clip_norm is not None]
    if not clip_norms:
        return f"{result.site}: gradient norms over {len(steps)} steps; nothing is clipped."
    return (
        f"{result.site}: threshold C over {len(steps)} steps, from {number(clip_norms[0])} at the first to "
        f"{number(clip_norms[-1])} at the last, between {number(min(clip_norms))} and "
        f"{number(max(clip_norms))}."
    )
