"""Load on the real daemon: throughput, an empty round, memory and CPU; beside a bare gRPC TLS stream.

A real `adpfl-server` process serves sites that enrolled at its enrolment port, over its own TLS, with its own
files; synthetic agents speak the true protocol and train nothing (`federation_agents.py`). In the same run
and interleaved with it, the same number of the same processes move the same chunks over a bare gRPC stream
with the same TLS, whose server does nothing with them (`bare_stream.py`).

    python benchmarks/federation.py --agents 1 4 8 --megabytes 100 --repeats 5 --markdown federation.md

Upload is from the offer to the signed receipt, when every byte is on the disk; download is from the question
to the last checked chunk. Every agent sends bytes of its own. Linux alone: memory and CPU are read from
`/proc`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from federation_server import (
    CHUNK_BYTES,
    ROOT,
    Consortium,
    PeakMemory,
    cpu_seconds,
    plan_of,
    write_initial_model,
)
from timing import machine

MEBIBYTE = 2**20
TINY_BYTES = 1024
AGENT_PROCESSES = 2
"""Beside the daemon and this process, on a machine of four cores."""
LEAST_RATIO = 0.70
LONGEST_EMPTY_ROUND_MS = 100.0
CONNECTION_BYTES = MEBIBYTE // 2
LEAST_ALLOWED_BYTES = 64 * MEBIBYTE
SCRIPTS = Path(__file__).parent


@dataclass(frozen=True)
class Transfer:
    """One cohort, one size; MiB/s are of the whole cohort, medians over the rounds."""

    agents: int
    kind: str
    mebibytes: int
    download: float
    bare_download: float
    upload: float
    bare_upload: float
    slowest_over_fastest: float
    memory_anonymous: int
    memory_total: int
    memory_allowed: int
    cpu_seconds_per_gibibyte: float


@dataclass(frozen=True)
class EmptyRounds:
    """Milliseconds from one round's last receipt to the next one's."""

    agents: int
    median: float
    low: float
    high: float
    rounds: int
    memory_total: int
    cpu_milliseconds: float


class Cohort:
    """Agents in a few processes that do one thing at a time, together."""

    def __init__(self, consortium: Consortium, sites: Sequence[str], kind: str, processes: int) -> None:
        self._workers = []
        share = -(-len(sites) // min(processes, len(sites)))
        for first in range(0, len(sites), share):
            folders = [str(consortium.site_folder(site)) for site in sites[first : first + share]]
            command = [sys.executable, str(SCRIPTS / "federation_agents.py"), kind, str(first + 1), *folders]
            environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            self._workers.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            )

    def order(self, name: str, **options: Any) -> list[Any]:
        """Let every agent do something; returns what each answers."""
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write(json.dumps({"order": name, **options}).encode() + b"\n")
            worker.stdin.flush()
        answers = []
        for worker in self._workers:
            assert worker.stdout is not None
            line = worker.stdout.readline()
            if not line:
                raise RuntimeError(f"an agent process ended during {name}")
            answers += json.loads(line)
        return answers

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.close()
        for worker in self._workers:
            worker.wait()


@contextmanager
def bare_server(consortium: Consortium) -> Iterator[str]:
    """The yardstick's process; yields its address."""
    command = [sys.executable, str(SCRIPTS / "bare_stream.py"), str(consortium.state_dir)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield f"localhost:{int(server.stdout.readline())}"
    finally:
        server.stdin.close()
        server.wait()


def rate(answers: Sequence[Sequence[float]]) -> float:
    """MiB/s of a cohort: from the first start to the last end."""
    starts, ends, moved = zip(*answers, strict=True)
    return sum(moved) / MEBIBYTE / (max(ends) - min(starts))


def slowest_over_fastest(answers: Sequence[Sequence[float]]) -> float:
    """How much longer the last agent took than the first."""
    seconds = [end - start for start, end, _ in answers]
    return max(seconds) / min(seconds)


@contextmanager
def cohort_at_work(
    consortium: Consortium, agents: int, kind: str, *, payload_bytes: int, rounds: int, processes: int
) -> Iterator[tuple[Cohort, int, PeakMemory]]:
    """A run of its own, the daemon serving it, and a cohort that has joined."""
    run = f"load-{kind.replace('_', '-')}-{agents}-{payload_bytes}"
    sites = site_names(agents)
    model = consortium.root / "initial.safetensors"
    write_initial_model(model, payload_bytes)
    with ExitStack() as stack:
        process = stack.enter_context(consortium.serving([plan_of(run, sites, rounds, model)]))
        memory = PeakMemory(process)
        address = stack.enter_context(bare_server(consortium))
        cohort = Cohort(consortium, sites, kind, processes)
        stack.callback(cohort.close)
        cohort.order("open", run=run, bare_address=address)
        yield cohort, process, memory


def site_names(agents: int) -> list[str]:
    return [f"site{number:03d}" for number in range(1, agents + 1)]


def measure_transfer(
    consortium: Consortium, agents: int, kind: str, mebibytes: int, options: argparse.Namespace
) -> Transfer:
    """Rounds of bare download, download, bare upload, upload."""
    payload, repeats = mebibytes * MEBIBYTE, options.repeats
    rates: dict[str, list[float]] = {"bare_download": [], "fetch": [], "bare_upload": [], "push": []}
    spread, cpu = [], 0.0
    with cohort_at_work(
        consortium, agents, kind, payload_bytes=payload, rounds=repeats, processes=options.processes
    ) as (cohort, process, memory):
        chunks = payload // CHUNK_BYTES
        for _ in range(repeats):
            cohort.order("take")
            for name, found in rates.items():
                if name == "bare_upload":
                    cohort.order("prepare")
                before = cpu_seconds(process)
                answers = cohort.order(name, **({"chunks": chunks} if name.startswith("bare") else {}))
                found.append(rate(answers))
                if name in {"fetch", "push"}:
                    cpu += cpu_seconds(process) - before
                if name == "push":
                    spread.append(slowest_over_fastest(answers))
        anonymous, total = memory.stop()
    median = {name: statistics.median(found) for name, found in rates.items()}
    return Transfer(
        agents=agents,
        kind=kind,
        mebibytes=mebibytes,
        download=median["fetch"],
        bare_download=median["bare_download"],
        upload=median["push"],
        bare_upload=median["bare_upload"],
        slowest_over_fastest=max(spread),
        memory_anonymous=anonymous,
        memory_total=total,
        memory_allowed=allowed_bytes(agents, payload),
        cpu_seconds_per_gibibyte=cpu * 2**30 / (2 * repeats * agents * payload),
    )


def measure_empty_rounds(consortium: Consortium, agents: int, options: argparse.Namespace) -> EmptyRounds:
    """Rounds with nothing to train and a kilobyte to send, one after the other; two do not count."""
    rounds = options.empty_rounds + 2
    with cohort_at_work(
        consortium, agents, "synthetic", payload_bytes=TINY_BYTES, rounds=rounds, processes=options.processes
    ) as (cohort, process, memory):
        before = cpu_seconds(process)
        committed = cohort.order("rounds", count=rounds)
        cpu = cpu_seconds(process) - before
        total = memory.stop()[1]
    closed = [max(times) for times in zip(*committed, strict=True)]
    took = [1e3 * (later - earlier) for earlier, later in pairwise(closed[1:])]
    low, median, high = statistics.quantiles(took, n=4, method="inclusive")
    return EmptyRounds(agents, median, low, high, len(took), total, 1e3 * cpu / rounds)


def allowed_bytes(agents: int, payload_bytes: int) -> int:
    """The target for the server's memory over its idle level."""
    return max(payload_bytes // 2, LEAST_ALLOWED_BYTES) + agents * CONNECTION_BYTES


def memory_copy_rate() -> float:
    """MiB/s of one thread that copies memory."""
    source = bytes(256 * MEBIBYTE)
    target = memoryview(bytearray(len(source)))
    started = time.perf_counter()
    target[:] = source
    return len(source) / MEBIBYTE / (time.perf_counter() - started)


def disk_rate(folder: Path) -> float:
    """MiB/s of one file that is written and synced."""
    block, count = bytes(CHUNK_BYTES), 256
    started = time.perf_counter()
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(count):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return count / (time.perf_counter() - started)


def verdict(good: bool) -> str:  # noqa: FBT001 - one argument
    return "pass" if good else "MISS"


def transfer_table(found: Sequence[Transfer]) -> str:
    """Markdown: what moved, beside the yardstick, and what the server took for it."""
    lines = [
        "MiB/s; memory: the server's MiB over idle, anonymous and all; CPU: its seconds a GiB.",
        "",
        "| agents | kind | MiB | down | bare | ratio | up | bare | ratio | spread | memory | allowed | CPU |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in found:
        down, up = each.download / each.bare_download, each.upload / each.bare_upload
        judged = each.agents <= 8
        fits = verdict(each.memory_total <= each.memory_allowed)
        lines.append(
            f"| {each.agents} | {each.kind} | {each.mebibytes} "
            f"| {each.download:.0f} | {each.bare_download:.0f} "
            f"| {down:.2f} {verdict(down >= LEAST_RATIO) if judged else ''} "
            f"| {each.upload:.0f} | {each.bare_upload:.0f} "
            f"| {up:.2f} {verdict(up >= LEAST_RATIO) if judged else ''} | {each.slowest_over_fastest:.2f} "
            f"| {each.memory_anonymous / MEBIBYTE:.0f}, {each.memory_total / MEBIBYTE:.0f} "
            f"| {each.memory_allowed / MEBIBYTE:.0f} {fits} | {each.cpu_seconds_per_gibibyte:.2f} |"
        )
    return "\n".join([*lines, ""])


def empty_table(found: Sequence[EmptyRounds]) -> str:
    """Markdown: how long a round takes in which nobody trains."""
    lines = [
        "| agents | empty round ms | middle half | rounds | server MiB over idle | server CPU ms a round |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in found:
        judged = f" {verdict(each.median < LONGEST_EMPTY_ROUND_MS)}" if each.agents <= 8 else ""
        lines.append(
            f"| {each.agents} | {each.median:.1f}{judged} | {each.low:.1f} to {each.high:.1f} "
            f"| {each.rounds} | {each.memory_total / MEBIBYTE:.0f} | {each.cpu_milliseconds:.0f} |"
        )
    return "\n".join([*lines, ""])


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--agents", type=int, nargs="*", default=[1, 4, 8, 64, 200], help="of transfers")
    parser.add_argument("--megabytes", type=int, default=100, help="MiB of a model and of an update")
    parser.add_argument("--kinds", nargs="+", choices=["synthetic", "adpfl_client"], default=["synthetic"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--empty-agents", type=int, nargs="*", default=[8, 200])
    parser.add_argument("--empty-rounds", type=int, default=20)
    parser.add_argument("--large", action="store_true", help="one agent with an update of 1 GiB as well")
    parser.add_argument("--processes", type=int, default=AGENT_PROCESSES, help="that the agents share")
    parser.add_argument("--folder", type=Path, help="where to work; its disk is part of what is measured")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    texts: list[str] = []

    def say(text: str) -> None:
        texts.append(text)
        print(text, flush=True)

    transfers: list[Transfer] = []
    empty: list[EmptyRounds] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        consortium = Consortium(Path(folder))
        say(f"{machine(1)}\n`python benchmarks/federation.py {' '.join(arguments)}`\n")
        say(
            f"One thread copies memory at {memory_copy_rate():,.0f} MiB/s; a file is written and synced at "
            f"{disk_rate(consortium.root):,.0f} MiB/s.\n"
        )
        sites = site_names(max([1, *options.agents, *options.empty_agents]))
        with consortium.serving([]):
            seconds = consortium.enroll(sites)
        say(f"{len(sites)} sites enrolled in {seconds:.1f} s.\n")
        empty += [measure_empty_rounds(consortium, agents, options) for agents in options.empty_agents]
        say(empty_table(empty))
        for kind in options.kinds:
            for agents in options.agents:
                transfers.append(measure_transfer(consortium, agents, kind, options.megabytes, options))
                print(transfer_table(transfers[-1:]), flush=True)
            if options.large:
                transfers.append(measure_transfer(consortium, 1, kind, 1024, options))
        say(transfer_table(transfers))
    if options.markdown:
        options.markdown.write_text("\n".join(texts), encoding="utf-8")
    if options.json:
        document = {
            "empty_rounds": [asdict(one) for one in empty],
            "transfers": [asdict(one) for one in transfers],
        }
        options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
