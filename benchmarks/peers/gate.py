"""A framework's server tells the benchmark through files when it is ready, and when each round ends.

Goes into the job of each framework; the standard library alone.
"""

import time
from pathlib import Path

POLL_SECONDS = 0.02


def wait_to_begin(folder: Path) -> None:
    """Say that the server is up and idle; return once the benchmark watches it."""
    (folder / "ready").touch()
    _wait_for(folder / "go")


def stamp(folder: Path) -> None:
    """Note that a round begins now, and the one before has ended."""
    with (folder / "stamps").open("a", encoding="ascii") as file:
        file.write(f"{time.monotonic()}\n")


def wait_to_end(folder: Path) -> None:
    """Say that every round has ended; keep the process alive until it has been looked at."""
    (folder / "done").touch()
    _wait_for(folder / "stop")


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(POLL_SECONDS)
