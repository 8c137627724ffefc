"""The comparison's charts of arms: over rounds, and over patients.

Arms differ by colour, marker and label. Axes of figures between 0 and 1 always show the whole range, so that
no arm looks better by its scale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from adpfl.experiment.report.comparison.look import ArmStyle, Look
from adpfl.experiment.report.comparison.metrics import Metric
from adpfl.experiment.report.comparison.series import Band, PatientRow
from adpfl.experiment.report.drawing import drawing, quiet, short, spread_apart, to_svg
from adpfl.experiment.report.figures import NARROW, PANEL, WIDE
from adpfl.experiment.report.palette import LIGHT
from adpfl.experiment.report.words import number


@dataclass(frozen=True)
class Format:
    """A place that a chart is drawn for.

    Attributes:
        width: CSS pixels.
        css_class: shown in that place alone; empty where it is shown everywhere.
    """

    width: int
    css_class: str = ""


TELEPHONE = Format(NARROW, "narrow")
DESK = Format(WIDE, "wide")
SITE_PANEL = Format(PANEL)

_FEW_PLACES = 40


def convergence(name: str, bands: Sequence[Band], look: Look, size: Format) -> Markup:
    """The figure over rounds: the mean of the runs as a line, their range as a band."""
    drawn = [band for band in bands if band.places]
    last = max(band.places[-1] for band in drawn)
    with drawing(name, size.width, 280 if size.width < WIDE else 360) as figure:
        axes = figure.subplots()
        quiet(axes)
        for band in drawn:
            style = look.styles[band.arm]
            color = LIGHT[style.role]
            axes.fill_between(band.places, band.low, band.high, color=color, alpha=0.16, linewidth=0)
            axes.plot(
                band.places,
                band.mean,
                color=color,
                linewidth=2,
                linestyle=style.line,
                marker=style.marker,
                markersize=6 if len(band.places) <= _FEW_PLACES else 0,
                markeredgecolor=LIGHT["paper"],
                markeredgewidth=0.8,
                clip_on=False,
            )
        _label_ends(axes, drawn, look)
        axes.set_ylim(0, 1)
        axes.set_xlim(0, max(last, 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6 if size.width < WIDE else 12))
        axes.set_xlabel("round (0 is the initial model)")
        axes.set_title(f"mean {look.metric.label} on held-out patients", loc="left", color=LIGHT["muted"])
        ends = "; ".join(f"{band.label} {band.mean[-1]:.3f}" for band in drawn)
        return to_svg(
            figure,
            description=(
                f"Mean {look.metric.label} over rounds 0 to {last:g}, an arm a line. At the end: {ends}."
            ),
            css_class=size.css_class,
        )


def patients(name: str, rows: Sequence[PatientRow], metric: Metric, look: Look, size: Format) -> Markup:
    """Every held-out patient as a mark, an arm a row, with box and median."""
    height = 58 + (40 if size.width < WIDE else 48) * len(rows)
    with drawing(name, size.width, height) as figure:
        axes = figure.subplots()
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        for place, row in enumerate(rows):
            if row.values:
                _patient_marks(axes, len(rows) - 1 - place, row, look.styles[row.arm])
        if metric.is_distance:
            axes.set_xlim(left=0)
        else:
            axes.set_xlim(0, 1)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        places = [len(rows) - 1 - place for place in range(len(rows))]
        axes.set_yticks(places, [short(row.label, 12) for row in rows])
        axes.tick_params(axis="y", pad=8)
        told = f"{metric.label} of one patient, final model"
        axes.set_xlabel(f"{told}, {look.unit}" if metric.is_distance else told)
        return to_svg(figure, description=_patients_words(rows, metric, look.unit), css_class=size.css_class)


def _patient_marks(axes: Axes, height: int, row: PatientRow, style: ArmStyle) -> None:
    color = LIGHT[style.role]
    axes.boxplot(
        [row.values],
        positions=[height],
        orientation="horizontal",
        widths=0.52,
        manage_ticks=False,
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": "none", "edgecolor": color, "linewidth": 1.2},
        whiskerprops={"color": color, "linewidth": 1.2},
        capprops={"color": color, "linewidth": 1.2},
        medianprops={"color": color, "linewidth": 2.6},
        zorder=4,
    )
    # A fixed, low-discrepancy jitter keeps marks apart and the page the same at every making.
    heights = [height + 0.42 * (math.modf(index * 0.6180339887)[0] - 0.5) for index in range(len(row.values))]
    axes.scatter(
        row.values,
        heights,
        s=16,
        color=color,
        alpha=0.5,
        marker=style.marker,
        linewidths=0,
        clip_on=False,
        zorder=3,
    )


def _label_ends(axes: Axes, bands: Sequence[Band], look: Look) -> None:
    """Name each line at its end and give its last mean, without overlaps."""
    ends = [band.mean[-1] for band in bands]
    for band, end, height in zip(bands, ends, spread_apart(ends, 0.07, 0.03, 0.98), strict=True):
        axes.annotate(
            f"{short(band.label)} {end:.3f}",
            xy=(band.places[-1], end),
            xytext=(10, height),
            textcoords=("offset points", "data"),
            va="center",
            color=LIGHT[look.styles[band.arm].role],
            annotation_clip=False,
        )


def _patients_words(rows: Sequence[PatientRow], metric: Metric, unit: str) -> str:
    told = []
    for row in rows:
        if not row.values:
            told.append(f"{row.label}: no patient has a figure")
            continue
        middle = row.values[len(row.values) // 2]
        told.append(
            f"{row.label}: {len(row.values)} marks from {number(row.values[0])} to {number(row.values[-1])}, "
            f"median about {number(middle)}"
        )
    shown = f"{metric.label} in {unit}" if metric.is_distance else metric.label
    return f"{shown} of each held-out patient under the final model, an arm a row. {'; '.join(told)}."
