"""Other frameworks on the same job: their processes, what those take, and how their rounds are told.

A framework runs as its documents say, in an interpreter of its own, each of its processes with a mark in the
environment: so all of a server's processes are watched, however it starts them, and none is left behind. The
job of each is rounds without training; what of it runs inside the framework lies in `peers/`.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from secrets import token_hex

from federation_server import cpu_seconds, memory_of
from federation_tables import Rounds, quartiles

JOBS = Path(__file__).parent / "peers"
START_SECONDS, JOB_SECONDS, END_SECONDS = 120.0, 600.0, 10.0
SAMPLE_SECONDS, SETTLE_SECONDS = 0.05, 1.0
MARK = "ADPFL_BENCHMARK_PEER"


class PeerError(Exception):
    """A framework that is installed did not do the job."""


@dataclass(frozen=True)
class Job:
    """Rounds of one framework: its sites, what each sends and receives a round, and where it works."""

    python: Path
    pki: Path
    """Holds `ca.pem`, `server.pem` and `server.key` for `localhost`."""
    agents: int
    payload_bytes: int
    rounds: int
    folder: Path
    variables: dict[str, str]
    mark: str = field(default_factory=lambda: token_hex(8))
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def programs(self) -> Path:
        """Where the framework's commands are."""
        return self.python.parent

    def start(self, role: str, arguments: Sequence[str | Path]) -> None:
        """Start a process of the framework that stays; `server` is the role that is watched.

        Raises:
            PeerError: there is no such program.
        """
        with (self.folder / f"{role}.log").open("ab") as log:
            try:
                process = subprocess.Popen(
                    [str(argument) for argument in arguments],
                    cwd=self.folder,
                    env=self._environment(role),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise PeerError(str(error)) from error
        self.started.append(process)

    def run(self, arguments: Sequence[str | Path], *, cwd: Path | None = None, **more: str) -> None:
        """Run a command of the framework to its end.

        Raises:
            PeerError: it failed, or did not end.
        """
        try:
            done = subprocess.run(
                [str(argument) for argument in arguments],
                cwd=cwd or self.folder,
                env=self._environment("command") | more,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=START_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PeerError(str(error)) from error
        if done.returncode:
            raise PeerError(
                f"{arguments[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
            )

    def _environment(self, role: str) -> dict[str, str]:
        """Nothing of ours: neither our packages nor our TLS policy of gRPC."""
        return {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "OMP_NUM_THREADS": "1",
            MARK: f"{self.mark}-{role}",
            **self.variables,
        }

    def wait_for(self, name: str, seconds: float) -> None:
        """Wait for a file of the job's gate.

        Raises:
            PeerError: it did not come; with the end of the server's log.
        """
        deadline = time.monotonic() + seconds
        while not (self.folder / name).exists():
            if time.monotonic() > deadline:
                log = self.folder / "server.log"
                tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
                raise PeerError(f"the job was not {name} after {seconds:.0f} s:\n{tail}")
            time.sleep(0.02)

    def processes(self, role: str = "") -> list[int]:
        """Those of a role that live; of all where it is empty."""
        wanted = f"{MARK}={self.mark}-{role}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    if wanted in (folder / "environ").read_bytes():
                        found.append(int(folder.name))
        return found

    def end(self) -> None:
        """End every process of the job."""
        for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
            for living in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(living, number)
            deadline = time.monotonic() + seconds
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.1)
        for process in self.started:
            process.wait(END_SECONDS)


@dataclass(frozen=True)
class Peer:
    """A framework: what pip calls it, and how its server and sites are started and its job submitted."""

    name: str
    distribution: str
    begin: Callable[[Job], None]
    variables: dict[str, str] = field(default_factory=dict)

    def version(self, python: Path) -> str | None:
        """What an interpreter has of it; None where it is not installed."""
        script = f"from importlib.metadata import version; print(version({self.distribution!r}))"
        done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=False)
        return None if done.returncode else done.stdout.strip()


class ServerWatch:
    """Memory and CPU of all processes of a server; those that end are counted as they were last seen."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._done = threading.Event()
        self._cpu: dict[int, float] = {}
        self._idle_memory = self._peak = self._sample()
        self._idle_cpu = sum(self._cpu.values())
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _sample(self) -> int:
        total = 0
        for process in self._job.processes("server"):
            with suppress(OSError, KeyError):  # it has ended
                total += memory_of(process).total
                self._cpu[process] = cpu_seconds(process)
        return total

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, self._sample())

    def stop(self) -> tuple[int, float]:
        """Most bytes over the idle level, and CPU seconds."""
        self._done.set()
        self._thread.join()
        self._sample()
        return self._peak - self._idle_memory, sum(self._cpu.values()) - self._idle_cpu


def wait_for_port(port: int) -> None:
    """Wait until something listens there.

    Raises:
        PeerError: nothing does.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("localhost", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise PeerError(f"nothing listens at port {port} after {START_SECONDS:.0f} s")


@contextmanager
def working(job: Job, begin: Callable[[Job], None]) -> Iterator[None]:
    """The framework's server idle, its sites connected, its job at the gate."""
    try:
        begin(job)
        job.wait_for("ready", START_SECONDS)
        time.sleep(SETTLE_SECONDS)
        yield
    finally:
        (job.folder / "stop").touch()
        job.end()


def measure_peer(
    peer: Peer,
    version: str,
    python: Path,
    pki: Path,
    *,
    agents: int,
    payload_bytes: int,
    rounds: int,
    root: Path,
) -> Rounds:
    """Rounds of a framework, one after the other; the first does not count for the time.

    Raises:
        PeerError: the framework did not do the job.
    """
    folder = Path(tempfile.mkdtemp(prefix="peer-", dir=root))
    job = Job(python, pki, agents, payload_bytes, rounds + 1, folder, peer.variables)
    with working(job, peer.begin):
        watch = ServerWatch(job)
        (folder / "go").touch()
        job.wait_for("done", JOB_SECONDS)
        memory, cpu = watch.stop()
    stamps = [float(line) for line in (folder / "stamps").read_text(encoding="ascii").split()]
    shutil.rmtree(folder, ignore_errors=True)
    if len(stamps) != rounds + 2:
        raise PeerError(f"{len(stamps)} stamps of {rounds + 1} rounds")
    low, median, high = quartiles([1e3 * (later - earlier) for earlier, later in pairwise(stamps[1:])])
    return Rounds(
        f"{peer.name} {version}",
        agents,
        payload_bytes,
        median,
        low,
        high,
        rounds,
        memory,
        1e3 * cpu / (rounds + 1),
    )
