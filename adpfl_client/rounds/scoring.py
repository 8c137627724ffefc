"""The global model on this site's held-out patients. Every figure and every picture stays at the site."""

from pathlib import Path

import structlog
from torch import Tensor

from adpfl.data.case import Case
from adpfl.federated.records import EvaluationRecord
from adpfl.learning.evaluate import evaluate
from adpfl.learning.initial_model import load_weights
from adpfl_client.local_site import Site
from adpfl_client.rounds.local_run import LocalRun
from adpfl_client.rounds.models import StoredModel

OVERLAY_CASES = 6

log = structlog.get_logger()


def is_due(run: LocalRun, round_number: int, every_rounds: int) -> bool:
    """Whether the model after a round is to be scored now: the initial one, and every so many rounds."""
    if not run.data.held_out or run.recorder.has_evaluation(round_number):
        return False
    return round_number == 0 or (every_rounds > 0 and round_number % every_rounds == 0)


def score(site: Site, run: LocalRun, model: StoredModel) -> None:
    """Score a global model and add the figures to the site's record."""
    cases = _cases(site, run)
    if not cases:
        return
    weights = load_weights(model.path, run.layout)
    evaluation = evaluate(weights, plan=run.plan, task=run.data.task, cases=cases, round_number=model.round)
    run.recorder.add_evaluation(evaluation)
    log.info("model scored", run=run.name, round=model.round, **_told(evaluation))


def score_final(site: Site, run: LocalRun, model: StoredModel) -> None:
    """Score the model that the run publishes, which may be an average, and draw overlays of a few cases."""
    cases = _cases(site, run)
    if not cases:
        return
    drawn: list[str] = []

    def draw(label: str, case: Case, prediction: Tensor) -> None:
        if len(drawn) < OVERLAY_CASES:
            name = f"overlay-{label}.png"
            run.data.task.write_overlay(prediction, case, _in(run.folder, name))
            drawn.append(name)

    evaluation = evaluate(
        load_weights(model.path, run.layout),
        plan=run.plan,
        task=run.data.task,
        cases=cases,
        round_number=model.round,
        on_prediction=draw,
    )
    if run.plan.aggregation.averaging is not None:
        evaluation = evaluation.model_copy(update={"weights": "averaged"})
    run.recorder.add_evaluation(evaluation)
    run.recorder.set_overlays(tuple(drawn))
    log.info("final model scored", run=run.name, round=model.round, **_told(evaluation))


def _told(evaluation: EvaluationRecord) -> dict[str, float | None]:
    key = "auroc" if evaluation.metric == "AUROC" else "mean_dice"
    return {key: None if evaluation.value is None else round(evaluation.value, 4)}


def _cases(site: Site, run: LocalRun) -> tuple[Case, ...]:
    """The held-out cases of patients who are not excluded."""
    excluded = site.ledger.excluded_among({case.patient for case in run.data.held_out})
    return tuple(case for case in run.data.held_out if case.patient not in excluded)


def _in(folder: Path, name: str) -> Path:
    return folder / name
