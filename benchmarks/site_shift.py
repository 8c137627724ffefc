"""What generated hospitals are worth to each other: a network trained at one, tested at all, beside the pool.

For each profile and for all together a tiny network trains for the same number of steps on most of the
patients; the rest of every profile's patients test it. One row a network, one column a hospital: mean Dice
over structures. A hospital that needs the others shows in its column: the pool's row beats the rest, and
rows of other hospitals fall off.

    python benchmarks/site_shift.py --task kidney_tumor --steps 300 --threads 2
    python benchmarks/site_shift.py --task brain_tumor --steps 200 --json shift.json

Plain stochastic gradient descent without privacy; nothing is written but the optional JSON.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from adpfl.data.grid import Grid
from adpfl.data.synthetic.hospitals import PROFILES, write_hospital
from adpfl.evaluation.metrics import dice
from adpfl.learning.networks import build
from adpfl.learning.plan import NetworkPlan
from adpfl.tasks.registry import get_task
from adpfl.tasks.task import Sample, Task

GRIDS = {
    "skin_lesion": Grid((96, 96)),
    "kidney_tumor": Grid((32, 48, 48), (4.0, 4.0, 4.0)),
    "brain_tumor": Grid((32, 40, 32), (3.0, 3.0, 3.0)),
}
"""Small enough for minutes on a processor."""
POOL = "pool"


@dataclass(frozen=True)
class Hospital:
    """One profile's patients, loaded."""

    training: list[Sample]
    held_out: list[Sample]


@dataclass(frozen=True)
class Schedule:
    """How each network trains."""

    steps: int
    batch: int
    learning_rate: float
    momentum: float
    seed: int


def furnish(task: Task, grid: Grid, cases: int, held_out: int, folder: Path) -> dict[str, Hospital]:
    """Generate and load every profile's hospital."""
    hospitals = {}
    for profile in PROFILES:
        write_hospital(task.name, folder / profile, profile, cases=cases, seed=0)
        samples = [task.load(case, grid) for case in task.read(folder / profile)]
        hospitals[profile] = Hospital(samples[held_out:], samples[:held_out])
    return hospitals


def train(task: Task, grid: Grid, samples: Sequence[Sample], schedule: Schedule) -> nn.Module:
    """A tiny network after the schedule's steps on these samples."""
    model = build(
        NetworkPlan(architecture="unet", size="tiny"),
        spatial_dims=task.spatial_dims,
        in_channels=task.in_channels,
        out_channels=len(task.structures),
        seed=schedule.seed,
    )
    generator = torch.Generator().manual_seed(schedule.seed)
    optimizer = torch.optim.SGD(model.parameters(), schedule.learning_rate, momentum=schedule.momentum)
    for _ in range(schedule.steps):
        drawn = torch.randint(0, len(samples), (schedule.batch,), generator=generator).tolist()
        crops = [task.augment(task.crop(samples[i], grid, generator), generator) for i in drawn]
        logits = model(torch.stack([crop.image.float() for crop in crops]))
        optimizer.zero_grad()
        task.loss(logits, torch.stack([crop.mask for crop in crops])).backward()
        optimizer.step()
    return model.eval()


def test(task: Task, grid: Grid, model: nn.Module, samples: Sequence[Sample]) -> list[float]:
    """Mean Dice of each structure, at the grid's spacing."""
    scores = []
    for sample in samples:
        prediction = task.predict(model, sample.image.float(), grid)
        scores.append([dice(found, drawn) for found, drawn in zip(prediction, sample.mask, strict=True)])
    return torch.tensor(scores).mean(dim=0).tolist()


def table(rows: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Mean over structures; a hospital's own network in brackets."""
    lines = ["trained on  " + "".join(f"{profile:>9}" for profile in PROFILES)]
    for name, row in rows.items():
        cells = []
        for profile in PROFILES:
            mean = sum(row[profile]) / len(row[profile])
            cells.append(f"[{mean:.3f}]".rjust(9) if name == profile else f"{mean:.3f} ".rjust(9))
        lines.append(f"{name:<12}" + "".join(cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--task", choices=sorted(GRIDS), default="kidney_tumor")
    parser.add_argument("--cases", type=int, default=16, help="patients a hospital")
    parser.add_argument("--held-out", type=int, default=4, help="of them for the test")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write Dice of every structure here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task, grid = get_task(options.task), GRIDS[options.task]
    schedule = Schedule(options.steps, options.batch, options.learning_rate, options.momentum, options.seed)
    with TemporaryDirectory() as folder:
        hospitals = furnish(task, grid, options.cases, options.held_out, Path(folder))
    pools = {POOL: [sample for one in hospitals.values() for sample in one.training]}
    pools |= {profile: one.training for profile, one in hospitals.items()}
    rows: dict[str, dict[str, list[float]]] = {}
    for name, samples in pools.items():
        started = time.perf_counter()
        model = train(task, grid, samples, schedule)
        seconds = time.perf_counter() - started
        rows[name] = {p: test(task, grid, model, one.held_out) for p, one in hospitals.items()}
        print(f"{name}: {schedule.steps} steps in {seconds:.0f} s", flush=True)
    print(f"\n{task.name}: mean Dice over {', '.join(task.structures)}\n{table(rows)}")
    if options.json is not None:
        options.json.write_text(json.dumps({"structures": task.structures, "dice": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
