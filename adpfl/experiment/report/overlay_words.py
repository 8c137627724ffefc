"""What the pictures of held-out cases show, in the colours that their drawers use."""

from collections.abc import Sequence
from dataclasses import dataclass

from adpfl.evaluation.overlays import PREDICTION_COLOR, REFERENCE_COLOR
from adpfl.evaluation.panels import STRUCTURE_COLORS
from adpfl.experiment.report.rendering import css_color
from adpfl.experiment.report.words import capital


@dataclass(frozen=True)
class Outline:
    """A colour and what is outlined in it."""

    color: str
    label: str


@dataclass(frozen=True)
class OverlayWords:
    """How to read a picture.

    Attributes:
        sentence: what it shows; ends without a full stop where outlines follow.
        outlines: the colours.
        wide: whether each picture holds two images beside each other.
    """

    sentence: str
    outlines: tuple[Outline, ...]
    wide: bool


def overlay_words(structures: Sequence[str], reference: str) -> OverlayWords:
    """How to read the pictures of a task with these structures.

    Args:
        structures: one alone is drawn over the image, reference and prediction in two colours; of several
            the reference stands on the left and the prediction on the right, a colour a structure.
        reference: where the reference comes from, as an apposition.
    """
    if len(structures) < 2:
        outlines = (
            Outline(css_color(REFERENCE_COLOR), f"reference, {reference}"),
            Outline(css_color(PREDICTION_COLOR), "prediction"),
        )
        return OverlayWords("Outlines on the image", outlines, wide=False)
    colors = zip(STRUCTURE_COLORS, structures, strict=False)
    return OverlayWords(
        f"One slice of each case, chosen by the reference alone: on the left the reference, {reference}, on "
        "the right the prediction",
        tuple(Outline(css_color(color), capital(name.replace("_", " "))) for color, name in colors),
        wide=True,
    )
