"""The comparison's charts of settings: thresholds over steps, and figures over what a group varies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from adpfl.experiment.report.comparison.look import ArmStyle, Look
from adpfl.experiment.report.comparison.metrics import Metric
from adpfl.experiment.report.comparison.series import Band, ThresholdTrace
from adpfl.experiment.report.drawing import drawing, quiet, to_svg
from adpfl.experiment.report.figures import PANEL
from adpfl.experiment.report.palette import LIGHT
from adpfl.experiment.report.words import number

_WIDE_RANGE: Final = 15.0
"""Values that span more than this factor stand on a logarithmic axis."""


def thresholds(
    name: str,
    site: str,
    traces: Sequence[ThresholdTrace],
    look: Look,
    *,
    ends: tuple[float, float],
) -> Markup:
    """Threshold (thick) and median norm (thin, dashed) of each arm at one site, along the steps of one run.

    Args:
        name: unique in the page.
        site: whose steps.
        traces: an arm each.
        look: of the arms.
        ends: of the norm axis, common to all sites' charts; the lower one above 0.
    """
    with drawing(name, PANEL, 250) as figure:
        axes = figure.subplots()
        quiet(axes)
        for trace in traces:
            color = LIGHT[look.styles[trace.arm].role]
            axes.plot(
                trace.places,
                _gaps(trace.medians),
                color=color,
                linewidth=1.1,
                linestyle=(0, (3, 2)),
                alpha=0.85,
            )
            if any(clip_norm is not None for clip_norm in trace.clip_norms):
                axes.plot(trace.places, _gaps(trace.clip_norms), color=color, linewidth=2.2)
        axes.set_yscale("log")
        axes.set_ylim(*ends)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ends[1] / ends[0] < 200 else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 2)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlim(0.5, max(trace.places[-1] for trace in traces) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_xlabel("local step")
        axes.set_title("threshold C and median norm", loc="left", color=LIGHT["muted"])
        return to_svg(figure, description=_thresholds_words(site, traces))


def norm_ends(traces: Sequence[ThresholdTrace]) -> tuple[float, float] | None:
    """Axis ends that hold every positive norm and threshold; None where there is none."""
    seen = [
        value
        for trace in traces
        for value in (*trace.clip_norms, *trace.medians)
        if value is not None and value > 0 and math.isfinite(value)
    ]
    return (min(seen) / 1.3, max(seen) * 1.3) if seen else None


@dataclass(frozen=True)
class CurveAxis:
    """The axis that a group of settings varies along.

    Attributes:
        title: what is varied, in words.
        label: under the axis.
        own: the values at which the arms themselves were compared, by arm.
    """

    title: str
    label: str
    own: dict[str, float]


def curve(
    name: str,
    bands: Sequence[Band],
    reference: Band | None,
    axis: CurveAxis,
    look: Look,
) -> Markup:
    """The final figure over what a group varies; the reference lies across as a line.

    Args:
        name: unique in the page.
        bands: an arm each.
        reference: FL's figure at its one place, drawn over the whole width; None without one.
        axis: what is varied.
        look: of the arms.
    """
    with drawing(name, PANEL, 290) as figure:
        axes = figure.subplots()
        quiet(axes)
        if reference is not None:
            axes.axhspan(reference.low[0], reference.high[0], color=LIGHT["band"], alpha=0.25, linewidth=0)
            axes.axhline(reference.mean[0], color=LIGHT["ink"], linewidth=1.2, linestyle=(0, (5, 3)))
            axes.annotate(
                f"{reference.label} {reference.mean[0]:.3f}",
                xy=(1.0, reference.mean[0]),
                xycoords=("axes fraction", "data"),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                color=LIGHT["ink"],
                annotation_clip=False,
            )
        for band in bands:
            _curve_line(axes, band, look.styles[band.arm], axis.own.get(band.arm))
        places = sorted({place for band in bands for place in band.places})
        if places[0] > 0 and places[-1] / places[0] > _WIDE_RANGE:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(FixedLocator(_few(places)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 2)))
        axes.margins(x=0.08)
        axes.set_ylim(0, 1)
        axes.set_xlabel(axis.label)
        axes.set_title(f"final mean {look.metric.label}", loc="left", color=LIGHT["muted"])
        return to_svg(figure, description=_curve_words(bands, reference, axis, look.metric))


def _curve_line(axes: Axes, band: Band, style: ArmStyle, own: float | None) -> None:
    color = LIGHT[style.role]
    axes.vlines(band.places, band.low, band.high, color=color, linewidth=1.6, alpha=0.6)
    axes.plot(
        band.places,
        band.mean,
        color=color,
        linewidth=1.8,
        linestyle=style.line,
        marker=style.marker,
        markersize=7,
        markeredgecolor=LIGHT["paper"],
        markeredgewidth=0.8,
        clip_on=False,
    )
    if own in band.places:
        place = band.places.index(own)
        axes.plot(
            own,
            band.mean[place],
            marker="o",
            markersize=15,
            markerfacecolor="none",
            markeredgecolor=color,
            markeredgewidth=1.4,
            clip_on=False,
        )


def _few(places: Sequence[float], most: int = 7) -> list[float]:
    """At most so many of the places, the ends among them."""
    if len(places) <= most:
        return list(places)
    return [places[round(index * (len(places) - 1) / (most - 1))] for index in range(most)]


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _thresholds_words(site: str, traces: Sequence[ThresholdTrace]) -> str:
    told = []
    for trace in traces:
        clip_norms = [value for value in trace.clip_norms if value is not None]
        if clip_norms:
            told.append(
                f"{trace.label}: threshold from {number(clip_norms[0])} at first to "
                f"{number(clip_norms[-1])} at last"
            )
        else:
            told.append(f"{trace.label}: nothing is clipped")
    return f"{site}: thresholds and median gradient norms over local steps. {'; '.join(told)}."


def _curve_words(bands: Sequence[Band], reference: Band | None, axis: CurveAxis, metric: Metric) -> str:
    told = [
        f"{band.label}: "
        + ", ".join(
            f"{mean:.3f} at {number(place)}" for place, mean in zip(band.places, band.mean, strict=True)
        )
        for band in bands
    ]
    across = "" if reference is None else f" {reference.label} is at {reference.mean[0]:.3f}."
    return f"Final mean {metric.label} by {axis.title}. {'; '.join(told)}.{across}"
