"""How far a comparison is and how long it has to go: bars on a terminal, JSON lines elsewhere.

Workers say how many rounds they have closed by a small file each, so that the watcher needs no channel to
them and works for processes on other machines too.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from adpfl.experiment.comparison.folder import ComparisonFolder
from adpfl.experiment.comparison.plan import ComparisonPlan
from adpfl.experiment.comparison.workers import Outcome
from adpfl.experiment.report.words import duration

_POLL_SECONDS = 0.5
_LINE_SECONDS = 15.0


class Watch:
    """Counts closed rounds over all cells, and reckons the time left from the pace since its making."""

    def __init__(
        self, folder: ComparisonFolder, plan: ComparisonPlan, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._lengths = {cell.cell: cell.plan.rounds for cell in plan.cells}
        self._over: set[str] = set()
        self._clock = clock
        self._start = clock()
        self.total = sum(self._lengths.values())
        self.done = 0
        self.running: dict[str, int] = {}
        self.look()
        self._before = self.done

    def look(self) -> None:
        """Read how far every cell is."""
        self.running = {}
        for cell in self._lengths.keys() - self._over:
            place = self._folder.cell(cell)
            if place.is_over:
                self._over.add(cell)
            elif (rounds := place.rounds_closed()) is not None:
                self.running[cell] = rounds
        self.done = sum(self._lengths[cell] for cell in self._over) + sum(self.running.values())

    @property
    def cells_over(self) -> int:
        """Cells that have finished or failed."""
        return len(self._over)

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None before a round has closed."""
        closed = self.done - self._before
        return (self.total - self.done) * (self._clock() - self._start) / closed if closed > 0 else None


class LineDisplay:
    """One JSON object a line: an event, and what it is about."""

    def __init__(self, console: Console, watch: Watch, cells: int) -> None:
        self._console = console
        self.watch = watch
        self._cells = cells
        self._last_line = time.monotonic()

    def say(self, event: str, **facts: object) -> None:
        """One event."""
        line = json.dumps({"event": event, **facts})
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def ended(self, outcome: Outcome) -> None:
        """A cell has come to its end."""
        facts: dict[str, object] = {"cell": outcome.cell, "status": outcome.status}
        if outcome.detail:
            facts["detail"] = outcome.detail
        if outcome.timing is not None:
            facts["seconds"] = round(outcome.timing.total_seconds, 1)
            facts["overhead"] = round(outcome.timing.overhead, 4)
        self.say("cell_ended", **facts)

    def refresh(self) -> None:
        """Where the whole stands, now and then."""
        now = time.monotonic()
        if now - self._last_line < _LINE_SECONDS:
            return
        self._last_line = now
        left = self.watch.seconds_left
        self.say(
            "progress",
            cells_over=self.watch.cells_over,
            cells=self._cells,
            rounds=self.watch.done,
            of_rounds=self.watch.total,
            seconds_left=None if left is None else round(left),
        )


class BarDisplay(LineDisplay):
    """A bar for all rounds and one for each cell that is being played."""

    def __init__(self, console: Console, watch: Watch, lengths: dict[str, int], bars: Progress) -> None:
        super().__init__(console, watch, len(lengths))
        self._lengths = lengths
        self._bars = bars
        self._all = bars.add_task("all rounds", total=watch.total, note="")
        self._cell_bars: dict[str, TaskID] = {}

    def say(self, event: str, **facts: object) -> None:
        """One line above the bars."""
        words = ", ".join(f"{name} {value}" for name, value in facts.items())
        self._console.print(f"{event.replace('_', ' ')}: {words}", highlight=False, markup=False)

    def refresh(self) -> None:
        """Move the bars."""
        left = self.watch.seconds_left
        note = f"{self.watch.cells_over} of {self._cells} cells"
        note += "" if left is None else f", about {duration(left)} left"
        self._bars.update(self._all, completed=self.watch.done, note=note)
        for cell in self._cell_bars.keys() - self.watch.running.keys():
            self._bars.remove_task(self._cell_bars.pop(cell))
        for cell, rounds in self.watch.running.items():
            if cell not in self._cell_bars:
                self._cell_bars[cell] = self._bars.add_task(cell, total=self._lengths[cell], note="")
            self._bars.update(self._cell_bars[cell], completed=rounds)


@contextmanager
def shown(console: Console, folder: ComparisonFolder, plan: ComparisonPlan) -> Iterator[LineDisplay]:
    """A display that follows the cells' files until the block ends."""
    watch = Watch(folder, plan)
    lengths = {cell.cell: cell.plan.rounds for cell in plan.cells}
    if not console.is_terminal:
        display = LineDisplay(console, watch, len(lengths))
        with _followed(watch, display):
            yield display
        return
    columns: Sequence[TextColumn | BarColumn | MofNCompleteColumn | TimeElapsedColumn] = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        display = BarDisplay(console, watch, lengths, bars)
        with _followed(watch, display):
            yield display


@contextmanager
def _followed(watch: Watch, display: LineDisplay) -> Iterator[None]:
    over = threading.Event()

    def follow() -> None:
        while not over.wait(_POLL_SECONDS):
            watch.look()
            display.refresh()

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
