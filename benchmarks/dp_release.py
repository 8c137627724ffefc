"""Time of one private release: ours against eager PyTorch, Opacus and the machine's own memory.

Every contender clips B gradients of D coordinates to an L2 norm, sums them and adds noise. Runs are
interleaved, so that a busy moment hits all; the table gives medians and the middle half. The floor is two
reads of the gradients and one write of the result, at the bandwidth that torch reaches in the same run.

    python benchmarks/dp_release.py --threads 2 --units 8 --coordinates 5000000 --parts --plot release.png

Opacus is timed where it is installed. On a machine with a GPU, `--device cuda` times with device events.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from adpfl.kernels import ops
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale, Law
from adpfl.kernels.noise_tables import noise_tables

CLIP_NORM = 1.0
MULTIPLIER = 1.0
Contender = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one contender: median and quartiles."""

    name: str
    median: float
    low: float
    high: float


def ours(
    gradients: list[Tensor], law: Law, scale_bits: int, *, key: KeystreamKey, steps: "Steps"
) -> Contender:
    """The fused call."""
    lattice = LatticeScale(scale_bits, 1 << scale_bits)

    def run() -> object:
        return ops.dp_release(
            gradients, clip_norm=CLIP_NORM, lattice=lattice, law=law, key=key, step=steps.next()
        )

    return run


class Steps:
    """Rising steps of one key."""

    def __init__(self) -> None:
        self._next = -1

    def next(self) -> int:
        """The next step."""
        self._next += 1
        return self._next


def eager(gradients: list[Tensor]) -> Contender:
    """What a person writes in PyTorch, with float Laplace noise from torch's generator."""
    noise = torch.distributions.Laplace(
        torch.zeros((), device=gradients[0].device), torch.tensor(MULTIPLIER, device=gradients[0].device)
    )

    def run() -> object:
        squares = [gradient.float().square().sum(dim=1) for gradient in gradients]
        factors = (CLIP_NORM / torch.stack(squares).sum(dim=0).sqrt()).clamp(max=1.0)
        return [
            torch.einsum("b,bd->d", factors, gradient.float()) + noise.sample((gradient.shape[1],))
            for gradient in gradients
        ]

    return run


def opacus(gradients: list[Tensor]) -> Contender:
    """Opacus's clip, accumulate and noise, in secure mode."""
    from opacus.optimizers import DPOptimizer  # noqa: PLC0415 - an optional dependency of this benchmark

    parameters = [torch.nn.Parameter(torch.zeros_like(gradient[0])) for gradient in gradients]
    optimizer = DPOptimizer(
        torch.optim.SGD(parameters, lr=0.0),
        noise_multiplier=MULTIPLIER,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=gradients[0].shape[0],
        secure_mode=True,
    )

    def run() -> object:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad_sample = gradient.detach()  # a fresh tensor: Opacus marks those it has used
            parameter.summed_grad = None
        optimizer.clip_and_accumulate()
        optimizer.add_noise()
        return parameters

    return run


def read(gradients: list[Tensor]) -> Contender:
    """One read of every gradient, as fast as torch reads."""
    return lambda: [torch.sum(gradient) for gradient in gradients]


def parts(gradients: list[Tensor]) -> dict[str, Contender]:
    """Our operator's passes, apart."""
    lattice, device = LatticeScale(20, 1 << 20), gradients[0].device
    dimension = sum(gradient.shape[1] for gradient in gradients)
    total = torch.zeros(dimension, dtype=torch.int64, device=device)
    none = [gradient[:0] for gradient in gradients]
    norms = ops.unit_norms(gradients)
    clip_norm = torch.tensor([CLIP_NORM], dtype=torch.float64, device=device)
    keystream = torch.zeros(5, dtype=torch.int64, device=device)

    def clip(chosen: list[Tensor], of: Tensor) -> Contender:
        return lambda: ops.clip_accumulate_(total, chosen, of, clip_norm=CLIP_NORM, lattice=lattice)

    def noise(law: Law, bits: int) -> Contender:
        tables = noise_tables(law, bits).to(device)
        return lambda: torch.ops.adpfl.release(
            total, clip_norm, keystream, tables, 1 << bits, bits, law == "gaussian"
        )

    return {
        "norms": lambda: ops.unit_norms(gradients),
        "clip and add to int64": clip(gradients, norms),
        "int64 sum read and written": clip(none, norms[:0]),
        "noise, Laplace s=10 (2 words, 2 digits)": noise("laplace", 10),
        "noise, Laplace s=20 (4 words, 3 digits)": noise("laplace", 20),
        "noise, Laplace s=30 (4 words, 4 digits)": noise("laplace", 30),
        "noise, Gaussian s=20": noise("gaussian", 20),
    }


def milliseconds(run: Contender, device: torch.device) -> float:
    """One timed run: by the clock, on a GPU by device events."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def interleaved(contenders: dict[str, Contender], *, repeats: int, device: torch.device) -> list[Timing]:
    """Every contender once a round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats + 1):
        for name, run in contenders.items():
            times[name].append(milliseconds(run, device))
    timings = []
    for name, taken in times.items():
        low, median, high = statistics.quantiles(taken[1:], n=4)
        timings.append(Timing(name, median, low, high))
    return timings


def measure(units: int, coordinates: int, options: argparse.Namespace) -> list[Timing]:
    """All contenders on one shape; the last timing is the floor."""
    device = torch.device(options.device)
    generator = torch.Generator(device=device).manual_seed(0)
    dtype = getattr(torch, options.dtype)
    gradients = [torch.randn(units, coordinates, generator=generator, device=device).to(dtype)]
    with KeystreamKey.fresh() as key:
        steps = Steps()
        contenders = {
            "ours, Laplace": ours(gradients, "laplace", 20, key=key, steps=steps),
            "ours, Gaussian": ours(gradients, "gaussian", 20, key=key, steps=steps),
            "eager PyTorch, float Laplace": eager(gradients),
        }
        if find_spec("opacus"):
            contenders["Opacus, secure mode"] = opacus(gradients)
        if options.parts:
            contenders |= parts(gradients)
        out = torch.empty(coordinates, device=device)
        contenders |= {"one read": read(gradients), "one write": lambda: out.fill_(1.0)}
        timings = interleaved(contenders, repeats=options.repeats, device=device)
    one_read, one_write = timings[-2:]
    floor = [2 * getattr(one_read, at) + getattr(one_write, at) for at in ("median", "low", "high")]
    return [*timings, Timing("floor: two reads, one write", *floor)]


def table(units: int, coordinates: int, timings: list[Timing], itemsize: int) -> str:
    """A Markdown table of one shape."""
    floor = timings[-1].median
    moved = coordinates * (2 * units * itemsize + 4)
    lines = [
        f"### B = {units}, D = {coordinates:,} ({moved / 1e6:,.0f} MB must move)",
        "",
        "| | median ms | middle half | times the floor | GB/s |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for each in timings:
        spread = f"{each.low:.2f} to {each.high:.2f}"
        rate = moved / each.median / 1e6 if each.name.startswith(("ours", "eager", "Opacus", "floor")) else 0
        lines.append(
            f"| {each.name} | {each.median:.2f} | {spread} | {each.median / floor:.2f} | "
            f"{f'{rate:.1f}' if rate else ''} |"
        )
    return "\n".join([*lines, ""])


def plot(results: list[tuple[int, int, list[Timing]]], path: Path) -> None:
    """Time over the floor for each shape, logarithmic."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - only where a plot is wanted

    shown = [each.name for each in results[0][2] if each.name.startswith(("ours", "eager", "Opacus"))]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in shown:
        ratios = [
            next(each.median for each in timings if each.name == name) / timings[-1].median
            for _, _, timings in results
        ]
        axes.plot(range(len(results)), ratios, marker="o", label=name)
    axes.axhline(1.0, color="grey", linewidth=1)
    axes.set_xticks(range(len(results)), [f"B={units}\nD={size:.0e}" for units, size, _ in results])
    axes.set_yscale("log")
    axes.set_ylabel("time / floor")
    axes.legend()
    figure.savefig(path, dpi=150)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[1, 8, 32, 256])
    parser.add_argument("--coordinates", type=int, nargs="+", default=[100_000, 5_000_000, 20_000_000])
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--memory-gb", type=float, default=2.0, help="leave out shapes above this")
    parser.add_argument("--parts", action="store_true", help="time the passes apart as well")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    itemsize = getattr(torch, options.dtype).itemsize
    head = (
        f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}, {options.dtype}, "
        f"{time.strftime('%Y-%m-%d')}; {ops.active_backend()}\n"
        f"`python benchmarks/dp_release.py {' '.join(arguments)}`\n"
    )
    print(head)
    results, texts = [], [head]
    for units in options.units:
        for coordinates in options.coordinates:
            if units * coordinates * itemsize > options.memory_gb * 1e9:
                print(f"B = {units}, D = {coordinates:,} left out: above --memory-gb {options.memory_gb}\n")
                continue
            timings = measure(units, coordinates, options)
            results.append((units, coordinates, timings))
            texts.append(table(units, coordinates, timings, itemsize))
            print(texts[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(texts))
    if options.plot and results:
        plot(results, options.plot)


if __name__ == "__main__":
    main(sys.argv[1:])
