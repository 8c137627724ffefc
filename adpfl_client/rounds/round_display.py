"""What a person at the agent's terminal sees of a round under way. Without a terminal the log alone speaks.

It stays on this machine, so it may show what the server must not know: under Poisson sampling the pace of the
steps tells the batches' sizes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from adpfl.wire.messages import SiteActivity

_WORDS = {
    SiteActivity.FETCHING: "receiving the model",
    SiteActivity.TRAINING: "training",
    SiteActivity.PUSHING: "sending the update",
}


class ShownRound:
    """One round's line: what the site does, and local steps done."""

    def __init__(self, bars: Progress | None, bar: TaskID, title: str) -> None:
        self._bars = bars
        self._bar = bar
        self._title = title

    def activity(self, activity: SiteActivity) -> None:
        """Say what the site does from now on."""
        if self._bars is not None:
            words = _WORDS.get(activity, activity.name.lower())
            self._bars.update(self._bar, description=f"{self._title}: {words}")

    def steps_done(self, done: int) -> None:
        """Say how many local steps are done."""
        if self._bars is not None:
            self._bars.update(self._bar, completed=done)


class RoundDisplay:
    """Draws rounds below the log, each gone when it is over."""

    def __init__(self, console: Console | None = None) -> None:
        """Draw on a console's terminal; nothing where it is None or no terminal."""
        self._console = console if console is not None and console.is_terminal else None

    @contextmanager
    def showing(self, run: str, round_number: int, *, rounds: int, steps: int) -> Iterator[ShownRound]:
        """Show a round while the block runs.

        Args:
            run: the run's name.
            round_number: counted from 1.
            rounds: of the whole run.
            steps: local steps of the round.
        """
        title = f"{run}, round {round_number} of {rounds}"
        if self._console is None:
            yield ShownRound(None, TaskID(0), title)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as bars:
            yield ShownRound(bars, bars.add_task(title, total=steps), title)
