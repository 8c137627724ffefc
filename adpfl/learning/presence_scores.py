"""A classifier on fixed crops of a site's held-out cases."""

import statistics
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from adpfl.data.case import Case
from adpfl.evaluation.ranking import auroc
from adpfl.federated.records import EvaluationRecord, PresenceScore
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.case_labels import case_label, patient_labels
from adpfl.tasks.task import Sample, Task

_CROPS_AT_ONCE: Final = 16


def presence_on_crops(
    model: nn.Module, *, plan: RunPlan, task: Task, cases: Sequence[Case], round_number: int
) -> EvaluationRecord:
    """Rank all crops of all held-out cases by the model's probability.

    Args:
        model: in evaluation mode; maps crops to logits (n, structures).
        plan: the run's.
        task: a classification task.
        cases: held out, in a fixed order: their labels go by position.
        round_number: whose result the model is.

    Raises:
        DataError: a file cannot be read, or a case has no mask.
    """
    patients = patient_labels(cases)
    answered = []
    presences: list[PresenceScore] = []
    for position, case in enumerate(cases):
        crops = list(task.evaluation_crops(task.load(case, plan.grid), plan.grid))
        probabilities = _probabilities(model, crops)
        shown = torch.stack([crop.mask for crop in crops])
        answered.append((probabilities, shown))
        presences += [
            PresenceScore(
                case=case_label(position),
                patient=patients[case.patient],
                structure=structure,
                crops=len(crops),
                shown=int(shown[:, channel].sum()),
                mean_probability=float(probabilities[:, channel].mean()),
            )
            for channel, structure in enumerate(task.structures)
        ]
    every, truth = (torch.cat(parts) for parts in zip(*answered, strict=True))
    areas = [auroc(every[:, channel], truth[:, channel]) for channel in range(len(task.structures))]
    defined = [area for area in areas if area is not None]
    return EvaluationRecord(
        round=round_number,
        mean_dice=None,
        scores=(),
        auroc=statistics.fmean(defined) if defined else None,
        presences=tuple(presences),
    )


def _probabilities(model: nn.Module, crops: Sequence[Sample]) -> Tensor:
    """(n, structures), a few crops at a time."""
    with torch.inference_mode():
        return torch.cat(
            [
                torch.sigmoid(
                    model(torch.stack([crop.image for crop in crops[start : start + _CROPS_AT_ONCE]])).float()
                )
                for start in range(0, len(crops), _CROPS_AT_ONCE)
            ]
        )
