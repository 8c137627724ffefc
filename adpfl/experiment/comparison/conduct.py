"""A comparison from an empty folder, or from wherever an earlier start left it, to its report."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adpfl.errors import ConfigError
from adpfl.experiment.comparison.cells import plan_cells
from adpfl.experiment.comparison.choices import Choices
from adpfl.experiment.comparison.claim import claimed, earlier_plan, refuse_strangers
from adpfl.experiment.comparison.folder import Comparison, ComparisonFolder, load_comparison
from adpfl.experiment.comparison.hospitals import furnish, gather
from adpfl.experiment.comparison.plan import ComparisonPlan
from adpfl.experiment.comparison.progress import shown
from adpfl.experiment.comparison.workers import Backend, Outcome, require_backend, run_cells
from adpfl.experiment.report.comparison.page import write_comparison
from adpfl.experiment.report.record import write_record
from adpfl.learning.initial_model import model_layout
from adpfl.tasks.registry import get_task


@dataclass(frozen=True)
class Power:
    """What a comparison may use; it decides no figure, and may change from one start to the next."""

    workers: int
    threads: int = 1
    backend: Backend = "local"


def run_comparison(
    output: Path,
    choices: Choices,
    *,
    command: str,
    power: Power,
    console: Console,
    initial_model: Path | None = None,
) -> tuple[Comparison, tuple[Outcome, ...]]:
    """Make the hospitals, play every cell that is not over, and write the report of all.

    Args:
        output: the comparison's folder.
        choices: what was asked.
        command: what was typed.
        power: what may be used.
        console: where progress is shown.
        initial_model: the weights that cells with a warm start begin with; copied into the folder.

    Returns:
        The comparison as it stands, and how the cells ended that this call played.

    Raises:
        ConfigError: the output folder is another's, in use, or holds another comparison.
        DataError: the given data cannot be used.
    """
    require_backend(power.backend)
    refuse_strangers(output)
    if choices.data is not None and choices.data.resolve().is_relative_to(output.resolve()):
        raise ConfigError(f"--data is {choices.data}; must not lie in --output {output}")
    with claimed(output) as folder:
        plan = earlier_plan(folder, choices) or _begin(folder, choices, command, initial_model)
        waiting = [cell.cell for cell in plan.cells if not folder.cell(cell.cell).is_over]
        ended: list[Outcome] = []
        with shown(console, folder, plan) as display:
            display.say(
                "comparison",
                task=plan.task,
                cells=len(plan.cells),
                over_before=len(plan.cells) - len(waiting),
                workers=power.workers,
                data=plan.data.words,
            )
            outcomes = run_cells(
                folder,
                plan,
                waiting,
                workers=min(power.workers, max(len(waiting), 1)),
                threads=power.threads,
                backend=power.backend,
            )
            for outcome in outcomes:
                ended.append(outcome)
                display.ended(outcome)
        comparison = load_comparison(folder.root)
        if comparison.runs:
            write_comparison(folder.root)
        return comparison, tuple(ended)


def _begin(
    folder: ComparisonFolder, choices: Choices, command: str, initial_model: Path | None
) -> ComparisonPlan:
    """Write data and initial model, then the plan: a folder with a plan has the others.

    Raises:
        ConfigError: the cells' plans do not fit the task; nothing was written.
        DataError: the given data cannot be used.
    """
    shares = gather(choices)
    cells = plan_cells(choices, tuple(share.site for share in shares))
    model_layout(cells[0].plan, get_task(choices.task))  # refuses a size that does not fit the network
    if initial_model is not None:
        shutil.copyfile(initial_model, folder.initial_model)
    plan = ComparisonPlan(
        task=choices.task,
        command=command,
        options=choices.options(),
        data=furnish(shares, choices, folder),
        evaluate_every_rounds=choices.evaluate_every,
        cells=cells,
    )
    write_record(folder.plan, plan)
    return plan
