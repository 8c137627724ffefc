"""Ordinary training, for weights that a run may start from."""

from collections.abc import Callable

import pytest
import torch

from adpfl.data.case import Case
from adpfl.errors import DataError
from adpfl.learning.initial_model import build_network
from adpfl.learning.local_update import DivergedError
from adpfl.learning.networks import weights_of
from adpfl.learning.plan import NetworkPlan
from adpfl.learning.unsafe_pretraining import pretraining_plan, unsafe_pretrain
from adpfl.tasks.task import Task

CaseOf = Callable[[str, str], Case]


def plan_of(steps: int):
    return pretraining_plan("blobs", NetworkPlan(), image_size=(16, 16), steps=steps, seed=2)


def test_training_lowers_the_loss_and_can_be_repeated(blob_task: Task, case_of: CaseOf) -> None:
    cases = [case_of(f"case-{number}", f"p{number}") for number in range(20)]
    done: list[tuple[int, int]] = []
    plan = plan_of(30)
    torch.manual_seed(1)
    found = unsafe_pretrain(plan, blob_task, cases, progress=lambda *counts: done.append(counts))
    assert done == [(step, 30) for step in range(1, 31)]
    assert sum(found.losses[-5:]) < 0.7 * sum(found.losses[:5])
    initial = weights_of(build_network(plan, blob_task))
    assert list(found.weights) == list(initial)
    torch.manual_seed(2)
    again = unsafe_pretrain(plan, blob_task, cases)
    assert all(torch.equal(found.weights[name], again.weights[name]) for name in initial)


def test_fewer_images_than_a_batch_are_enough(blob_task: Task, case_of: CaseOf) -> None:
    assert len(unsafe_pretrain(plan_of(3), blob_task, [case_of("case-1", "p")]).losses) == 3


def test_no_images_and_bad_images_are_refused(blob_task: Task, case_of: CaseOf) -> None:
    with pytest.raises(DataError, match="no training cases"):
        unsafe_pretrain(plan_of(1), blob_task, [])
    with pytest.raises(DivergedError, match="step 1 of 2: the loss is nan"):
        unsafe_pretrain(plan_of(2), blob_task, [case_of("broken-1", "p")])
