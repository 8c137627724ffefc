"""Ordinary training without any protection, for weights that a run may start from.

Nothing here clips or adds noise: whoever has the weights may learn about the images. The images must be
generated, or public already.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adpfl.config import parse
from adpfl.data.case import Case
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.initial_model import build_network
from adpfl.learning.local_update import DivergedError
from adpfl.learning.networks import weights_of
from adpfl.learning.plan import NetworkPlan
from adpfl.learning.units import TrainingUnits
from adpfl.tasks.task import Task

BATCH_RECORDS = 16
LEARNING_RATE = 3e-3
_RUN = "pretraining"


@dataclass(frozen=True)
class Pretrained:
    """What training without protection gave.

    Attributes:
        weights: by tensor name.
        losses: mean loss of each step's batch.
    """

    weights: dict[str, Tensor]
    losses: tuple[float, ...]


def pretraining_plan(
    task: str,
    network: NetworkPlan,
    *,
    image_size: tuple[int, ...],
    spacing_mm: tuple[float, ...] | None = None,
    steps: int,
    seed: int,
) -> RunPlan:
    """What `unsafe_pretrain` trains, as a plan: no site, no privacy.

    Raises:
        ConfigError: a size breaks a rule.
    """
    document = {
        "run": _RUN,
        "task": task,
        "network": network.model_dump(mode="json"),
        "image_size": list(image_size),
        "spacing_mm": None if spacing_mm is None else list(spacing_mm),
        "rounds": 1,
        "local": {"steps": steps, "learning_rate": LEARNING_RATE},
        "cohort": {"sites": [_RUN], "quorum": 1},
        "privacy": {"mode": "none", "unit": "record", "sampling": {"mode": "full"}},
        "seed": seed,
    }
    return parse(document, RunPlan, source="pretraining")


def unsafe_pretrain(
    plan: RunPlan,
    task: Task,
    cases: Sequence[Case],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Pretrained:
    """Train the plan's network on cases that need no protection; the same arguments give the same weights.

    Adam (Kingma and Ba 2015) with a learning rate that falls along a half cosine to zero, over shuffled
    epochs of batches of at most `BATCH_RECORDS` images, each augmented anew.

    Args:
        plan: as `pretraining_plan` makes it.
        task: the plan's task.
        cases: generated or public; at least one.
        progress: called after each step with (steps done, steps in all).

    Raises:
        DataError: there is no case, or a file cannot be read.
        DivergedError: the loss left the finite numbers.
    """
    units = TrainingUnits(cases, task=task, plan=plan)
    model = build_network(plan, task)
    steps = plan.local.steps
    optimizer = torch.optim.Adam(model.parameters(), lr=plan.local.learning_rate)
    losses: list[float] = []
    for step, indices in zip(range(steps), _batches(len(units), plan.seed), strict=False):
        batch = units.batch(indices, round_number=1, step=step)
        for group in optimizer.param_groups:
            group["lr"] = plan.local.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        loss = task.loss(model(batch.images[:, 0]), batch.masks[:, 0])
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise DivergedError(f"step {step + 1} of {steps}: the loss is {losses[-1]}; must be finite")
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        optimizer.step()
        if progress is not None:
            progress(step + 1, steps)
    return Pretrained(weights_of(model), tuple(losses))


def _batches(records: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Shuffled epochs without end, cut into batches."""
    generator = np.random.default_rng(seed)
    size = min(BATCH_RECORDS, records)
    while True:
        order = generator.permutation(records)
        for start in range(0, records - size + 1, size):
            yield order[start : start + size]
