"""Interleaved timing, and what the figures were measured on; for every benchmark here."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

Contender = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one contender: median and quartiles."""

    name: str
    median: float
    low: float
    high: float

    @property
    def spread(self) -> str:
        """The middle half."""
        return f"{self.low:.2f} to {self.high:.2f}"


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


def interleaved(contenders: Mapping[str, Contender], *, repeats: int, device: torch.device) -> list[Timing]:
    """Every contender once a round, after one round that does not count: a busy moment hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats + 1):
        for name, run in contenders.items():
            times[name].append(milliseconds(run, device))
    timings = []
    for name, taken in times.items():
        low, median, high = statistics.quantiles(taken[1:], n=4, method="inclusive")
        timings.append(Timing(name, median, low, high))
    return timings


def machine(threads: int) -> str:
    """Processor, cores, memory, threads, torch and date, in one line; no host name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; {threads} threads, "
        f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
    )


def _processor() -> str:
    """As `lscpu` says it: the model's name and, because a virtual machine may hide it, its numbers."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    lines = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    found = {key.strip(): value.strip() for key, _, value in lines}
    family, model = found.get("cpu family", "?"), found.get("model", "?")
    return f"{found.get('model name', platform.machine())} (family {family}, model {model})"
