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
"""Of a picture, in pixels: twice the width at which a desk shows it."""
MOST_PICTURES: Final = 48
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


def side_by_side(arms: Sequence[Setting]) -> tuple[SiteCases, ...]:
    """Cases that every arm's run of one seed has a picture of, in the order in which the runs drew them.

    The first seed with such cases is taken, and never more than `MOST_PICTURES` pictures in all: as many
    cases from each site as that allows.

    Raises:
        IntegrityError: an overlay is no picture.
    """
    seeds = [run.cell.seed for run in arms[0].runs] if arms else []
    for seed in seeds:
        runs = [run for arm in arms for run in arm.runs if run.cell.seed == seed]
        if len(runs) == len(arms) and (found := _of_runs(runs, [arm.label for arm in arms])):
            return found
    return ()


def _of_runs(runs: Sequence[Run], labels: Sequence[str]) -> tuple[SiteCases, ...]:
    sites = [site.site for site in runs[0].sites]
    each = max(1, MOST_PICTURES // (len(runs) * len(sites)))
    shown = []
    for site in sites:
        drawn = [
            {overlay.case: overlay for overlay in run.joined.overlays if overlay.site == site} for run in runs
        ]
        shared = [case for case in drawn[0] if all(case in others for others in drawn)][:each]
        cases = tuple(
            tuple(
                _picture(run, overlays[case], label)
                for run, overlays, label in zip(runs, drawn, labels, strict=True)
            )
            for case in shared
        )
        if cases:
            shown.append(SiteCases(site=site, seed=runs[0].cell.seed, cases=cases))
    return tuple(shown)


def _picture(run: Run, overlay: Overlay, label: str) -> Picture:
    score = _dice(run, overlay)
    told = "" if score is None else f"Dice {score:.2f}"
    return Picture(
        uri="data:image/jpeg;base64," + base64.b64encode(_smaller(overlay)).decode("ascii"),
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


def _smaller(overlay: Overlay) -> bytes:
    try:
        with Image.open(io.BytesIO(overlay.png), formats=("PNG",)) as opened:
            picture = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise IntegrityError(
            f"overlay of case {overlay.case} at {overlay.site} cannot be read as a picture: {error}"
        ) from error
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY, subsampling=_FULL_COLOR, optimize=True)
    return buffer.getvalue()
