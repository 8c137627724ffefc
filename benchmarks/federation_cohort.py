"""Sites of the federation's benchmark in processes of their own, and a run of the daemon that serves them."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from federation_server import ROOT, Consortium, PeakMemory, plan_of, write_initial_model

SCRIPTS = Path(__file__).parent
RUN_NUMBERS = itertools.count(1)
"""A state folder keeps every run, so no name comes twice."""


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
def yardstick(script: str, consortium: Consortium) -> Iterator[str]:
    """A yardstick's process; yields its address."""
    command = [sys.executable, str(SCRIPTS / script), str(consortium.state_dir)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield f"localhost:{int(server.stdout.readline())}"
    finally:
        server.stdin.close()
        server.wait()


@contextmanager
def cohort_at_work(
    consortium: Consortium, agents: int, kind: str, *, payload_bytes: int, rounds: int, processes: int
) -> Iterator[tuple[Cohort, int, PeakMemory]]:
    """A run of its own, the daemon serving it, and a cohort that has joined."""
    run = f"load-{next(RUN_NUMBERS)}-{kind.replace('_', '-')}-{agents}-{payload_bytes}"
    sites = site_names(agents)
    model = consortium.root / "initial.safetensors"
    write_initial_model(model, payload_bytes)
    with ExitStack() as stack:
        process = stack.enter_context(consortium.serving([plan_of(run, sites, rounds, model)]))
        memory = PeakMemory(process)
        address = stack.enter_context(yardstick("bare_stream.py", consortium))
        cohort = Cohort(consortium, sites, kind, processes)
        stack.callback(cohort.close)
        cohort.order("open", run=run, bare_address=address)
        yield cohort, process, memory


def site_names(agents: int) -> list[str]:
    return [f"site{number:03d}" for number in range(1, agents + 1)]
