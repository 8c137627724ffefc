"""The demonstration's child processes: the real commands, each with its log, all stopped at the end.

Only processes that were started here are ever signalled.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import adpfl
from adpfl.errors import AdpflError
from adpfl.experiment.demo.configuration import Ports
from adpfl.experiment.demo.folder import DemoFolder

STOP_SECONDS = 20.0
COMMAND_SECONDS = 120.0
START_SECONDS = 60.0
LOG_LINES_SHOWN = 15
_POLL_SECONDS = 0.1


class ChildFailedError(AdpflError):
    """A command of the demonstration ended with an error; its log's last lines are in `log_tail`."""

    def __init__(self, message: str, log_tail: tuple[str, ...]) -> None:
        super().__init__(message)
        self.log_tail = log_tail


@dataclass
class Child:
    """One running command."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    def check(self, *, may_finish: bool) -> bool:
        """Whether it has finished well.

        Raises:
            ChildFailedError: it failed, or finished although it should go on.
        """
        code = self.process.poll()
        if code is None:
            return False
        if code == 0 and may_finish:
            return True
        raise ChildFailedError(
            f"{self.name} ended with {_exit_words(code)}; its log is {self.log}", tail(self.log)
        )


@dataclass
class Troupe:
    """Everything that the demonstration has started."""

    folder: DemoFolder
    children: list[Child] = field(default_factory=list)

    def start(self, name: str, module: str, *arguments: str) -> Child:
        """Start `python -m module arguments` in the demonstration's folder, output to `logs/<name>.log`."""
        log = self.folder.log(name)
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - this interpreter, our own modules
                [sys.executable, "-m", module, *arguments],
                cwd=self.folder.root,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops its children
            )
        child = Child(name, log, process)
        self.children.append(child)
        return child

    def complete(self, name: str, module: str, *arguments: str) -> None:
        """Run a command to its end.

        Raises:
            ChildFailedError: it failed or took longer than `COMMAND_SECONDS`.
        """
        child = self.start(name, module, *arguments)
        self.wait_until(
            lambda: child.check(may_finish=True), seconds=COMMAND_SECONDS, what=f"{name} to end", child=child
        )

    def wait_until(self, ready: Callable[[], bool], *, seconds: float, what: str, child: Child) -> None:
        """Poll until `ready`.

        Raises:
            ChildFailedError: it took longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise ChildFailedError(
                    f"waited {seconds:.0f} s for {what}; its log is {child.log}", tail(child.log)
                )
            time.sleep(_POLL_SECONDS)

    def stop(self, *children: Child) -> None:
        """Ask children to end by SIGTERM, and end by SIGKILL those that have not after `STOP_SECONDS`."""
        running = [child for child in children if child.process.poll() is None]
        for child in running:
            child.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in running:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()


@contextmanager
def troupe(folder: DemoFolder) -> Iterator[Troupe]:
    """Processes that all end with the block, also when it ends by Ctrl-C or SIGTERM."""
    started = Troupe(folder)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield started
    finally:
        try:
            started.stop(*reversed(started.children))
        finally:
            signal.signal(signal.SIGTERM, before)


def free_ports() -> Ports:
    """Two loopback ports that were free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        return Ports(main=first.getsockname()[1], enrollment=second.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something listens on a loopback port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


def tail(log: Path, lines: int = LOG_LINES_SHOWN) -> tuple[str, ...]:
    """The last lines of a log."""
    try:
        return tuple(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ()


def _environment() -> dict[str, str]:
    """This process's environment with one thread a process and this copy of adpfl importable."""
    source = str(Path(adpfl.__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH")
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": f"{source}{os.pathsep}{inherited}" if inherited else source,
    }


def _exit_words(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a signal handler
    raise KeyboardInterrupt
