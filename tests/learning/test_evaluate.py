"""Held-out scores of a global model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adpfl.data.case import Case
from adpfl.errors import DataError, ModelMismatchError
from adpfl.evaluation.metrics import dice
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.evaluate import evaluate
from adpfl.learning.initial_model import build_network
from adpfl.learning.networks import weights_of
from adpfl.tasks.task import Task

CaseOf = Callable[[str, str], Case]
PlanOf = Callable[..., RunPlan]


def biased(plan: RunPlan, task: Task, bias: float) -> dict[str, Tensor]:
    """Weights that put every logit at `bias`."""
    weights = weights_of(build_network(plan, task))
    *_, weight, last = weights
    return {**weights, weight: torch.zeros_like(weights[weight]), last: torch.full_like(weights[last], bias)}


def test_scores_are_those_of_the_predictions(blob_task: Task, case_of: CaseOf, plan_of: PlanOf) -> None:
    plan = plan_of()
    cases = [case_of("case-4", "ann"), case_of("case-2", "bob")]
    seen: list[tuple[str, Case, Tensor]] = []
    record = evaluate(
        biased(plan, blob_task, 1.0),
        plan=plan,
        task=blob_task,
        cases=cases,
        round_number=3,
        on_prediction=lambda *found: seen.append(found),
    )
    assert record.round == 3
    assert [score.case for score in record.scores] == ["case-001", "case-002"]
    assert [(label, case) for label, case, _ in seen] == [("case-001", cases[0]), ("case-002", cases[1])]
    for score, (_, case, prediction) in zip(record.scores, seen, strict=True):
        reference = blob_task.reference(case).mask
        assert prediction.shape == reference.shape
        assert bool(prediction.all())
        assert score.structure == "blob"
        assert score.hd95_unit == "px"
        assert score.dice == pytest.approx(dice(prediction[0], reference[0]))
    assert record.mean_dice == pytest.approx(sum(score.dice for score in record.scores) / 2)


def test_a_model_that_finds_nothing_scores_zero(blob_task: Task, case_of: CaseOf, plan_of: PlanOf) -> None:
    plan = plan_of()
    weights = biased(plan, blob_task, -1.0)
    record = evaluate(weights, plan=plan, task=blob_task, cases=[case_of("case-1", "p")], round_number=0)
    assert record.mean_dice == 0.0
    assert record.scores[0].hd95 is None


def test_refusals(blob_task: Task, case_of: CaseOf, plan_of: PlanOf) -> None:
    plan = plan_of()
    weights = weights_of(build_network(plan, blob_task))
    with pytest.raises(DataError, match="task blobs: no held-out cases"):
        evaluate(weights, plan=plan, task=blob_task, cases=[], round_number=1)
    name = next(iter(weights))
    with pytest.raises(ModelMismatchError, match=f"global model of round 1: tensor {name}"):
        evaluate(
            {**weights, name: torch.zeros(1)},
            plan=plan,
            task=blob_task,
            cases=[case_of("case-1", "p")],
            round_number=1,
        )


def test_a_patient_counts_once(blob_task: Task, case_of: CaseOf, plan_of: PlanOf) -> None:
    plan = plan_of()
    weights = weights_of(build_network(plan, blob_task))
    cases = [case_of("case-1", "ann"), case_of("case-2", "ann"), case_of("case-3", "bob")]
    record = evaluate(weights, plan=plan, task=blob_task, cases=cases, round_number=0)
    assert [score.patient for score in record.scores] == ["patient-001", "patient-001", "patient-002"]
    first, second, third = (score.dice for score in record.scores)
    assert record.mean_dice == pytest.approx(((first + second) / 2 + third) / 2)
