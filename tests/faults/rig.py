"""A federation of real daemons, each site behind a `Link` of its own, that can be broken at any point."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adpfl.data.synthetic.dermoscopy import write_clinic
from adpfl.federated.run_plan import RunPlan
from adpfl.kill_points import VARIABLE as KILL_VARIABLE
from tests.faults.link import Link

ROOT = Path(__file__).parents[2]
SITES = ("hospital1", "hospital2", "hospital3")
TASK = "skin_lesion"
RUN = "storm"
PATIENCE_SECONDS = 90.0
KILLED = -int(signal.SIGKILL)
CLOCK_VARIABLE = "ADPFL_TEST_CLOCK"
"""Names the file that holds a process's clock shift; see `clock_shift.c`."""


def free_ports(count: int) -> list[int]:
    """Ports for servers that come and go: below those that the system lends to whoever dials out."""
    dice = random.Random(os.getpid())
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            port = dice.randrange(12_000, 32_000)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
        return found


def storm_plan(sites: tuple[str, ...] = SITES, quorum: int | None = None, **changes: Any) -> dict[str, Any]:
    """The least that is still a private run: two rounds of three steps on a few tiny images."""
    plan = {
        "run": RUN,
        "task": TASK,
        "image_size": [16, 16],
        "rounds": 2,
        "local": {"steps": 3, "learning_rate": 0.1},
        "cohort": {
            "sites": list(sites),
            "quorum": quorum or len(sites),
            "round_deadline_seconds": 120,
        },
        "privacy": {
            "mode": "paper",
            "reading": "multiplier",
            "threshold": {"method": "percentile", "window_steps": 2},
            "sampling": {"mode": "partition", "probability": 0.5},
        },
    }
    return plan | changes


class Stopwatch:
    """Seconds since it was made in which this process ran: a suspended machine uses nobody's patience up."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._looked_at = time.monotonic()

    def seconds(self) -> float:
        """To be asked several times a second."""
        now = time.monotonic()
        self._seconds += min(now - self._looked_at, 1.0)
        self._looked_at = now
        return self._seconds


class Forge:
    """Where processes come from: one that has imported everything and forks. See `preloaded.py`."""

    def __init__(self, clock_library: Path | None = None) -> None:
        """Import everything; with the library that `clock_shift.c` makes, clocks can be moved."""
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "no_grpc_proxy": "127.0.0.1",
        }
        self.moves_clocks = clock_library is not None
        if clock_library is not None:
            environment["LD_PRELOAD"] = str(clock_library)
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("preloaded.py"))],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._input, self._output = self._process.stdin, self._process.stdout
        line = self._output.readline()
        assert "ready" in line, f"the preloaded process did not start: {line}"

    def start(
        self, module: str, arguments: list[str], folder: Path, log: Path, environment: dict[str, str]
    ) -> "Started":
        asked = {
            "module": module,
            "arguments": arguments,
            "folder": str(folder),
            "log": str(log),
            "environment": environment,
        }
        return Started(self, int(self._ask(start=asked)["pid"]))

    def poll(self, pid: int) -> int | None:
        code: int | None = self._ask(poll=pid)["code"]
        return code

    def close(self) -> None:
        self._input.close()
        self._process.wait(30)
        self._output.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        self._input.write(json.dumps(request) + "\n")
        self._input.flush()
        answer: dict[str, Any] = json.loads(self._output.readline())
        return answer


@dataclass
class Started:
    """A process that the forge made."""

    forge: Forge
    pid: int

    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return self.forge.poll(self.pid)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        watch = Stopwatch()
        while (code := self.code()) is None:
            if watch.seconds() > seconds:
                raise TimeoutError(f"process {self.pid} did not end in {seconds} s")
            time.sleep(0.01)
        return code


@dataclass(frozen=True)
class Template:
    """An enrolled consortium without a run, to be copied: keys, certificates, images, initial weights."""

    folder: Path
    forge: Forge
    port: int
    enrollment_port: int
    link_ports: dict[str, int]

    @classmethod
    def make(cls, folder: Path, forge: Forge) -> "Template":
        port, enrollment_port, *others = free_ports(2 + len(SITES))
        made = cls(folder, forge, port, enrollment_port, dict(zip(SITES, others, strict=True)))
        (folder / "sites").mkdir(parents=True)
        for seed, (site, profile) in enumerate(zip(SITES, "ABC", strict=True)):
            write_clinic(folder / "data" / site, profile, images=6, seed=seed, size=(32, 40))
            made._configure_site(site)
        made.configure_server(folder, [storm_plan()])
        made.command(folder, "adpfl_server", "init", "--config", "server.yaml")
        made.command(folder, "adpfl_server", "init-model", RUN, "--config", "server.yaml")
        made.configure_server(folder, [])
        server = forge.start("adpfl_server", ["--config", "server.yaml"], folder, folder / "server.log", {})
        wait_until(lambda: listens(enrollment_port), "the server to listen")
        for site in SITES:
            made.configure_server(folder, [], public_port=made.link_ports[site])
            bundle = f"{site}.bundle.json"
            made.command(
                folder, "adpfl_server", "enroll", site, "--config", "server.yaml", "--output", bundle
            )
            made.command(folder, "adpfl_client", "enroll", bundle, "--site", site)
        server.signal(signal.SIGTERM)
        assert server.wait(30) == 0
        return made

    def configure_server(
        self, folder: Path, runs: list[dict[str, Any]], *, public_port: int | None = None, **changes: Any
    ) -> None:
        document = {
            "state_dir": "server",
            "listen": f"127.0.0.1:{self.port}",
            "enroll_listen": f"127.0.0.1:{self.enrollment_port}",
            "public_address": f"127.0.0.1:{public_port or self.port}",
            "public_enroll_address": f"127.0.0.1:{self.enrollment_port}",
            "site_silence_seconds": 6.0,
            "runs": runs,
        }
        (folder / "server.yaml").write_text(yaml.safe_dump(document | changes), encoding="utf-8")

    def command(self, folder: Path, module: str, *arguments: str, code: int = 0) -> str:
        """Run a command to its end; returns what it printed."""
        log = folder / "command.log"
        log.unlink(missing_ok=True)
        ended = self.forge.start(module, list(arguments), folder, log, {}).wait(60)
        said = log.read_text(encoding="utf-8")
        assert ended == code, f"{module} {arguments}: {ended}\n{said}"
        return said

    def _configure_site(self, site: str) -> None:
        accepted = {"run": RUN, "reason": "a test on generated images", "by": "the test"}
        document = {
            "site": site,
            "state_dir": f"../state/{site}",
            "data": {TASK: {"path": f"../data/{site}", "held_out_fraction": 0.0}},
            "policy": {
                "data_set_id": f"{site}-skin",
                "allowed_tasks": [TASK],
                "minimum_patients": 2,
                "accept_unbounded": [accepted],
            },
            "evaluate_every_rounds": 0,
            "threads": 1,
        }
        path = self.folder / "sites" / f"{site}.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")


@dataclass
class Federation:
    """One run among a server and its sites, copied from a template."""

    root: Path
    template: Template
    sites: tuple[str, ...] = SITES
    quorum: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.running: dict[str, Started] = {}
        self.deaths: list[str] = []
        for name in ("server", "state", "sites"):
            shutil.copytree(self.template.folder / name, self.root / name)
        (self.root / "data").symlink_to(self.template.folder / "data")
        self.plan = RunPlan.model_validate(storm_plan(self.sites, self.quorum, **self.changes))
        self.template.configure_server(self.root, [storm_plan(self.sites, self.quorum, **self.changes)])
        ports = self.template.link_ports
        self.links = {site: Link(self.template.port, ports[site]) for site in self.sites}

    # --- processes ------------------------------------------------------------------------------------

    def start(self, name: str, *, kill_at: str | None = None) -> None:
        """Start the server or a site's agent, which dies by SIGKILL where `kill_at` says."""
        assert name not in self.running
        server = name == "server"
        arguments = ["--config", "server.yaml"] if server else ["--site", name, "--until-finished"]
        environment = {} if kill_at is None else {KILL_VARIABLE: kill_at}
        if self.template.forge.moves_clocks:
            if not self._clock(name).exists():
                self.jump(name, 0.0)
            environment[CLOCK_VARIABLE] = str(self._clock(name))
        self.running[name] = self.template.forge.start(
            "adpfl_server" if server else "adpfl_client",
            arguments,
            self.root,
            self.root / f"{name}.log",
            environment,
        )

    def jump(self, name: str, seconds: float) -> None:
        """Move a machine's wall clock so far from the true time, at once; it stays moved over restarts."""
        path = self._clock(name)
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))

    def _clock(self, name: str) -> Path:
        return self.root / f"{name}.clock"

    def start_all(self, *, without: str | None = None) -> None:
        for name in ("server", *self.sites):
            if name not in self.running and name != without:
                self.start(name)

    def kill(self, name: str) -> None:
        """SIGKILL: nothing is flushed, nothing is closed."""
        process = self.running.pop(name)
        process.signal(signal.SIGKILL)
        code = process.wait(30)
        self.deaths.append(f"{name}: {code}")

    def died(self, name: str) -> bool:
        """Whether a process was killed since; it is forgotten then, and may be started again."""
        process = self.running.get(name)
        if process is None or process.code() is None or (name in self.sites and process.code() == 0):
            return False
        code = process.code()
        # A clock that is far behind is no fault of the server's; whoever supervises it tries again.
        too_early = code == 1 and "not valid before" in self.log(name).splitlines()[-1]
        assert code == KILLED or too_early, f"{name} ended with {code}\n{self.scene()}"
        del self.running[name]
        self.deaths.append(f"{name}: by itself")
        return True

    def wait_for_death(self, name: str, seconds: float = PATIENCE_SECONDS) -> None:
        self.wait_until(lambda: self.died(name) or self.is_over(), f"{name} to be killed", seconds)
        assert name not in self.running, f"the run ended before {name} was killed\n{self.scene()}"

    def is_over(self) -> bool:
        """Whether every agent has ended by itself."""
        return all(site in self.running and self.running[site].code() is not None for site in self.sites)

    def finish(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until every agent has ended well, then stop the server."""
        self.wait_until(self.is_over, "the agents to finish", seconds)
        for site in self.sites:
            code = self.running.pop(site).code()
            assert code == 0, f"{site} ended with {code}\n{self.log(site)[-4000:]}"
        self.stop_server()

    def stop_server(self) -> None:
        server = self.running.pop("server")
        server.signal(signal.SIGTERM)
        code = server.wait(30)
        assert code == 0, f"the server ended with {code}\n{self.log('server')[-4000:]}"

    def close(self) -> None:
        for process in self.running.values():
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGKILL)
        for process in self.running.values():
            process.wait(30)
        for link in self.links.values():
            link.close()

    # --- what is seen ---------------------------------------------------------------------------------

    def command(self, module: str, *arguments: str, code: int = 0) -> str:
        return self.template.command(self.root, module, *arguments, code=code)

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        try:
            wait_until(ready, what, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.scene()}") from None

    def log(self, name: str) -> str:
        path = self.root / f"{name}.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def logged(self, name: str) -> list[dict[str, Any]]:
        found = []
        for line in self.log(name).splitlines():
            with contextlib.suppress(ValueError):  # a kill may cut a line in two
                found.append(json.loads(line))
        return [entry for entry in found if isinstance(entry, dict)]

    def events(self, name: str) -> list[str]:
        return [str(entry.get("event")) for entry in self.logged(name)]

    def status(self) -> dict[str, Any]:
        """What `adpfl-server status` says of the run."""
        document: Any = json.loads(
            self.command("adpfl_server", "status", RUN, "--config", "server.yaml", "--json")
        )
        found: dict[str, Any] = document[0] if isinstance(document, list) else document
        return found

    def record(self) -> dict[str, Any]:
        """The run's record as the server wrote it."""
        path = self.root / "server" / "runs" / RUN / "run.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def scene(self) -> str:
        """The ends of all logs, for a failure."""
        parts = [f"deaths: {self.deaths}"]
        for name in ("server", *self.sites):
            process = self.running.get(name)
            state = "absent" if process is None else f"code {process.code()}"
            parts.append(f"--- {name} ({state})")
            parts += [line[:250] for line in self.log(name).splitlines()[-20:]]
        return "\n".join(parts)


def wait_until(ready: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    watch = Stopwatch()
    while not ready():
        if watch.seconds() > seconds:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.02)


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def opened(federation: Federation) -> Iterator[Federation]:
    try:
        yield federation
    finally:
        federation.close()
