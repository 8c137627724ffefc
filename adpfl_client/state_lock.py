"""One agent at a time on a state folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adpfl.errors import StateError
from adpfl_client.durable import make_private_folder, storing

LOCK_FILE = "agent.lock"
"""Held while an agent runs; the system lets go of it when the process ends, however it ends."""


class AgentRunningError(StateError):
    """Another agent holds the state folder."""


@contextmanager
def alone(state_dir: Path) -> Iterator[None]:
    """Hold the state folder for this process: two agents would spend one reservation twice.

    Raises:
        AgentRunningError: another agent holds it.
        StorageError: the folder cannot be made or written.
    """
    with storing("the state folder"):
        lock = (make_private_folder(state_dir) / LOCK_FILE).open("a")
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AgentRunningError(f"{state_dir}: another agent of this site is running on it") from error
        yield
