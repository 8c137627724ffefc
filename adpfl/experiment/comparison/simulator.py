"""Plays one cell in one process, from its checkpoint where it has one, to its records.

After every round a checkpoint replaces the last, so that a killed process costs at most the round that it was
in. A cell that is over is known by its `timing.json`, which is written last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from adpfl.data.partition import split_held_out
from adpfl.errors import StateError
from adpfl.experiment.comparison.checkpoint import Models, read_checkpoint, write_checkpoint
from adpfl.experiment.comparison.folder import CellFolder, CellTiming, ComparisonFolder
from adpfl.experiment.comparison.plan import CellPlan, ComparisonPlan
from adpfl.experiment.comparison.simulated_site import SimulatedSite
from adpfl.experiment.comparison.simulation import EVALUATION, TRAINING, Simulation
from adpfl.experiment.comparison.software import software_versions
from adpfl.experiment.comparison.stopwatch import TOTAL, Stopwatch
from adpfl.experiment.report.record import SITE_FILE, write_record
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.initial_model import build_network, load_weights, model_layout
from adpfl.learning.networks import TensorLayout, weights_of
from adpfl.tasks.registry import get_task
from adpfl.tasks.task import Task
from adpfl.wire.safetensors_file import read_warm_start


@dataclass(frozen=True)
class Hooks:
    """What a caller hears of a cell, and how it stops one.

    Attributes:
        round_closed: called with the number of closed rounds, at the start and after each checkpoint.
        should_stop: asked before each local step; True ends the cell by `TrainingStoppedError`.
    """

    round_closed: Callable[[int], None] = lambda _rounds: None
    should_stop: Callable[[], bool] = lambda: False


def run_cell(
    folder: ComparisonFolder,
    comparison: ComparisonPlan,
    cell: CellPlan,
    *,
    threads: int = 1,
    hooks: Hooks | None = None,
) -> CellTiming:
    """Bring one cell to its end.

    Training that leaves the finite numbers is an end too: the record then says `failed` and why.

    Args:
        folder: holds the sites' images.
        comparison: the whole plan.
        cell: one of its cells.
        threads: recorded with the timing; the caller sets them.
        hooks: see `Hooks`.

    Raises:
        DataError: an image cannot be read.
        StateError: the checkpoint or the initial model cannot be used, or the disk refuses.
        TrainingStoppedError: a hook said so.
    """
    watch = Stopwatch()
    hooks = hooks or Hooks()
    place = folder.cell(cell.cell)
    place.root.mkdir(parents=True, exist_ok=True)
    run = _open(folder, comparison, cell, watch)
    hooks.round_closed(run.state.rounds_closed)
    run.score_if_due(comparison.evaluate_every_rounds)
    while not run.state.over:
        run.play_round(hooks.should_stop)
        if not run.state.over:
            run.score_if_due(comparison.evaluate_every_rounds)
            write_checkpoint(place.checkpoint, run.checkpoint(), run.models)
        hooks.round_closed(run.state.rounds_closed)
    return _conclude(run, place, watch, threads=threads)


def _open(
    folder: ComparisonFolder, comparison: ComparisonPlan, cell: CellPlan, watch: Stopwatch
) -> Simulation:
    """Read the sites' folders, and go on from the cell's checkpoint or begin."""
    task = get_task(cell.plan.task)
    data = comparison.data
    sites = [
        SimulatedSite(
            name,
            split_held_out(task.read(folder.site_data(name)), data.held_out_fraction, data.split_seed),
            plan=cell.plan,
            task=task,
        )
        for name in data.sites
    ]
    found = read_checkpoint(folder.cell(cell.cell).checkpoint, plan_digest=cell.plan.digest())
    if found is None:
        return Simulation.begin(cell.plan, sites, _first_weights(folder, cell.plan, task), watch)
    checkpoint, models = found
    layout = model_layout(cell.plan, task)
    parts = {part: weights and _in_order(weights, layout) for part, weights in models.parts.items()}
    ordered = Models(_in_order(models.newest, layout), **parts)
    return Simulation.go_on(checkpoint, sites, ordered, watch)


def _first_weights(folder: ComparisonFolder, plan: RunPlan, task: Task) -> dict[str, Tensor]:
    """Random weights, or those of the comparison's initial model where the plan starts warm."""
    if plan.warm_start is None:
        return weights_of(build_network(plan, task))
    if read_warm_start(folder.initial_model) != plan.warm_start:
        raise StateError(f"{folder.initial_model}: is not what run {plan.run} starts from by its plan")
    return load_weights(folder.initial_model, model_layout(plan, task))


def _in_order(weights: dict[str, Tensor], layout: Sequence[TensorLayout]) -> dict[str, Tensor]:
    """Tensors in the network's order; the moments' are the trainable ones alone."""
    return {tensor.name: weights[tensor.name] for tensor in layout if tensor.name in weights}


def _conclude(run: Simulation, place: CellFolder, watch: Stopwatch, *, threads: int) -> CellTiming:
    """Score the final model, write every record and, last of all, the timing."""
    for site in run.plan.cohort.sites:
        place.site(site).mkdir(parents=True, exist_ok=True)
    for record in run.conclude(place.site):
        write_record(place.site(record.site) / SITE_FILE, record)
    write_record(place.record, run.record())
    seconds = watch.seconds()
    training, evaluation, total = (seconds.get(part, 0.0) for part in (TRAINING, EVALUATION, TOTAL))
    timing = CellTiming(
        training_seconds=training,
        evaluation_seconds=evaluation,
        coordination_seconds=max(0.0, total - training - evaluation),
        total_seconds=total,
        starts=run.starts,
        threads=threads,
        software=software_versions(),
    )
    write_record(place.timing, timing)
    place.checkpoint.unlink(missing_ok=True)
    place.progress.unlink(missing_ok=True)
    return timing
