"""A global model on a site's held-out cases. What is measured here stays at the site."""

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from adpfl.data.case import Case
from adpfl.errors import DataError
from adpfl.federated.records import CaseScore, EvaluationRecord
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.case_labels import case_label, patient_labels
from adpfl.learning.initial_model import build_network
from adpfl.learning.networks import load_into
from adpfl.learning.presence_scores import presence_on_crops
from adpfl.tasks.task import Task

OnPrediction = Callable[[str, Case, Tensor], None]
"""(label, case, predicted mask): the mask is as `Task.write_overlay` takes it."""


def evaluate(
    weights: Mapping[str, Tensor],
    *,
    plan: RunPlan,
    task: Task,
    cases: Sequence[Case],
    round_number: int,
    on_prediction: OnPrediction | None = None,
) -> EvaluationRecord:
    """Score every structure of every held-out case at the mask's original size, or a classifier on crops.

    Args:
        weights: the global model, by tensor name.
        plan: the run's.
        task: the plan's task.
        cases: held out, in a fixed order: their labels go by position.
        round_number: whose result the model is; 0 is the initial model.
        on_prediction: called with each prediction, for overlays; never by a classifier, which has none.

    Raises:
        ModelMismatchError: `weights` is not a set of weights of the plan's network.
        DataError: there are no cases, or a file cannot be read.
    """
    if not cases:
        raise DataError(f"task {task.name}: no held-out cases; at least one is needed to evaluate")
    model = build_network(plan, task)
    load_into(model, weights, source=f"global model of round {round_number}")
    model.eval()
    if task.kind == "classification":
        return presence_on_crops(model, plan=plan, task=task, cases=cases, round_number=round_number)
    patients = patient_labels(cases)
    scores: list[CaseScore] = []
    with torch.inference_mode():
        for position, case in enumerate(cases):
            reference = task.reference(case)
            image = task.load_image(case, plan.grid)
            prediction = task.predict(model, image, plan.grid, size=tuple(reference.mask.shape[1:]))
            label = case_label(position)
            scores += [
                CaseScore(
                    case=label,
                    patient=patients[case.patient],
                    structure=score.structure,
                    dice=score.dice,
                    hd95=score.hd95,
                    hd95_unit=task.distance_unit,
                    assd=score.assd,
                    surface_dice=score.surface_dice,
                )
                for score in task.score(prediction, reference.mask, reference.spacing)
            ]
            if on_prediction is not None:
                on_prediction(label, case, prediction)
    return EvaluationRecord(
        round=round_number, mean_dice=mean_dice_over_patients(scores), scores=tuple(scores)
    )


def mean_dice_over_patients(scores: Sequence[CaseScore]) -> float:
    """Mean Dice in which a patient counts once, however many cases and structures it has."""
    by_patient: dict[str, list[float]] = {}
    for score in scores:
        by_patient.setdefault(score.patient, []).append(score.dice)
    return statistics.fmean(statistics.fmean(values) for values in by_patient.values())
