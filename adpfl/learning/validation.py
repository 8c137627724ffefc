"""Models of one run side by side on a public folder of images and masks: which of them is the best.

The folder must be public. Scores of private images would say something of these images, and no budget is
charged for them here.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from adpfl.errors import DataError
from adpfl.federated.records import EvaluationRecord
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.evaluate import evaluate
from adpfl.learning.initial_model import load_weights, model_layout
from adpfl.tasks.registry import get_task


def score_models(
    plan: RunPlan, models: Sequence[tuple[int, Path]], folder: Path
) -> Iterator[EvaluationRecord]:
    """Score weights files one after the other on every case of a folder.

    Args:
        plan: of the run that made them.
        models: round and safetensors file of each.
        folder: images and masks in a layout of the plan's task.

    Yields:
        One record a model, in order.

    Raises:
        ConfigError: the task is unknown.
        DataError: the folder cannot be read, or has no cases.
        IntegrityError: a weights file is damaged.
        ModelMismatchError: it is not of the plan's network.
    """
    task = get_task(plan.task)
    cases = task.read(folder)
    if not cases:
        raise DataError(f"{folder}: has no cases of task {plan.task}; at least one is needed")
    layout = model_layout(plan, task)
    for number, path in models:
        yield evaluate(load_weights(path, layout), plan=plan, task=task, cases=cases, round_number=number)
