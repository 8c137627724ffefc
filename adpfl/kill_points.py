"""Named places at which a daemon can be made to die, so that tests know what a crash there leaves behind.

Where `ADPFL_KILL_AT` is not set, nothing here does anything. `ADPFL_KILL_AT=client.sealed` ends the process
by SIGKILL when it gets to that place, and `client.pushing:3` when it gets there for the third time: no
handler runs, nothing is flushed, nothing is closed. Who can set a process's environment can end it anyway.
"""

import os
import signal
import threading
from collections import Counter
from typing import Final, Literal, get_args

VARIABLE: Final = "ADPFL_KILL_AT"

Point = Literal[
    "client.reserved",
    "client.stepping",
    "client.trained",
    "client.spooling",
    "client.spooled",
    "client.sealed",
    "client.offered",
    "client.pushing",
    "client.pushed",
    "client.receipt_received",
    "client.receipt_kept",
    "client.committed",
    "client.receiving",
    "client.model_saving",
    "client.model_saved",
    "client.run_over",
    "server.run_creating",
    "server.sweeping",
    "server.resumed",
    "server.offer_kept",
    "server.chunk_storing",
    "server.chunk_stored",
    "server.committing",
    "server.commit_written",
    "server.committed",
    "server.aggregating",
    "server.added_up",
    "server.closing",
    "server.closed",
    "server.forgetting",
    "server.recording",
]
"""Where a process may be told to die; each stands in the code once."""

POINTS: Final[frozenset[str]] = frozenset(get_args(Point))

_reached: Counter[str] = Counter()
_lock = threading.Lock()


def reach(point: Point) -> None:
    """Die here, by SIGKILL, if the environment says so."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    name, _, count = wanted.partition(":")
    with _lock:
        _reached[point] += 1
        if (name, int(count or "1")) == (point, _reached[point]):
            os.kill(os.getpid(), signal.SIGKILL)
