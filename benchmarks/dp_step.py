"""Time and memory of one private training step: ours against the plain step and against Opacus.

A private step is per-unit gradients, a percentile clip, exact Laplace noise, the release and the weight
update; the plain step is an ordinary backward pass and SGD over the same network, batch and loss. Opacus
clips to a fixed norm and adds float Gaussian noise, its cheapest setting. Runs are interleaved; the tables
give medians and the middle half.

    python benchmarks/dp_step.py --markdown step.md --plot step.png

Peak memory is that of two steps in a fresh process, over what it held after model and data were there and a
small step had loaded the code: the kernel's high-water mark of resident pages, with an allocator that gives
freed memory back at once. So it holds what the libraries allocate behind torch's back, too.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from memory import RETURNED_AT_ONCE, peak_bytes_over
from timing import Contender, Timing, interleaved, machine
from torch import nn

from adpfl.kernels import ops
from adpfl.kernels.keystream import KeystreamKey
from adpfl.learning.networks import build, dimension, parameter_layout
from adpfl.learning.per_sample import UnitBatch, UnitGradients, units_within
from adpfl.learning.plan import NetworkPlan
from adpfl.privacy.clipping import GradientChunks
from adpfl.privacy.engine import PrivacyEngine
from adpfl.privacy.plan import PaperPrivacy, PercentileThreshold, Sampling
from adpfl.tasks.losses import dice_cross_entropy

LEARNING_RATE = 1e-3
MEMORY_BYTES = 2**30
"""Of which half bounds a chunk, as in a site's agent."""
PLAIN, PLAIN_LAST, PRIVATE = "plain", "plain, channels last", "adpfl, private"
OPACUS_MODES = {"Opacus, hooks": "hooks", "Opacus, functorch": "functorch", "Opacus, expanded weights": "ew"}


@dataclass(frozen=True)
class Case:
    """A network and a batch."""

    architecture: str
    size: str
    units: int
    image: tuple[int, ...]

    @property
    def name(self) -> str:
        """For the tables."""
        return f"{self.architecture} {len(self.image)}D {self.size}"

    def model(self) -> nn.Module:
        """The network with its initial weights."""
        plan = NetworkPlan.model_validate({"architecture": self.architecture, "size": self.size})
        return build(plan, spatial_dims=len(self.image), in_channels=self.channels, out_channels=1, seed=0)

    @property
    def channels(self) -> int:
        """Colours in 2D, one intensity in 3D."""
        return 3 if len(self.image) == 2 else 1

    def batch(self) -> UnitBatch:
        """Random images and masks, one record a unit."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.units, 1, self.channels, *self.image, generator=generator)
        masks = torch.randint(0, 2, (self.units, 1, 1, *self.image), generator=generator).to(torch.uint8)
        return UnitBatch(images, masks, torch.ones(self.units, 1, dtype=torch.bool))


def plain(case: Case, *, channels_last: bool = False) -> Contender:
    """Backward and SGD."""
    model, batch = case.model(), case.batch()
    images, masks = batch.images[:, 0], batch.masks[:, 0]
    if channels_last:
        layout = torch.channels_last if len(case.image) == 2 else torch.channels_last_3d
        model, images = model.to(memory_format=layout), images.contiguous(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad()
        dice_cross_entropy(model(images), masks).backward()
        optimizer.step()

    return step


class PrivateStep:
    """The private step, made of the calls that a site's agent makes; its two parts can be run apart."""

    def __init__(self, case: Case) -> None:
        self._model = case.model()
        self._batch = case.batch()
        self._layout = parameter_layout(self._model)
        self._weights = [self._model.get_parameter(tensor.name) for tensor in self._layout]
        self._chunk_units = units_within(
            MEMORY_BYTES // 2,
            model=self._model,
            records_per_unit=1,
            in_channels=case.channels,
            image_size=case.image,
        )
        plan = PaperPrivacy(
            mode="paper",
            reading="multiplier",
            threshold=PercentileThreshold(method="percentile"),
            sampling=Sampling(mode="full"),
        )
        self._engine = PrivacyEngine(
            plan, unit_count=case.units, dimension=dimension(self._layout), key=KeystreamKey.fresh()
        )

    def __call__(self) -> None:
        """Take one step."""
        self.release(self.gradients())

    def gradients(self) -> UnitGradients:
        """To be computed when they are iterated."""
        return UnitGradients(
            self._model,
            self._batch,
            dice_cross_entropy,
            chunk_units=self._chunk_units,
            keep_bytes=MEMORY_BYTES // 2,
        )

    def release(self, chunks: GradientChunks) -> None:
        """Percentile, clip, noise, weight update."""
        number = self._engine.state.steps_taken
        self._engine.sample(number)
        released = self._engine.release(number, chunks).mean_gradient
        with torch.no_grad():
            pieces = torch.split(released, [tensor.size for tensor in self._layout])
            for weight, piece in zip(self._weights, pieces, strict=True):
                weight.sub_(piece.view_as(weight), alpha=LEARNING_RATE)


def opacus(case: Case, mode: str) -> Contender:
    """Opacus with its way `mode` of taking per-sample gradients."""
    from opacus.grad_sample import wrap_model  # noqa: PLC0415 - an optional dependency of this benchmark
    from opacus.optimizers import DPOptimizer  # noqa: PLC0415

    batch = case.batch()
    images, masks = batch.images[:, 0], batch.masks[:, 0]
    model = wrap_model(case.model(), grad_sample_mode=mode)
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=LEARNING_RATE),
        noise_multiplier=1e-3,
        max_grad_norm=1.0,
        expected_batch_size=case.units,
    )

    def step() -> None:
        optimizer.zero_grad()
        dice_cross_entropy(model(images), masks).backward()
        optimizer.step()

    return step


def contender(case: Case, name: str) -> Contender:
    """One of `names`, ready to run."""
    if name == PRIVATE:
        return PrivateStep(case)
    if name.startswith("Opacus"):
        return opacus(case, OPACUS_MODES[name])
    return plain(case, channels_last=name != PLAIN)


def names() -> list[str]:
    """What can be compared here."""
    return [PLAIN, PLAIN_LAST, PRIVATE, *(OPACUS_MODES if find_spec("opacus") else ())]


def measure_time(case: Case, options: argparse.Namespace) -> tuple[list[Timing], dict[str, str]]:
    """Timings of what runs, and the reason of what does not."""
    ready: dict[str, Contender] = {}
    failed: dict[str, str] = {}
    for name in names():
        try:
            ready[name] = contender(case, name)
            ready[name]()
        except Exception as error:  # noqa: BLE001 - whatever a library fails with is the finding
            ready.pop(name, None)
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:110]}"
    private = ready[PRIVATE]
    assert isinstance(private, PrivateStep)
    chunks = [[tensor.clone() for tensor in chunk] for chunk in private.gradients()]
    ready["of which gradients"] = lambda: list(private.gradients())
    ready["of which clip, noise, update"] = lambda: private.release(chunks)
    return interleaved(ready, repeats=options.repeats, device=torch.device("cpu")), failed


def peak_bytes(case: Case, name: str, threads: int) -> int:
    """Peak memory of a contender's step, measured in a process of its own."""
    described = json.dumps({"case": asdict(case), "name": name, "threads": threads})
    done = subprocess.run(
        [sys.executable, __file__, "--memory-of", described],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **RETURNED_AT_ONCE},
    )
    return int(done.stdout.splitlines()[-1])


def measure_own_memory(described: str) -> int:
    """In that process: bytes above what it held before the first step of the case's size."""
    asked = json.loads(described)
    torch.set_num_threads(asked["threads"])
    case = Case(**{**asked["case"], "image": tuple(asked["case"]["image"])})
    small = replace(case, units=2, image=(32,) * len(case.image))
    contender(small, asked["name"])()
    run = contender(case, asked["name"])
    return peak_bytes_over(run, times=2)


def table(case: Case, timings: list[Timing], failed: dict[str, str], peaks: dict[str, int]) -> str:
    """A Markdown table of one case."""
    coordinates = dimension(parameter_layout(case.model()))
    image = " x ".join(map(str, case.image))
    base = timings[0].median
    lines = [
        f"### {case.name}: {image}, B = {case.units}, D = {coordinates:,}",
        "",
        "| | median ms | middle half | times plain | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for each in timings:
        peak = f"{peaks[each.name] / 2**20:.0f}" if each.name in peaks else ""
        lines.append(
            f"| {each.name} | {each.median:.1f} | {each.spread} | {each.median / base:.2f} | {peak} |"
        )
    lines += [f"| {name} | fails: {reason} | | | |" for name, reason in failed.items()]
    if peaks:
        allowed = 1.5 * peaks[PLAIN] + 4 * case.units * coordinates
        lines += ["", f"1.5 times plain memory plus B D floats: {allowed / 2**20:.0f} MiB."]
    return "\n".join([*lines, ""])


def plot(results: list[tuple[Case, list[Timing]]], path: Path) -> None:
    """Time over the plain step's, for each case."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - only where a plot is wanted

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    width = 0.8 / len(names())
    for index, name in enumerate(names()):
        found = [
            (place, each.median / timings[0].median)
            for place, (_, timings) in enumerate(results)
            for each in timings
            if each.name == name
        ]
        if found:
            places, ratios = zip(*found, strict=True)
            axes.bar(
                [place + (index - len(names()) / 2 + 0.5) * width for place in places],
                ratios,
                width,
                label=name,
            )
    axes.axhline(1.0, color="grey", linewidth=1)
    axes.set_xticks(range(len(results)), [case.name.replace(" ", "\n", 1) for case, _ in results], fontsize=7)
    axes.set_ylabel("time / plain step")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--architectures", nargs="+", choices=["unet", "segresnet"], default=["unet", "segresnet"]
    )
    parser.add_argument("--dimensions", nargs="+", type=int, choices=[2, 3], default=[2, 3])
    parser.add_argument("--sizes", nargs="+", choices=["tiny", "small", "full"], default=["tiny", "small"])
    parser.add_argument("--units-2d", type=int, default=8)
    parser.add_argument("--units-3d", type=int, default=4)
    parser.add_argument("--extent-2d", type=int, default=128)
    parser.add_argument("--extent-3d", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Every combination that was asked for."""
    for architecture in options.architectures:
        for axes in options.dimensions:
            units = options.units_2d if axes == 2 else options.units_3d
            extent = options.extent_2d if axes == 2 else options.extent_3d
            for size in options.sizes:
                yield Case(architecture, size, units, (extent,) * axes)


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    if options.memory_of:
        print(measure_own_memory(options.memory_of))
        return
    torch.set_num_threads(options.threads)
    opacus_version = (
        f"Opacus {version('opacus')}" if find_spec("opacus") else "Opacus left out: not installed"
    )
    head = (
        f"{machine(options.threads)}; {opacus_version}; {ops.active_backend()}\n"
        f"`python benchmarks/dp_step.py {' '.join(arguments)}`\n"
    )
    print(head)
    results, texts = [], [head]
    for case in cases(options):
        timings, failed = measure_time(case, options)
        running = [each.name for each in timings if each.name in names()]
        peaks = (
            {} if options.no_memory else {name: peak_bytes(case, name, options.threads) for name in running}
        )
        results.append((case, timings))
        texts.append(table(case, timings, failed, peaks))
        print(texts[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(texts), encoding="utf-8")
    if options.plot and results:
        plot(results, options.plot)


if __name__ == "__main__":
    main(sys.argv[1:])
