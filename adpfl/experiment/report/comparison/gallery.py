"""The same held-out patients under every arm, side by side, small enough to be shown in the page."""

import base64
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, UnidentifiedImageError

from adpfl.errors import IntegrityError
from adpfl.experiment.report.comparison.settings import Run, Setting
from adpfl.experiment.report.record import Overlay

LONGEST_SIDE: Final = 288
"""Of a picture, in pixels: more than the width at which a desk shows it."""
LONGEST_WIDE_SIDE: Final = 640
"""Of a picture that holds two images beside each other."""
MOST_PICTURES: Final = 48
MOST_WIDE_PICTURES: Final = 36
_QUALITY: Final = 86
_FULL_COLOR: Final = 0
"""JPEG keeps every pixel's colour: halved, thin coloured outlines would fade."""


@dataclass(frozen=True)
class Picture:
    """One case under one arm.

    Attributes:
        uri: the picture itself, as a data URI.
        alt: for a person who does not see it.
        label: of the arm.
        score: Dice of this case in words; empty where the record has none.
    """

    uri: str
    alt: str
    label: str
    score: str


@dataclass(frozen=True)
class SiteCases:
    """One site's cases.

    Attributes:
        site: its name.
        seed: of the runs that the pictures are from.
        cases: an inner tuple a case, in it a picture an arm, in the arms' order.
    """

    site: str
    seed: int
    cases: tuple[tuple[Picture, ...], ...]


def side_by_side(arms: Sequence[Setting], *, wide: bool = False) -> tuple[SiteCases, ...]:
    """Cases that every arm's run of one seed has a picture of, in the order in which the runs drew them.

    The first seed with such cases is taken, and never more than `MOST_PICTURES` pictures in all: as many
    cases from each site as that allows.

    Args:
        arms: a picture of a case each.
        wide: whether each picture holds two images beside each other; fewer of them are shown, larger.

    Raises:
        IntegrityError: an overlay is no picture.
    """
    seeds = [run.cell.seed for run in arms[0].runs] if arms else []
    for seed in seeds:
        runs = [run for arm in arms for run in arm.runs if run.cell.seed == seed]
        if len(runs) == len(arms) and (found := _of_runs(runs, [arm.label for arm in arms], wide=wide)):
            return found
    return ()


def _of_runs(runs: Sequence[Run], labels: Sequence[str], *, wide: bool) -> tuple[SiteCases, ...]:
    sites = [site.site for site in runs[0].sites]
    most, longest = (MOST_WIDE_PICTURES, LONGEST_WIDE_SIDE) if wide else (MOST_PICTURES, LONGEST_SIDE)
    each = max(1, most // (len(runs) * len(sites)))
    shown = []
    for site in sites:
        drawn = [
            {overlay.case: overlay for overlay in run.joined.overlays if overlay.site == site} for run in runs
        ]
        shared = [case for case in drawn[0] if all(case in others for others in drawn)][:each]
        cases = tuple(
            tuple(
                _picture(run, overlays[case], label, longest)
                for run, overlays, label in zip(runs, drawn, labels, strict=True)
            )
            for case in shared
        )
        if cases:
            shown.append(SiteCases(site=site, seed=runs[0].cell.seed, cases=cases))
    return tuple(shown)


def _picture(run: Run, overlay: Overlay, label: str, longest: int) -> Picture:
    score = _dice(run, overlay)
    told = "" if score is None else f"Dice {score:.2f}"
    return Picture(
        uri="data:image/jpeg;base64," + base64.b64encode(_smaller(overlay, longest)).decode("ascii"),
        alt=f"Case {overlay.case} of {overlay.site} under {label}: both outlines. {told}".strip(),
        label=label,
        score=told,
    )


def _dice(run: Run, overlay: Overlay) -> float | None:
    """Mean over the case's structures under the final model."""
    found = [
        score.dice
        for site in run.sites
        if site.site == overlay.site and site.evaluations
        for score in site.evaluations[-1].scores
        if score.case == overlay.case
    ]
    return statistics.fmean(found) if found else None


def _smaller(overlay: Overlay, longest: int) -> bytes:
    try:
        with Image.open(io.BytesIO(overlay.png), formats=("PNG",)) as opened:
            picture = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise IntegrityError(
            f"overlay of case {overlay.case} at {overlay.site} cannot be read as a picture: {error}"
        ) from error
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY, subsampling=_FULL_COLOR, optimize=True)
    return buffer.getvalue()
