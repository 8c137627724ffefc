"""How arms look in every chart of the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from adpfl.experiment.report.comparison.metrics import Metric

MARKS: Final = {
    "o": "M0-.8a.8 .8 0 1 1 0 1.6a.8 .8 0 1 1 0-1.6z",
    "s": "M-.75-.75h1.5v1.5h-1.5z",
    "^": "M0-.9L.9 .75H-.9z",
    "D": "M0-1L.9 0L0 1L-.9 0z",
    "v": "M0 .9L.9-.75H-.9z",
    "P": "M-.3-.9h.6v.6h.6v.6h-.6v.6h-.6v-.6h-.6v-.6h.6z",
    "X": "M-.9-.5L-.5-.9L0-.4L.5-.9L.9-.5L.4 0L.9 .5L.5 .9L0 .4L-.5 .9L-.9 .5L-.4 0z",
    "p": "M0-.95L.9-.3L.56 .77H-.56L-.9-.3z",
    "h": "M0-.95L.82-.47V.47L0 .95L-.82 .47V-.47z",
}
"""Matplotlib's markers as SVG paths in [-1, 1], for the marks beside names."""


@dataclass(frozen=True)
class ArmStyle:
    """How an arm looks in every chart of the page: the name of a colour, a marker, a line."""

    role: str
    marker: str
    line: str


_KNOWN_STYLES: Final = {
    "fl": ArmStyle("ink", "o", "-"),
    "dp-fl": ArmStyle("site-2", "s", "-"),
    "adp-fl": ArmStyle("site-6", "^", "-"),
    "rigorous": ArmStyle("site-3", "D", "-"),
}
_OTHER_STYLES: Final = (
    ArmStyle("site-7", "v", "-"),
    ArmStyle("site-5", "P", "-"),
    ArmStyle("site-4", "X", "-"),
    ArmStyle("site-1", "p", "-"),
    ArmStyle("site-8", "h", "-"),
)


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """A style for every arm: the published ones always look the same, others take what is left in turn."""
    others = [arm for arm in dict.fromkeys(arms) if arm not in _KNOWN_STYLES]
    styles = {arm: _OTHER_STYLES[place % len(_OTHER_STYLES)] for place, arm in enumerate(others)}
    return _KNOWN_STYLES | styles


@dataclass(frozen=True)
class Look:
    """What all charts of one page share.

    Attributes:
        metric: the leading figure.
        unit: of distances, `mm` or `px`.
        styles: of the arms, by key.
    """

    metric: Metric
    unit: str
    styles: dict[str, ArmStyle]
