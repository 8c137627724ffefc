"""Time of one private release: ours against eager PyTorch, Opacus and the machine's own memory.

Every contender clips B gradients of D coordinates to an L2 norm, sums them and adds noise. Runs are
interleaved, so that a busy moment hits all; the table gives medians and the middle half. The floor is two
reads of the gradients and one write of the result, at the bandwidth that torch reaches in the same run. Peak
memory is that of our call in a fresh process, over its inputs (see `memory.py`); its output is part of it.

    python benchmarks/dp_release.py --threads 2 --units 8 --coordinates 5000000 --parts --plot release.png

Opacus is timed where it is installed. `--parts` times our passes apart. On a machine with a GPU,
`--device cuda` times with device events.
"""

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from memory import RETURNED_AT_ONCE, peak_bytes_over
from timing import Contender, Timing, interleaved, machine
from torch import Tensor

from adpfl.kernels import ops
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale, Law
from adpfl.kernels.noise_tables import noise_tables

CLIP_NORM = 1.0
MULTIPLIER = 1.0
LARGE_BYTES, LARGE_REPEATS = 10**9, 5
OURS, COMPARED = "ours, Laplace", ("ours", "eager", "Opacus")
COPY, READ, WRITE = "copy of D numbers", "one read", "one write"
FLOOR = "floor: two reads, one write"
CONVERTED = "int64 sum read, float32 written"
LAPLACE_20 = "noise, Laplace s=20 (4 words, 3 digits)"
LAPLACE_30 = "noise, Laplace s=30 (4 words, 4 digits)"


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


def bandwidth(gradients: list[Tensor]) -> dict[str, Contender]:
    """What the machine can do: a read, a copy of as many bytes, and a write of the result's size."""
    flat = torch.cat([gradient[0] for gradient in gradients])
    out, twin = torch.empty(flat.numel(), device=flat.device), torch.empty_like(flat)
    return {
        COPY: lambda: twin.copy_(flat),
        READ: lambda: [torch.sum(gradient) for gradient in gradients],
        WRITE: lambda: out.fill_(1.0),
    }


def parts(gradients: list[Tensor]) -> dict[str, Contender]:
    """Our operator's passes, apart. The noise's words and digits follow from their differences."""
    lattice, device = LatticeScale(20, 1 << 20), gradients[0].device
    dimension = sum(gradient.shape[1] for gradient in gradients)
    total = torch.zeros(dimension, dtype=torch.int64, device=device)
    released = torch.empty(dimension, device=device)
    norms = ops.unit_norms(gradients)
    clip_norm = torch.tensor([CLIP_NORM], dtype=torch.float64, device=device)
    keystream = torch.zeros(5, dtype=torch.int64, device=device)

    def noise(law: Law, bits: int) -> Contender:
        tables = noise_tables(law, bits).to(device)
        return lambda: torch.ops.adpfl.release(
            total, clip_norm, keystream, tables, 1 << bits, bits, law == "gaussian"
        )

    return {
        "norms": lambda: ops.unit_norms(gradients),
        "clip and add to int64": lambda: ops.clip_accumulate_(
            total, gradients, norms, clip_norm=CLIP_NORM, lattice=lattice
        ),
        CONVERTED: lambda: released.copy_(total),
        "noise, Laplace s=10 (2 words, 2 digits)": noise("laplace", 10),
        LAPLACE_20: noise("laplace", 20),
        LAPLACE_30: noise("laplace", 30),
        "noise, Gaussian s=20": noise("gaussian", 20),
    }


def noise_costs(timings: list[Timing]) -> str:
    """Keystream and digit search of the Laplace draw: equal words and one digit more tell a digit's cost."""
    median = {each.name: each.median for each in timings}
    digit = median[LAPLACE_30] - median[LAPLACE_20]
    words = median[LAPLACE_20] - median[CONVERTED] - 3 * digit
    return (
        f"By difference: one digit search {digit:.2f} ms, four keystream words {words:.2f} ms, "
        f"of {median[LAPLACE_20]:.2f} ms for the noise at s=20."
    )


def contenders(gradients: list[Tensor], key: KeystreamKey, *, with_parts: bool) -> dict[str, Contender]:
    """All that is timed on one shape."""
    steps = Steps()
    chosen = {
        OURS: ours(gradients, "laplace", 20, key=key, steps=steps),
        "ours, Gaussian": ours(gradients, "gaussian", 20, key=key, steps=steps),
        "eager PyTorch, float Laplace": eager(gradients),
    }
    if find_spec("opacus"):
        chosen["Opacus, secure mode"] = opacus(gradients)
    if with_parts:
        chosen |= parts(gradients)
    return chosen | bandwidth(gradients)


def random_gradients(units: int, coordinates: int, options: argparse.Namespace) -> list[Tensor]:
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    generator = torch.Generator(device=device).manual_seed(0)
    return [torch.randn(units, coordinates, generator=generator, device=device, dtype=dtype)]


def measure(units: int, coordinates: int, options: argparse.Namespace) -> list[Timing]:
    """All contenders on one shape; the last timing is the floor."""
    gradients = random_gradients(units, coordinates, options)
    large = gradients[0].nbytes > LARGE_BYTES
    repeats = min(options.repeats, LARGE_REPEATS) if large else options.repeats
    with KeystreamKey.fresh() as key:
        chosen = contenders(gradients, key, with_parts=options.parts)
        timings = interleaved(chosen, repeats=repeats, device=gradients[0].device)
    by_name = {each.name: each for each in timings}
    floor = [2 * getattr(by_name[READ], at) + getattr(by_name[WRITE], at) for at in ("median", "low", "high")]
    return [*timings, Timing(FLOOR, *floor)]


def peak_bytes(units: int, coordinates: int, options: argparse.Namespace) -> int:
    """Peak memory of our call over its inputs, measured in a process of its own."""
    asked = {"units": units, "coordinates": coordinates, "dtype": options.dtype, "threads": options.threads}
    done = subprocess.run(
        [sys.executable, __file__, "--memory-of", json.dumps(asked)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **RETURNED_AT_ONCE},
    )
    return int(done.stdout.splitlines()[-1])


def own_peak_bytes(described: str) -> int:
    """In that process."""
    asked = argparse.Namespace(device="cpu", **json.loads(described))
    torch.set_num_threads(asked.threads)
    gradients = random_gradients(asked.units, asked.coordinates, asked)
    with KeystreamKey.fresh() as key:
        steps = Steps()
        ours([gradient[:1, :64] for gradient in gradients], "laplace", 20, key=key, steps=steps)()
        return peak_bytes_over(ours(gradients, "laplace", 20, key=key, steps=steps))


def table(units: int, coordinates: int, timings: list[Timing], peak: int | None, itemsize: int) -> str:
    """A Markdown table of one shape."""
    floor = timings[-1].median
    must_move = coordinates * (2 * units * itemsize + 4)
    moved = {
        COPY: 2 * coordinates * itemsize,
        READ: coordinates * units * itemsize,
        WRITE: 4 * coordinates,
        **{each.name: must_move for each in timings if each.name.startswith(COMPARED)},
        FLOOR: must_move,
    }
    lines = [
        f"### B = {units}, D = {coordinates:,} ({must_move / 1e6:,.0f} MB must move)",
        "",
        "| | median ms | middle half | times the floor | GB/s |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for each in timings:
        rate = f"{moved[each.name] / each.median / 1e6:.1f}" if each.name in moved else ""
        lines.append(
            f"| {each.name} | {each.median:.2f} | {each.spread} | {each.median / floor:.2f} | {rate} |"
        )
    if any(each.name == LAPLACE_30 for each in timings):
        lines += ["", noise_costs(timings)]
    if peak is not None:
        allowed = 8 * coordinates / 2**20 + 64
        lines += [
            "",
            f"Peak memory of our call: {peak / 2**20:.0f} MiB; D * 8 bytes + 64 MiB = {allowed:.0f}.",
        ]
    return "\n".join([*lines, ""])


def plot(results: list[tuple[int, int, list[Timing]]], path: Path) -> None:
    """Time over the floor for each shape, logarithmic."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - only where a plot is wanted

    shown = [each.name for each in results[0][2] if each.name.startswith(COMPARED)]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in shown:
        ratios = [
            next(each.median for each in timings if each.name == name) / timings[-1].median
            for _, _, timings in results
        ]
        axes.plot(range(len(results)), ratios, marker="o", label=name)
    axes.axhline(1.0, color="grey", linewidth=1)
    names = [f"B={units}\nD={size:.0e}".replace("e+0", "e") for units, size, _ in results]
    axes.set_xticks(range(len(results)), names, fontsize=7)
    axes.set_yscale("log")
    axes.set_ylabel("time / floor")
    axes.legend()
    figure.savefig(path, dpi=100)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[1, 8, 32, 256])
    parser.add_argument("--coordinates", type=int, nargs="+", default=[100_000, 5_000_000, 20_000_000])
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--memory-gb", type=float, default=6.0, help="leave out larger gradients")
    parser.add_argument("--parts", action="store_true", help="time the passes apart as well")
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    if options.memory_of:
        print(own_peak_bytes(options.memory_of))
        return
    torch.set_num_threads(options.threads)
    itemsize = getattr(torch, options.dtype).itemsize
    opacus_version = (
        f"Opacus {version('opacus')}" if find_spec("opacus") else "Opacus left out: not installed"
    )
    head = (
        f"{machine(options.threads)}, {options.dtype}; {opacus_version}; {ops.active_backend()}\n"
        f"`python benchmarks/dp_release.py {' '.join(arguments)}`\n"
    )
    print(head)
    results, texts = [], [head]
    for units in options.units:
        for coordinates in options.coordinates:
            size = units * coordinates * itemsize / 1e9
            if size > options.memory_gb:
                left_out = f"its gradients are {size:.1f} GB, above --memory-gb {options.memory_gb:g}"
                texts.append(f"B = {units}, D = {coordinates:,} left out: {left_out}.\n")
            else:
                timings = measure(units, coordinates, options)
                on_cpu = options.device == "cpu"
                peak = peak_bytes(units, coordinates, options) if on_cpu and not options.no_memory else None
                results.append((units, coordinates, timings))
                texts.append(table(units, coordinates, timings, peak, itemsize))
            print(texts[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(texts), encoding="utf-8")
    if options.plot and results:
        plot(results, options.plot)


if __name__ == "__main__":
    main(sys.argv[1:])
