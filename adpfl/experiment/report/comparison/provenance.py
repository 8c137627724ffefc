"""What was run, exactly: the command, the cells, what failed, with what software, and where the time went."""

from collections.abc import Sequence

import adpfl
from adpfl.experiment.comparison.folder import CellTiming
from adpfl.experiment.comparison.plan import CellPlan
from adpfl.experiment.report.comparison.contents import Contents
from adpfl.experiment.report.comparison.settings import Setting
from adpfl.experiment.report.comparison.table import RowGroup, Table, table
from adpfl.experiment.report.comparison.targets import all_but_training, overhead
from adpfl.experiment.report.data_words import unit_words
from adpfl.experiment.report.mechanism_words import threshold_sentence
from adpfl.experiment.report.privacy_words import Fact
from adpfl.experiment.report.training_words import beyond_plain_training
from adpfl.experiment.report.words import ARMS, NETWORKS, TASKS, capital, count, count_of, duration, joined
from adpfl.federated.run_plan import RunPlan


def run_sentence(contents: Contents) -> str:
    """What was run, in one or two sentences."""
    plan = contents.comparison.plan
    first = plan.cells[0].plan
    task = TASKS.get(plan.task, f"the task {plan.task}")
    size = " × ".join(str(side) for side in first.image_size)  # noqa: RUF001 - a multiplication sign
    network = f"{first.network.size} {NETWORKS.get(first.network.architecture, first.network.architecture)}"
    rounds = joined([f"{number}" for number in sorted({cell.plan.rounds for cell in plan.cells})])
    patients = sum(plan.data.training_patients.values())
    held_out = sum(plan.data.held_out_patients.values())
    return (
        f"{capital(count(len(plan.data.sites), 'site'))} with {patients} patients to train on and {held_out} "
        f"held out train one {network} for {task} at {size}, in {rounds} rounds of "
        f"{count(first.local.steps, 'local step')} each. "
        f"{capital(count_of(len(contents.settings.runs), len(plan.cells), 'run'))} "
        f"{'is' if len(contents.settings.runs) == 1 else 'are'} finished."
    )


def what_arms_are(contents: Contents) -> tuple[Fact, ...]:
    """Each published arm in words, as far as it was run."""
    return tuple(Fact(setting.label, _arm_words(setting)) for setting in contents.arms if setting.arm in ARMS)


def unfinished(contents: Contents) -> tuple[str, ...]:
    """Every planned cell without a result, by name, with the reason where there is one."""
    comparison = contents.comparison
    failed = [f"{cell} failed: {reason}" for cell, reason in comparison.failed.items()]
    return (*failed, *(f"{cell} has not finished" for cell in comparison.unfinished))


def facts(contents: Contents) -> tuple[Fact, ...]:
    """The inputs that all cells share."""
    plan = contents.comparison.plan
    data = plan.data
    makeshift = unit_words(contents.note)
    seeds = sorted({cell.seed for cell in plan.cells})
    rows = [
        Fact("Task", TASKS.get(plan.task, plan.task)),
        Fact("Images", data.words),
        Fact("Partition", data.partition),
        Fact("Patients", capital(makeshift) if makeshift else "every patient at one site, in one split"),
        Fact(
            "Held out", f"{data.held_out_fraction:.0%} of each site's patients, split seed {data.split_seed}"
        ),
        Fact("Seeds", ", ".join(str(seed) for seed in seeds) + ": of initial weights and augmentation"),
        Fact("Sampling and noise", "drawn from a secret key, anew in every run"),
        Fact("Local training", _local_words(plan.cells[0].plan)),
    ]
    return (*rows, *_recipes(contents))


def _recipes(contents: Contents) -> tuple[Fact, ...]:
    """How the settings of group `utility` differ from the arms."""
    plans = [(setting.label, setting.planned[0].plan) for setting in contents.utility]
    return tuple(
        Fact(label, "; ".join((f"learning rate {plan.local.learning_rate:g}", *beyond_plain_training(plan))))
        for label, plan in plans
    )


def groups_table(contents: Contents) -> Table:
    """Cells and time by group."""
    plan = contents.comparison.plan
    rows = []
    for group in dict.fromkeys(cell.group for cell in plan.cells):
        cells = [cell for cell in plan.cells if cell.group == group]
        rows.append((group.replace("_", " "), *_group_cells(contents, cells)))
    if len(rows) > 1:
        rows.append(("all", *_group_cells(contents, list(plan.cells))))
    return table(
        "Time of the cells one by one: several of them ran beside each other where there were several "
        "workers. Coordination is everything but local training and evaluation. Start-up, the generation of "
        "images and this report lie outside every cell.",
        (
            "Group",
            "Runs finished",
            "Training",
            "Evaluation",
            "Coordination",
            "Coordination's share",
            "All but training",
        ),
        rows,
    )


def versions(contents: Contents) -> tuple[Fact, ...]:
    """Software by name; where cells ran with different versions, all of them."""
    found: dict[str, list[str]] = {}
    for timing in contents.timings:
        for name, version in timing.software.items():
            if version not in found.setdefault(name, []):
                found[name].append(version)
    rows = [Fact(name, ", ".join(several)) for name, several in sorted(found.items())]
    return (*rows, Fact("This page", f"adpfl {adpfl.__version__}"))


def cells_table(contents: Contents) -> Table:
    """Every cell with its seed, its plan's digest and what became of it."""
    comparison = contents.comparison
    groups: dict[str, list[tuple[str, ...]]] = {}
    for cell in comparison.plan.cells:
        groups.setdefault(cell.group.replace("_", " "), []).append(
            (cell.cell, cell.label, str(cell.seed), _state(contents, cell), cell.plan.digest()[:16])
        )
    return Table(
        caption=(
            "The first 16 digits of each plan's SHA-256; comparison.json beside this page holds the plans."
        ),
        columns=("Cell", "Arm", "Seed", "State", "Plan"),
        groups=tuple(RowGroup(heading, tuple(rows)) for heading, rows in groups.items()),
        prose=True,
    )


def _arm_words(setting: Setting) -> str:
    told = ARMS[setting.runs[0].cell.plan.arm]
    threshold = getattr(setting.runs[0].cell.plan.privacy, "threshold", None)
    return told if threshold is None else f"{told}; {threshold_sentence(threshold)}"


def _group_cells(contents: Contents, cells: Sequence[CellPlan]) -> tuple[str, ...]:
    timings = [
        contents.comparison.timings[cell.cell] for cell in cells if cell.cell in contents.comparison.runs
    ]
    return (
        f"{len(timings)} of {len(cells)}",
        duration(_sum(timings, "training_seconds")),
        duration(_sum(timings, "evaluation_seconds")),
        duration(_sum(timings, "coordination_seconds")),
        f"{overhead(timings):.1%}",
        f"{all_but_training(timings):.1%}",
    )


def _sum(timings: Sequence[CellTiming], key: str) -> float:
    return sum(float(getattr(timing, key)) for timing in timings)


def _state(contents: Contents, cell: CellPlan) -> str:
    if cell.cell in contents.comparison.failed:
        return "failed"
    if cell.cell not in contents.comparison.runs:
        return "not finished"
    timing = contents.comparison.timings[cell.cell]
    again = f", started {timing.starts} times" if timing.starts > 1 else ""
    return f"{duration(timing.total_seconds)}{again}"


def _local_words(plan: RunPlan) -> str:
    local = plan.local
    told = f"{count(local.steps, 'step')} a round, learning rate {local.learning_rate:g}"
    if local.momentum:
        told += f", momentum {local.momentum:g} after the release"
    weights = "by their patients" if plan.aggregation.weights == "patients" else "equally"
    return f"{told}; sites are weighted {weights}"
