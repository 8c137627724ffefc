"""Matplotlib figures as inline SVG that belongs to the page: its fonts, its colours, no reference outside.

A figure is drawn at the width in CSS pixels at which it is shown, so that its text keeps the page's size; a
chart that must serve a telephone and a desk is drawn twice.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from adpfl.experiment.report.palette import LIGHT

_POINTS_PER_INCH = 72  # one SVG user unit is one point: at this resolution also one CSS pixel

_FONT = "DejaVu Sans"  # shipped with matplotlib: measures the text that the page sets in its own face

_STYLE: Any = {
    "svg.fonttype": "none",
    "figure.dpi": _POINTS_PER_INCH,
    "savefig.transparent": True,
    "font.family": _FONT,
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "text.color": LIGHT["ink"],
    "text.parse_math": False,
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["rule"],
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.unicode_minus": False,
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["rule"],
    "ytick.color": LIGHT["rule"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.solid_capstyle": "round",
}

_NO_METADATA: dict[str, None] = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@contextmanager
def drawing(name: str, width: int, height: int) -> Iterator[Figure]:
    """A blank figure in the page's style, `width` by `height` CSS pixels; draw inside the context.

    Args:
        name: unique in the page; it salts the identifiers inside the SVG, so that two figures never share
            one.
        width: CSS pixels.
        height: CSS pixels.
    """
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def to_svg(figure: Figure, *, description: str, css_class: str = "") -> Markup:
    """The figure as an inline `<svg>` element; call inside its `drawing` context.

    Args:
        figure: what was drawn.
        description: what a person who does not see it must know; becomes the element's accessible name.
        css_class: classes of the element.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    view_box = _only(re.search(r'viewBox="([\d. ]+)"', text))
    width = round(float(view_box.split()[2]))
    body = text[text.index(">") + 1 :]
    body = body.replace("xlink:href", "href")
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # numbered in each figure anew: two figures would share them
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = body.replace(f"'{_FONT}'", "var(--sans)")
    for role, color in LIGHT.items():
        body = body.replace(color, f"var(--{role})")
    body = re.sub(r"\n\s*", "\n", body)
    opening = (
        f'<svg class="{escape(css_class)}" viewBox="{view_box}" style="max-width: {width}px" '
        f'role="img" aria-label="{escape(description)}">'
    )
    return Markup(opening + body)  # noqa: S704 - matplotlib escaped the text, the attributes are escaped here


def quiet(axes: Axes) -> None:
    """Leave the grid as the only guide: no left spine, no ticks on the value axis."""
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def short(name: str, characters: int = 16) -> str:
    """A name cut to what a figure's margin can hold; the tables have it whole."""
    return name if len(name) <= characters else name[: characters - 1] + "…"


def spread_apart(heights: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move label heights apart until neighbours are `gap` away, staying within [low, high] where they fit."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = [0.0] * len(heights)
    floor = low
    for index in order:
        placed[index] = max(heights[index], floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


def _only(match: re.Match[str] | None) -> str:
    assert match is not None, "matplotlib wrote an SVG without a view box"
    return match.group(1)
