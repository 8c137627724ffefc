"""The report page: one HTML file that loads nothing, runs no script and escapes every name it was given."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from adpfl.evaluation.overlays import PREDICTION_COLOR, REFERENCE_COLOR
from adpfl.experiment.report import data_words, mechanism_words, privacy_words, timeline_words, view, words
from adpfl.experiment.report.explanation import explanation
from adpfl.experiment.report.guarantee_table import guarantee_rows, privacy_columns
from adpfl.experiment.report.next_steps import next_steps
from adpfl.experiment.report.palette import site_role
from adpfl.experiment.report.record import JoinedRun
from adpfl.experiment.report.rendering import css_color, rendered, write_text
from adpfl.experiment.report.results import clip_norm_range, mean_over_sites, metric_of, site_results
from adpfl.experiment.report.training_words import beyond_sentence


def render(run: JoinedRun, *, joined_by_owner: bool = False) -> str:
    """The whole page.

    Args:
        run: the joined record and its overlays; without any site the page is the server's own report.
        joined_by_owner: whether the sites' folders were joined because one person owns them all, as in a
            demonstration.
    """
    return rendered("report.html.j2", _context(run, joined_by_owner=joined_by_owner), css=("report.css",))


def write_page(path: Path, run: JoinedRun, *, joined_by_owner: bool = False) -> None:
    """Write the page; the file appears whole or not at all."""
    write_text(path, render(run, joined_by_owner=joined_by_owner))


def _context(run: JoinedRun, *, joined_by_owner: bool) -> dict[str, Any]:
    record = run.record
    server, plan = record.server, record.server.plan
    results = site_results(server, record.sites)
    guarantees = [(result.site, result.record.guarantee) for result in results]
    timeline = timeline_words.happenings(view.events(record))
    return {
        "title": words.title(server),
        "synthetic": data_words.SYNTHETIC if record.data_note.synthetic else None,
        "role": site_role,
        "fixed": view.fixed,
        "metric": metric_of(results),
        "metric_value": view.metric_value,
        "hd95": view.hd95,
        "hd95_words": view.hd95_words(server, results),
        "trained_patients": partial(view.trained_patients, server),
        "public_rows": view.public_rows(server),
        "server": server,
        "plan": plan,
        "sentence": f"{words.run_sentence(server)} {beyond_sentence(server.plan)}".rstrip(),
        "ending": words.ending(server),
        "glance": view.glance(record, results),
        "results": results,
        "mean_initial": view.optional(mean_over_sites(results, lambda result: result.initial)),
        "mean_final": view.optional(mean_over_sites(results, lambda result: result.final)),
        "structures": view.structure_rows(results),
        "several_structures": view.several_structures(results),
        "result_notes": view.result_notes(results),
        "convergence": view.chart(
            "convergence", results, any(r.final and r.final.value is not None for r in results)
        ),
        "patients": view.chart("patients", results, any(r.final and r.final.dice for r in results)),
        "galleries": view.galleries(run),
        "reference_words": data_words.reference_words(record.data_note),
        "reference_color": css_color(REFERENCE_COLOR),
        "prediction_color": css_color(PREDICTION_COLOR),
        "guarantees": guarantee_rows(results),
        "columns": privacy_columns(results),
        "explanation": explanation(plan, record.sites),
        "noise_sentence": mechanism_words.noise_sentence(plan),
        "facts": privacy_words.facts(guarantees, record.data_note)
        if guarantees
        else privacy_words.plan_facts(plan, record.data_note),
        "caveats": (*privacy_words.wasted(plan, guarantees), *privacy_words.caveats(guarantees)),
        "panels": view.panels(results),
        "clipping": any(clip_norm_range(result.record) for result in results),
        "participation": words.participation(server.rounds, len(plan.cohort.sites)),
        "timeline": timeline_words.shortened(timeline),
        "whole_timeline": timeline,
        "disturbances": timeline_words.disturbances(timeline),
        "next_steps": next_steps(record) if joined_by_owner else (),
        "sources": view.sources(record, joined_by_owner=joined_by_owner),
        "plan_json": json.dumps(plan.model_dump(mode="json"), indent=2, ensure_ascii=False),
    }
