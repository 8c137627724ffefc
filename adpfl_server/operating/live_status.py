"""`adpfl-server status --watch`: where runs stand, again and again, until Ctrl-C.

On a terminal one view is redrawn in place; without one, each look prints a JSON line a run, for a program.
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text

from adpfl_server.config import ServerConfig
from adpfl_server.operating.overview import open_store, status_document, status_lines, storage_trouble
from adpfl_server.store import Store

EVERY_SECONDS = 2.0
"""Between two looks, unless the operator says otherwise."""


def watch_status(
    config: ServerConfig,
    run: str | None,
    *,
    every_seconds: float = EVERY_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    console: Console | None = None,
) -> None:
    """Show one run, or each, until interrupted.

    Raises:
        StateError: there is no such run.
    """
    screen = console or Console(highlight=False, soft_wrap=True)
    with open_store(config) as store:
        try:
            if screen.is_terminal:
                configured = {entry.run for entry in config.runs}
                _redraw(
                    lambda: status_lines(store, _names(store, run), configured), screen, every_seconds, sleep
                )
            else:
                _print_lines(store, run, screen, every_seconds, sleep)
        except KeyboardInterrupt:
            return


def _names(store: Store, run: str | None) -> list[str]:
    return [run] if run is not None else list(store.plan_digests())


def _redraw(
    told: Callable[[], list[str]], screen: Console, every_seconds: float, sleep: Callable[[float], None]
) -> None:
    def view() -> Text:
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S UTC}, every {every_seconds:g} s; Ctrl-C ends"
        lines = [*told(), now]
        # Folded: the end of a long line (who is missing, the quorum) is what the operator looks for.
        return Text("\n".join(lines), no_wrap=False, overflow="fold")

    with Live(view(), console=screen, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            sleep(every_seconds)
            live.update(view(), refresh=True)


def _print_lines(
    store: Store, run: str | None, screen: Console, every_seconds: float, sleep: Callable[[float], None]
) -> None:
    while True:
        trouble = storage_trouble(store.state_dir)
        for name in _names(store, run):
            document = {"at_unix_seconds": time.time()} | status_document(store, name, trouble)
            screen.out(json.dumps(document), highlight=False)
        screen.file.flush()
        sleep(every_seconds)
