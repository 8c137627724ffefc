"""A comparison's folder into its report: the page, the Markdown, the tables and the record."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adpfl.experiment.comparison.folder import ComparisonFolder, load_comparison
from adpfl.experiment.report import data_words
from adpfl.experiment.report.comparison import (
    guarantees,
    headline,
    panels,
    provenance,
    result_tables,
    setting_tables,
)
from adpfl.experiment.report.comparison.contents import Contents
from adpfl.experiment.report.comparison.csv_tables import TABLES, tables
from adpfl.experiment.report.comparison.definitions import definitions
from adpfl.experiment.report.comparison.document import comparison_record
from adpfl.experiment.report.comparison.gallery import side_by_side
from adpfl.experiment.report.comparison.look import MARKS
from adpfl.experiment.report.comparison.markdown import report_markdown
from adpfl.experiment.report.comparison.settings import Setting
from adpfl.experiment.report.comparison.targets import change_words
from adpfl.experiment.report.overlay_words import overlay_words
from adpfl.experiment.report.privacy_words import Fact
from adpfl.experiment.report.record import write_record
from adpfl.experiment.report.rendering import rendered, write_text

PAGE_FILE = "report.html"
MARKDOWN_FILE = "report.md"
RECORD_FILE = "run.json"


@dataclass(frozen=True)
class GlanceItem:
    """One arm under the heading."""

    arm: str
    term: str
    value: str
    note: str
    grave: bool


def write_comparison(folder: Path) -> None:
    """Write the report of a comparison's folder, as far as its cells have finished.

    Writes `report.html`, `report.md`, `run.json` and the tables of `csv_tables.TABLES` into the folder; each
    file appears whole or not at all. The same cells always give the same files.

    Raises:
        StateError: the plan or a record is absent, unreadable or does not belong with the others.
        IntegrityError: an overlay named by a record is absent or no picture.
    """
    contents = Contents(load_comparison(folder))
    made = tables(contents)
    for name in TABLES:
        if name in made:
            write_text(folder / name, made[name])
        else:
            (folder / name).unlink(missing_ok=True)
    write_record(folder / RECORD_FILE, comparison_record(contents, ComparisonFolder(folder)))
    write_text(folder / MARKDOWN_FILE, report_markdown(contents))
    write_text(folder / PAGE_FILE, render(contents))


def render(contents: Contents) -> str:
    """The whole page."""
    context = (
        _frame(contents) | _results(contents) | _privacy(contents) | _pictures(contents) | _runs(contents)
    )
    return rendered("comparison/comparison.html.j2", context, css=("report.css", "comparison/comparison.css"))


def _frame(contents: Contents) -> dict[str, Any]:
    plan, look = contents.comparison.plan, contents.look
    return {
        "title": headline.title(plan, contents.arms, contents.utility),
        "plan": plan,
        "sentence": provenance.run_sentence(contents),
        "synthetic": data_words.SYNTHETIC if plan.data.synthetic else None,
        "unfinished": provenance.unfinished(contents),
        "glance": _glance(contents),
        "roles": {arm: style.role for arm, style in look.styles.items()},
        "marks": {arm: MARKS[style.marker] for arm, style in look.styles.items()},
        "legend_arms": _legend(contents.arms),
        "curve_arms": _legend(point for curve in contents.curves for point in curve.settings),
        "unit": contents.unit,
        "structures": contents.structures,
    }


def _legend(settings: Iterable[Setting]) -> list[dict[str, str]]:
    names = dict.fromkeys((setting.arm, setting.label) for setting in settings)
    return [{"key": key, "label": label} for key, label in names]


def _glance(contents: Contents) -> list[GlanceItem]:
    """Every arm's leading figure; privacy in words alone, because a figure needs its terms."""
    items = []
    for setting, summary in zip(contents.arms, contents.arm_summaries, strict=True):
        figure = summary.figure(contents.leading)
        verdict = guarantees.judged(setting)
        relative = figure.relative_difference
        against = "" if relative is None else f"{change_words(relative)} FL; "
        items.append(
            GlanceItem(
                arm=setting.arm,
                term=f"{setting.label}, {contents.leading.label}",
                value=result_tables.spread(figure.center, contents.leading),
                note=f"{against}{verdict.words}",
                grave=verdict.grave,
            )
        )
    return items


def _results(contents: Contents) -> dict[str, Any]:
    arms = bool(contents.arms)
    return {
        "findings": contents.findings,
        "nothing_found": headline.NOTHING_FOUND,
        "targets": contents.targets,
        "what_arms_are": provenance.what_arms_are(contents),
        "arms_table": result_tables.arms_table(contents) if arms else None,
        "sites_table": result_tables.sites_table(contents) if arms else None,
        "convergence_table": result_tables.convergence_table(contents) if arms else None,
        "variation_table": result_tables.variation_table(contents) if arms else None,
        "thresholds_table": setting_tables.thresholds_table(contents) if arms else None,
        "utility_table": setting_tables.utility_table(contents) if contents.utility else None,
        "missing": panels.missing_words(contents),
        "definitions": definitions(contents),
    }


def _privacy(contents: Contents) -> dict[str, Any]:
    settings = (*contents.arms, *contents.utility)
    return {
        "privacy": guarantees.arm_privacy(settings),
        "columns": guarantees.privacy_columns(settings),
        "terms": guarantees.terms(settings, contents.note) if settings else (),
        "caveats": guarantees.caveats(settings) if settings else (),
        "words": {
            "if_fixed": setting_tables.IF_FIXED,
            "nominal": setting_tables.NOMINAL,
            "target": setting_tables.TARGET,
        },
    }


def _pictures(contents: Contents) -> dict[str, Any]:
    overlays = overlay_words(contents.structures, data_words.reference_words(contents.note))
    return {
        "convergence": panels.convergence_chart(contents),
        "patients": panels.patients_chart(contents, contents.leading),
        "patient_panels": panels.patient_panels(contents),
        "boundaries": panels.boundaries_chart(contents),
        "cases": side_by_side(contents.arms, wide=overlays.wide),
        "overlays": overlays,
        "threshold_panels": panels.threshold_panels(contents),
        "threshold_runs": panels.threshold_runs(contents),
        "curves": panels.curve_panels(contents),
    }


def _runs(contents: Contents) -> dict[str, Any]:
    plan = contents.comparison.plan
    return {
        "run_facts": provenance.facts(contents),
        "groups_table": provenance.groups_table(contents),
        "versions": provenance.versions(contents),
        "cells_table": provenance.cells_table(contents),
        "options": [Fact(name, value or "none") for name, value in plan.options.items()],
        "files": [
            *(Fact(name, TABLES[name]) for name in tables(contents)),
            Fact(RECORD_FILE, "every input and every figure of this page, as JSON"),
            Fact(MARKDOWN_FILE, "the findings and tables of this page, as Markdown"),
        ],
    }
