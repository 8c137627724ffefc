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
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from federation_cohort import cohort_at_work, site_names, yardstick
from federation_flower import FLOWER
from federation_nvflare import NVFLARE
from federation_peers import PeerError, measure_peer
from federation_server import CHUNK_BYTES, Consortium, cpu_seconds
from federation_tables import (
    MEBIBYTE,
    MOST_JUDGED_AGENTS,
    Rounds,
    Transfer,
    empty_table,
    quartiles,
    rounds_table,
    transfer_table,
)
from timing import machine

TINY_BYTES = 1024
AGENT_PROCESSES = 2
"""Beside the daemon and this process, on a machine of four cores."""
PEERS = {"flower": FLOWER, "nvflare": NVFLARE}
CONNECTION_BYTES = MEBIBYTE // 2
LEAST_ALLOWED_BYTES = 64 * MEBIBYTE


def rate(answers: Sequence[Sequence[float]]) -> float:
    """MiB/s of a cohort: from the first start to the last end."""
    starts, ends, moved = zip(*answers, strict=True)
    return sum(moved) / MEBIBYTE / (max(ends) - min(starts))


def slowest_over_fastest(answers: Sequence[Sequence[float]]) -> float:
    """How much longer the last agent took than the first."""
    seconds = [end - start for start, end, _ in answers]
    return max(seconds) / min(seconds)


def measure_transfer(
    consortium: Consortium, agents: int, kind: str, mebibytes: int, options: argparse.Namespace
) -> Transfer:
    """Rounds of download and upload, each right after the yardsticks' own."""
    payload, repeats = mebibytes * MEBIBYTE, options.repeats
    judged = agents <= MOST_JUDGED_AGENTS
    rates: dict[str, list[float]] = {}
    spread, cpu = [], 0.0
    with (
        cohort_at_work(
            consortium, agents, kind, payload_bytes=payload, rounds=repeats, processes=options.processes
        ) as (cohort, process, memory),
        yardstick("bare_generated.py", consortium) as generated_address,
    ):
        if judged:
            cohort.order("open_generated", address=generated_address)
        yardsticks = {"download": ["bare"], "upload": ["bare", "stored"]}
        if judged:
            yardsticks = {way: [*yards, "generated"] for way, yards in yardsticks.items()}
        for _ in range(repeats):
            cohort.order("take")
            for way, order in (("download", "fetch"), ("upload", "push")):
                for yard in yardsticks[way]:
                    answers = cohort.order(f"{yard}_{way}", chunks=payload // CHUNK_BYTES)
                    rates.setdefault(f"{yard}_{way}", []).append(rate(answers))
                if order == "push":
                    cohort.order("prepare")
                before = cpu_seconds(process)
                answers = cohort.order(order)
                cpu += cpu_seconds(process) - before
                rates.setdefault(order, []).append(rate(answers))
            spread.append(slowest_over_fastest(answers))
        anonymous, total = memory.stop()
    median = {name: statistics.median(found) for name, found in rates.items()}
    return Transfer(
        agents=agents,
        kind=kind,
        mebibytes=mebibytes,
        download=median["fetch"],
        bare_download=median["bare_download"],
        generated_download=median.get("generated_download"),
        upload=median["push"],
        bare_upload=median["bare_upload"],
        stored_upload=median["stored_upload"],
        generated_upload=median.get("generated_upload"),
        slowest_over_fastest=max(spread),
        memory_anonymous=anonymous,
        memory_total=total,
        memory_allowed=allowed_bytes(agents, payload),
        cpu_seconds_per_gibibyte=cpu * 2**30 / (2 * repeats * agents * payload),
    )


def measure_rounds(
    consortium: Consortium, agents: int, kind: str, payload_bytes: int, *, rounds: int, processes: int
) -> Rounds:
    """Rounds with nothing to train, one after the other; two more do not count for the time."""
    with cohort_at_work(
        consortium, agents, kind, payload_bytes=payload_bytes, rounds=rounds + 2, processes=processes
    ) as (cohort, process, memory):
        before = cpu_seconds(process)
        committed = cohort.order("rounds", count=rounds + 2)
        cpu = cpu_seconds(process) - before
        total = memory.stop()[1]
    closed = [max(times) for times in zip(*committed, strict=True)]
    low, median, high = quartiles([1e3 * (later - earlier) for earlier, later in pairwise(closed[1:])])
    return Rounds(
        f"adpfl, {kind}", agents, payload_bytes, median, low, high, rounds, total, 1e3 * cpu / (rounds + 2)
    )


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


def here(text: str) -> Path:
    """A path as seen from here: processes start in other folders. Links stay: a venv's Python is one."""
    return Path(text).absolute()


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--agents", type=int, nargs="*", default=[1, 4, 8, 64, 200], help="of transfers")
    parser.add_argument("--megabytes", type=int, default=100, help="MiB of a model and of an update")
    parser.add_argument("--kinds", nargs="+", choices=["synthetic", "adpfl_client"], default=["synthetic"])
    parser.add_argument("--repeats", type=int, default=5, help="of a transfer; 0 leaves transfers out")
    parser.add_argument("--empty-agents", type=int, nargs="*", default=[8, 200])
    parser.add_argument("--empty-rounds", type=positive, default=20)
    parser.add_argument("--large", action="store_true", help="one agent with an update of 1 GiB as well")
    parser.add_argument("--peers", nargs="+", choices=sorted(PEERS), default=[], help="frameworks beside it")
    parser.add_argument(
        "--peer-python", type=here, default=Path(sys.executable), help="the interpreter that has the peers"
    )
    parser.add_argument(
        "--peer-rounds", type=positive, default=3, help="beside a first one that does not count"
    )
    parser.add_argument("--processes", type=positive, default=AGENT_PROCESSES, help="that the agents share")
    parser.add_argument("--folder", type=here, help="where to work; its disk is part of what is measured")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


class Report:
    """What was found, printed as it comes."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.transfers: list[Transfer] = []
        self.empty: list[Rounds] = []
        self.rounds: list[Rounds] = []
        self.failures: list[str] = []

    def say(self, text: str) -> None:
        """Print a text, and keep it for the file."""
        self.texts.append(text)
        print(text, flush=True)

    def write(self, options: argparse.Namespace) -> None:
        """Leave the tables and the figures where the options ask for them."""
        if options.markdown:
            options.markdown.write_text("\n".join(self.texts), encoding="utf-8")
        if options.json:
            document = {
                "empty_rounds": [asdict(one) for one in self.empty],
                "transfers": [asdict(one) for one in self.transfers],
                "rounds": [asdict(one) for one in self.rounds],
            }
            options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")


def compare(consortium: Consortium, options: argparse.Namespace, report: Report) -> None:
    """Whole rounds of the daemon and of its peers on the same job, a process for each site."""
    job = [(agents, TINY_BYTES) for agents in options.empty_agents]
    job += [(agents, options.megabytes * MEBIBYTE) for agents in options.agents]
    job = [(agents, payload) for agents, payload in job if agents <= MOST_JUDGED_AGENTS]
    for kind in options.kinds:
        for agents, payload in job:
            report.rounds.append(
                measure_rounds(
                    consortium, agents, kind, payload, rounds=options.peer_rounds, processes=agents
                )
            )
    pki = consortium.state_dir / "pki"
    for peer in (PEERS[name] for name in options.peers):
        version = peer.version(options.peer_python)
        if version is None:
            report.say(f"{peer.name} is not installed: pip install -r benchmarks/peers-requirements.txt\n")
            continue
        try:
            for agents, payload in job:
                report.rounds.append(
                    measure_peer(
                        peer,
                        version,
                        options.peer_python,
                        pki,
                        agents=agents,
                        payload_bytes=payload,
                        rounds=options.peer_rounds,
                        root=consortium.root,
                    )
                )
        except PeerError as error:
            report.failures.append(f"{peer.name} {version} failed: {error}")
            report.say(report.failures[-1])
    report.say(rounds_table(report.rounds))


def main(arguments: list[str]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started then ends with it
    options, report = parse(arguments), Report()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        consortium = Consortium(Path(folder))
        report.say(f"{machine(1)}\n`python benchmarks/federation.py {' '.join(arguments)}`\n")
        report.say(
            f"One thread copies memory at {memory_copy_rate():,.0f} MiB/s; a file is written and synced at "
            f"{disk_rate(consortium.root):,.0f} MiB/s.\n"
        )
        sites = site_names(max([1, *options.agents, *options.empty_agents]))
        with consortium.serving([]):
            seconds = consortium.enroll(sites)
        report.say(f"{len(sites)} sites enrolled in {seconds:.1f} s.\n")
        report.empty += [
            measure_rounds(
                consortium,
                agents,
                "synthetic",
                TINY_BYTES,
                rounds=options.empty_rounds,
                processes=options.processes,
            )
            for agents in options.empty_agents
        ]
        report.say(empty_table(report.empty))
        for kind in options.kinds if options.repeats else []:
            for agents in options.agents:
                report.transfers.append(
                    measure_transfer(consortium, agents, kind, options.megabytes, options)
                )
                print(transfer_table(report.transfers[-1:]), flush=True)
            if options.large:
                report.transfers.append(measure_transfer(consortium, 1, kind, 1024, options))
        if report.transfers:
            report.say(transfer_table(report.transfers))
        if options.peers:
            compare(consortium, options, report)
    report.write(options)
    if report.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
