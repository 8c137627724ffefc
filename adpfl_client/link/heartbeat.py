"""Tells the server every few seconds that this site is alive and how far it is, while the main thread works.

What it says is public by the plan: the round, the kind of work and, where the steps' sizes are public too,
local steps done. Never a figure of the data.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from adpfl.errors import ProtocolError
from adpfl.wire.messages import HeartbeatRequest, HeartbeatResponse, SiteActivity

INTERVAL_SECONDS = 7.0

Send = Callable[[HeartbeatRequest], HeartbeatResponse | None]


class Heartbeat:
    """One round's heartbeat. `obsolete` turns true when the server says that the round needs no more work."""

    def __init__(self, send: Send, run: str, round_number: int, steps_total: int) -> None:
        self.obsolete = False
        self._send = send
        self._run = run
        self._round = round_number
        self._steps_total = steps_total
        self._activity = SiteActivity.IDLE
        self._steps_done = 0
        self._changed = threading.Event()
        self._ended = threading.Event()

    def activity(self, activity: SiteActivity) -> None:
        """Say what the site does from now on; the server hears it at once."""
        self._activity = activity
        self._changed.set()

    def steps_done(self, done: int) -> None:
        """Say how many local steps are done; the server hears it with the next beat."""
        self._steps_done = done

    def beat(self) -> None:
        """Send one heartbeat and take the answer."""
        request = HeartbeatRequest(
            self._run,
            self._round,
            self._activity,
            min(self._steps_done, self._steps_total),
            self._steps_total,
        )
        answer = self._send(request)
        if answer is not None and answer.obsolete:
            self.obsolete = True

    def run_until_ended(self, interval_seconds: float) -> None:
        """Beat at every change of activity and every interval; body of the thread."""
        while not self._ended.is_set():
            self._changed.wait(interval_seconds)
            self._changed.clear()
            if self._ended.is_set():
                return
            try:
                self.beat()
            except ProtocolError:
                return  # the server understands no heartbeat of ours; the work itself will say why

    def end(self) -> None:
        """Let the thread end."""
        self._ended.set()
        self._changed.set()


@contextmanager
def beating(
    send: Send,
    *,
    run: str,
    round_number: int,
    steps_total: int,
    interval_seconds: float = INTERVAL_SECONDS,
) -> Iterator[Heartbeat]:
    """Beat in the background while the block runs."""
    heartbeat = Heartbeat(send, run, round_number, steps_total)
    thread = threading.Thread(
        target=heartbeat.run_until_ended, args=(interval_seconds,), name="heartbeat", daemon=True
    )
    thread.start()
    try:
        yield heartbeat
    finally:
        heartbeat.end()
        thread.join()
