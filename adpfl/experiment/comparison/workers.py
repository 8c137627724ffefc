"""Cells over worker processes: joblib's loky on this machine, or Ray on many that share the folder.

A worker is told which cell, never what the others do; all that comes back is how the cell ended. A cell that
cannot go on ends alone. Workers watch the process that started them and end when it has died; a cell's last
checkpoint then stands.
"""

import importlib
import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from adpfl.errors import AdpflError, ConfigError, StateError
from adpfl.experiment.comparison.claim import working_on
from adpfl.experiment.comparison.folder import CellTiming, ComparisonFolder
from adpfl.experiment.comparison.plan import ComparisonPlan
from adpfl.experiment.report.record import read_record
from adpfl.federated.records import ServerRunRecord

Backend = Literal["local", "ray"]

_ORPHAN_SECONDS = 30.0
"""How long a cell waits for a worker of an earlier, killed command to notice that it is alone."""
_WATCH_SECONDS = 0.5


@dataclass(frozen=True)
class Outcome:
    """How one cell ended.

    Attributes:
        cell: its name.
        status: `finished`; `failed` for good, which its record says; `stopped` by an error that a new start
            may mend, or because the command ended.
        detail: why, where it did not finish.
        timing: of a cell that is over.
    """

    cell: str
    status: Literal["finished", "failed", "stopped"]
    detail: str = ""
    timing: CellTiming | None = None


def require_backend(backend: Backend) -> None:
    """Refuse Ray where it is not installed.

    Raises:
        ConfigError: it is not.
    """
    if backend == "ray" and importlib.util.find_spec("ray") is None:
        raise ConfigError(
            '--backend is ray, which is not installed; install it with: pip install "adpfl[ray]"'
        )


def run_cells(
    folder: ComparisonFolder,
    plan: ComparisonPlan,
    cells: Sequence[str],
    *,
    workers: int,
    threads: int = 1,
    backend: Backend = "local",
) -> Iterator[Outcome]:
    """Play cells, yielding each one's outcome when it ends.

    Args:
        folder: the comparison's; with Ray on a file system that every machine sees under the same path.
        plan: what stands in the folder.
        cells: names; started in this order.
        workers: processes at once. One process plays the cells itself where it is 1 and `local`.
        threads: of each worker.
        backend: see the module.

    Raises:
        ConfigError: the backend is not installed.
        StateError: a worker process was killed from outside; the cells' checkpoints stand.
    """
    require_backend(backend)
    jobs = (delayed(play)(folder.root, plan, cell, threads) for cell in cells)
    with _configured(backend, workers, threads):
        try:
            # Ray's backend of joblib gives all outcomes together, when the last cell has ended.
            kind = "list" if backend == "ray" else "generator_unordered"
            yield from Parallel(return_as=kind, batch_size=1)(jobs)
        except TerminatedWorkerError as error:
            raise StateError(
                f"a worker process was killed, for want of memory perhaps; with fewer than "
                f"{workers} workers the same command goes on"
            ) from error


def play(root: Path, plan: ComparisonPlan, name: str, threads: int) -> Outcome:
    """Play one cell in this process; what goes wrong becomes an outcome.

    Args:
        root: the comparison's folder.
        plan: what stands in it.
        name: the cell.
        threads: that torch may use.
    """
    import torch  # noqa: PLC0415 - the process that shows progress does without

    from adpfl.experiment.comparison.simulator import Hooks, run_cell  # noqa: PLC0415 - brings torch

    torch.set_num_threads(threads)
    folder = ComparisonFolder(root)
    place = folder.cell(name)
    place.root.mkdir(parents=True, exist_ok=True)
    cell = plan.cell(name)
    hooks = Hooks(round_closed=place.note_rounds)
    try:
        with _alone(place.root / ".lock"):
            timing = (
                read_record(place.timing, CellTiming)
                if place.is_over
                else run_cell(folder, plan, cell, threads=threads, hooks=hooks)
            )
        record = read_record(place.record, ServerRunRecord)
    except AdpflError as error:
        return Outcome(name, "stopped", str(error))
    if record.status == "failed":
        return Outcome(name, "failed", record.summary, timing)
    return Outcome(name, "finished", timing=timing)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no process of an earlier command works on a cell any more.

    Raises:
        ConfigError: one still does after `_ORPHAN_SECONDS`.
    """
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while True:
        with working_on(lock) as alone:
            if alone:
                yield
                return
        if time.monotonic() > deadline:
            raise ConfigError(f"{lock.parent}: a process of an earlier command still works on this cell")
        time.sleep(0.2)


@contextmanager
def _configured(backend: Backend, workers: int, threads: int) -> Iterator[None]:
    options: dict[str, Any] = {"n_jobs": workers}
    if backend == "ray":
        register: Callable[[], None] = importlib.import_module("ray.util.joblib").register_ray
        register()
    elif workers > 1:
        options |= {"inner_max_num_threads": threads, "initializer": _depend_on, "initargs": (os.getpid(),)}
    with parallel_config("ray" if backend == "ray" else "loky", **options):
        yield


def _depend_on(parent: int) -> None:
    """Make this worker end with its parent, and leave Ctrl-C, which reaches both, to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)  # files are whole at every instant; nothing is left to be said to anybody

    threading.Thread(target=watch, name="parent", daemon=True).start()
