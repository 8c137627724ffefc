"""Held-out scores of a classifier."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from adpfl.data.case import Case
from adpfl.data.grid import Grid
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.evaluate import evaluate
from adpfl.learning.initial_model import build_network
from adpfl.learning.networks import weights_of
from adpfl.learning.presence_scores import presence_on_crops
from adpfl.tasks.task import Sample


class _Bright(nn.Module):
    """The brighter a crop is, the likelier."""

    def forward(self, image: Tensor) -> Tensor:
        return image.mean(dim=tuple(range(1, image.ndim)))[:, None]


@pytest.fixture
def presence_task(blob_task, monkeypatch):
    """Four crops a case; the n-th shows the blob where n is less than the case's number."""

    def crops(sample: Sample, grid: Grid) -> Iterator[Sample]:
        number = int(sample.mask.flatten()[0])
        for place in range(4):
            brightness = float(place < number) if number < 4 else 0.1 * place
            yield Sample(torch.full((1, *grid.size), brightness), torch.tensor([int(place < number)]))

    def load(case: Case, grid: Grid) -> Sample:
        number = int(case.case.rpartition("-")[2])
        return Sample(torch.zeros(1, *grid.size), torch.full((1, *grid.size), number, dtype=torch.uint8))

    monkeypatch.setattr(type(blob_task), "kind", "classification")
    monkeypatch.setattr(blob_task, "load", load)
    monkeypatch.setattr(blob_task, "evaluation_crops", crops)
    return blob_task


def _score(task, plan: RunPlan, cases: list[Case]):
    return presence_on_crops(_Bright(), plan=plan, task=task, cases=cases, round_number=3)


def test_all_crops_are_ranked_together_and_told_case_by_case(presence_task, case_of, plan_of):
    cases = [case_of("case-1", "ann"), case_of("case-3", "bob"), case_of("case-2", "ann")]
    record = _score(presence_task, plan_of(), cases)
    assert (record.round, record.metric, record.value) == (3, "AUROC", 1.0)
    assert record.mean_dice is None
    assert record.scores == ()
    assert [(one.case, one.patient, one.crops, one.shown) for one in record.presences] == [
        ("case-001", "patient-001", 4, 1),
        ("case-002", "patient-002", 4, 3),
        ("case-003", "patient-001", 4, 2),
    ]
    sigmoid = 1 / (1 + torch.e**-1)
    expected = [(sigmoid * shown + 0.5 * (4 - shown)) / 4 for shown in (1, 3, 2)]
    assert [one.mean_probability for one in record.presences] == pytest.approx(expected)


def test_crops_of_one_kind_alone_have_no_auroc(presence_task, case_of, plan_of):
    record = _score(presence_task, plan_of(), [case_of("case-4", "ann")])
    assert record.auroc is None
    assert record.value is None
    assert record.metric == "AUROC"


def test_the_common_evaluation_scores_classifiers_too(presence_task, case_of, plan_of):
    plan = plan_of()
    weights = weights_of(build_network(plan, presence_task))
    seen: list[object] = []
    record = evaluate(
        weights,
        plan=plan,
        task=presence_task,
        cases=[case_of("case-2", "ann")],
        round_number=0,
        on_prediction=lambda *found: seen.append(found),
    )
    assert record.metric == "AUROC"
    assert record.presences[0].shown == 2
    assert seen == []
