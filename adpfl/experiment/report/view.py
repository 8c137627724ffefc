"""The report's rows, tiles and pictures: a joined record turned into exactly what the template shows."""

import base64
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from adpfl.experiment.report import explanation, figures, words
from adpfl.experiment.report.record import JoinedRecord, JoinedRun
from adpfl.experiment.report.results import (
    Scores,
    SiteResult,
    clip_norm_range,
    clipped_share,
    closed_rounds,
    contributors,
    mean_over_sites,
    metric_of,
    scores_by_structure,
    site_results,
)
from adpfl.experiment.report.timeline_words import SERVER
from adpfl.federated.records import CaseScore, ServerRunRecord, TimelineEvent

MAX_OVERLAYS = 24

_CHARTS = {"convergence": figures.convergence, "patients": figures.patients}


@dataclass(frozen=True)
class GlanceItem:
    """One of the few facts under the heading."""

    term: str
    value: str
    note: str = ""
    grave: bool = False


@dataclass(frozen=True)
class StructureRow:
    """One structure at one site, under the final model."""

    site: str
    position: int
    structure: str
    dice: str
    hd95: str
    surface_dice: str
    assd: str


@dataclass(frozen=True)
class PublicRow:
    """What the server knows of one site."""

    site: str
    position: int
    patients: str
    rounds: str


@dataclass(frozen=True)
class Picture:
    """One overlay as it is shown."""

    uri: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """One site's overlays."""

    site: str
    position: int
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Panel:
    """One site's thresholds as they are shown."""

    site: str
    position: int
    note: str
    svg: Markup


def glance(record: JoinedRecord, results: Sequence[SiteResult]) -> list[GlanceItem]:
    """The facts under the heading; privacy is told in words there, because a figure needs its terms."""
    server = record.server
    closed = closed_rounds(server)
    items = []
    final = mean_over_sites(results, lambda result: result.final)
    initial = mean_over_sites(results, lambda result: result.initial)
    if final is not None:
        items.append(
            GlanceItem(
                f"{metric_of(results)}, {_whose(results)}",
                fixed(final),
                f"{optional(initial)} before training",
            )
        )
    items.append(GlanceItem("Rounds", f"{len(closed)} of {server.plan.rounds}", server.status))
    items.append(_sites_item(server))
    verdict = explanation.verdict(server.plan, record.sites)
    where = "its figures and their terms stand below" if record.sites else "its terms stand below"
    items.append(GlanceItem("Privacy", verdict.words, where, grave=verdict.grave))
    return items


def _whose(results: Sequence[SiteResult]) -> str:
    """Whose score the mean is: a site that reports alone knows its own."""
    return "mean of sites" if len(results) > 1 else results[0].site


def public_rows(server: ServerRunRecord) -> list[PublicRow]:
    """What each site declared in public, and in how many rounds' models its updates stand."""
    closed = closed_rounds(server)
    rows = []
    for position, site in enumerate(server.plan.cohort.sites):
        share = sum(site in entry.sites for entry in closed)
        rows.append(
            PublicRow(
                site=site,
                position=position,
                patients=str(server.training_patients.get(site, "did not join")),
                rounds=f"{share} of {len(closed)}" if share else _absence(server, site),
            )
        )
    return rows


def trained_patients(server: ServerRunRecord, result: SiteResult) -> str:
    """Patients whose images the model has seen; none of a site whose updates stand in no round."""
    return str(result.record.training_patients) if result.site in contributors(server) else "none"


def hd95_words(server: ServerRunRecord, results: Sequence[SiteResult]) -> str:
    """What HD95 is and in which unit, as far as the results show one."""
    units = {result.final.hd95_unit for result in results if result.final}
    size = " × ".join(str(side) for side in server.plan.image_size)  # noqa: RUF001 - a multiplication sign
    told = "HD95 is a boundary distance, smaller is better"
    if "px" in units:
        return f"{told}; px are pixels of the image at its original size, not of the network’s {size} input"  # noqa: RUF001 - an apostrophe
    return f"{told}, in millimetres" if units else told


def structure_rows(results: Sequence[SiteResult]) -> list[StructureRow]:
    """The final model structure by structure; none where a task has a single structure."""
    rows = []
    for result in results:
        parts = scores_by_structure(result.record.evaluations[-1]) if result.record.evaluations else ()
        if len(parts) > 1:
            rows += [
                StructureRow(
                    result.site, result.position, name, metric_value(scores), hd95(scores), *_surface(scores)
                )
                for name, scores in parts
            ]
    return rows


def several_structures(results: Sequence[SiteResult]) -> bool:
    """Whether a picture shows more than one structure, and so has panels and a legend of its own."""
    return any(len({score.structure for score in _final_scores(result)}) > 1 for result in results)


def result_notes(results: Sequence[SiteResult]) -> list[str]:
    """What a reader of the result table must know: undefined distances, sites without any evaluation."""
    notes = []
    undefined = [(r.site, r.final.hd95_undefined) for r in results if r.final and r.final.hd95_undefined]
    if undefined:
        told = words.joined([f"{words.count(number, 'patient')} at {site}" for site, number in undefined])
        notes.append(
            f"HD95 is undefined where one of the two masks is empty: {told} under the final model. Such a "
            "miss counts as Dice 0 and is left out of HD95, so read the two together."
        )
    notes += [_crop_note(r) for r in results if r.final and r.final.metric == "AUROC"]
    if silent := [result.site for result in results if result.final is None]:
        notes.append(f"No evaluation was recorded at {words.joined(silent)}.")
    return notes


def _crop_note(result: SiteResult) -> str:
    """What an AUROC is over, and why it may be missing."""
    presences = result.record.evaluations[-1].presences
    crops, shown = sum(one.crops for one in presences), sum(one.shown for one in presences)
    told = f"{result.site}: AUROC over {words.count(crops, 'crop')} that cover the held-out images"
    if shown in {0, crops}:
        return f"{told}; undefined, because {'every' if shown else 'no'} crop shows the structure."
    return f"{told}, {shown} of which show the structure."


def chart(name: str, results: Sequence[SiteResult], possible: bool) -> Markup | None:  # noqa: FBT001 - one condition
    """A chart in both widths, or None where the records hold nothing to draw."""
    return figures.both_widths(name, _CHARTS[name], results) if possible else None


def panels(results: Sequence[SiteResult]) -> list[Panel]:
    """Thresholds and norms, a panel a site, on one common scale."""
    ends = figures.norm_range(results)
    if ends is None:
        return []
    return [
        Panel(
            site=result.site,
            position=result.position,
            note=_panel_note(result),
            svg=figures.thresholds(f"thresholds-{result.position}", result, bottom=ends[0], top=ends[1]),
        )
        for result in results
        if result.record.steps
    ]


def galleries(run: JoinedRun) -> list[Gallery]:
    """Overlays as data URIs, a gallery a site, as many from each as `MAX_OVERLAYS` allows in all."""
    results = site_results(run.record.server, run.record.sites)
    each = max(1, MAX_OVERLAYS // max(1, len(results)))
    shown = []
    for result in results:
        dice_of = _dice_by_case(_final_scores(result))
        pictures = tuple(
            Picture(
                uri="data:image/png;base64," + base64.b64encode(overlay.png).decode("ascii"),
                alt=f"Case {overlay.case} of {result.site}: reference and predicted outline",
                caption=f"Dice {dice_of[overlay.case]:.2f}" if overlay.case in dice_of else overlay.case,
            )
            for overlay in [overlay for overlay in run.overlays if overlay.site == result.site][:each]
        )
        if pictures:
            shown.append(Gallery(site=result.site, position=result.position, pictures=pictures))
    return shown


def events(record: JoinedRecord) -> list[tuple[str, TimelineEvent]]:
    """All timelines with who recorded each event."""
    told = [(SERVER, event) for event in record.server.timeline]
    return told + [(site.site, event) for site in record.sites for event in site.timeline]


def sources(record: JoinedRecord, *, joined_by_owner: bool) -> str:
    """Whose folders the page was made from, and why that was allowed."""
    server, sites = record.server, [site.site for site in record.sites]
    if not sites:
        return "Made from the server's folder alone; no site's private folder was read."
    left_out = [name for name in server.plan.cohort.sites if name not in sites]
    told = f"Made from the server's folder and the private folders of {words.joined(sites)}"
    if left_out:
        told += f"; the folder of {words.joined(left_out)} was not given"
    if joined_by_owner:
        return (
            f"{told}. One person owns all of them, because this is a demonstration on one machine. Between "
            "real hospitals nobody holds these folders together: each site makes its own report, and the "
            "server's shows only what it was allowed to see."
        )
    return (
        f"{told}, by someone who may read them. They hold local scores and norms that the server never sees."
    )


def fixed(value: float) -> str:
    """A score with three decimals."""
    return f"{value:.3f}"


def optional(value: float | None) -> str:
    """A score with three decimals, or a dash."""
    return "–" if value is None else fixed(value)  # noqa: RUF001 - a dash in an empty cell


def metric_value(scores: Scores | None) -> str:
    """Mean Dice, or AUROC, of one evaluation."""
    return optional(scores.value if scores else None)


def hd95(scores: Scores | None) -> str:
    """Mean HD95 of one evaluation with its unit."""
    if scores is None or scores.hd95 is None:
        return "–"  # noqa: RUF001 - a dash in an empty cell
    return f"{words.number(scores.hd95.mean)} {scores.hd95_unit}"


def _surface(scores: Scores) -> tuple[str, str]:
    """Surface Dice, and ASSD with its unit."""
    distance = "–" if scores.assd is None else f"{words.number(scores.assd.mean)} {scores.hd95_unit}"  # noqa: RUF001 - a dash in an empty cell
    return optional(scores.surface_dice.mean if scores.surface_dice else None), distance


def _dice_by_case(scores: Sequence[CaseScore]) -> dict[str, float]:
    """Mean over a case's structures."""
    by_case: dict[str, list[float]] = {}
    for score in scores:
        by_case.setdefault(score.case, []).append(score.dice)
    return {case: statistics.fmean(values) for case, values in by_case.items()}


def _final_scores(result: SiteResult) -> tuple[CaseScore, ...]:
    return result.record.evaluations[-1].scores if result.record.evaluations else ()


def _panel_note(result: SiteResult) -> str:
    ends = clip_norm_range(result.record)
    share = clipped_share(result.record)
    if ends is None:
        return "nothing clipped"
    told = (
        f"C {words.number(ends[0], 2)}"
        if ends[0] == ends[1]
        else f"C {words.number(ends[0], 2)} to {words.number(ends[1], 2)}"
    )
    return told if share is None else f"{told}, {share:.0%} clipped"


def _sites_item(server: ServerRunRecord) -> GlanceItem:
    cohort = server.plan.cohort.sites
    closed = closed_rounds(server)
    if not closed:
        return GlanceItem("Sites", f"{len(server.training_patients)} of {len(cohort)}", "joined")
    trained = contributors(server)
    fewest = min(len(entry.sites) for entry in closed)
    most = max(len(entry.sites) for entry in closed)
    share = f"{most}" if fewest == most else f"{fewest} to {most}"
    notes = [f"{site} {_absence(server, site)}" for site in cohort if site not in trained]
    partial = [entry for entry in closed if set(entry.missing) & set(trained)]
    if partial:
        names = [site for site in trained if any(site in entry.missing for entry in partial)]
        rounds = f"round {partial[0].round}" if len(partial) == 1 else words.count(len(partial), "round")
        notes.append(f"missing {words.joined(names)} in {rounds}")
    return GlanceItem("Sites", f"{share} of {len(cohort)}", "; ".join(notes) or "in every round")


def _absence(server: ServerRunRecord, site: str) -> str:
    """Why a site's update stands in no round, as far as the server knows."""
    refused = any(event.kind == "site_refused" and event.site == site for event in server.timeline)
    return "refused and never trained" if refused else "never took part"
