"""How far the demonstration is, from the daemons' records: bars on a terminal, lines elsewhere."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from adpfl.experiment.demo.folder import DemoFolder
from adpfl.experiment.report.record import SERVER_FILE, SITE_FILE, Record, read_record
from adpfl.federated.records import ServerRunRecord, SiteRunRecord
from adpfl.federated.run_plan import RunPlan


@dataclass(frozen=True)
class Standing:
    """How far a run is.

    Attributes:
        rounds: closed rounds.
        shares: for each closed round, how many sites' updates it holds.
        dice: the last evaluated round and its mean Dice, by site; absent until evaluated.
        steps: local steps recorded, by site.
    """

    rounds: int
    shares: tuple[int, ...]
    dice: dict[str, tuple[int, float]]
    steps: dict[str, int]


def read_standing(folder: DemoFolder, plan: RunPlan) -> Standing:
    """Read the records as far as they exist.

    Raises:
        StateError: a record exists and cannot be read.
    """
    server = _read(folder.server_state / "runs" / plan.run / SERVER_FILE, ServerRunRecord)
    closed = [entry for entry in server.rounds if entry.result_digest is not None] if server else []
    dice: dict[str, tuple[int, float]] = {}
    steps: dict[str, int] = {}
    for site in plan.cohort.sites:
        record = _read(folder.site_state(site) / "runs" / plan.run / SITE_FILE, SiteRunRecord)
        if record is None:
            continue
        steps[site] = len(record.steps)
        if record.evaluations and record.evaluations[-1].mean_dice is not None:
            dice[site] = (record.evaluations[-1].round, record.evaluations[-1].mean_dice)
    return Standing(len(closed), tuple(len(entry.sites) for entry in closed), dice, steps)


class Display:
    """Shows standings; made by `display`."""

    def __init__(self, console: Console, plan: RunPlan) -> None:
        self._console = console
        self._plan = plan
        self._told = 0

    def say(self, text: str) -> None:
        """One line about what is being done."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def show(self, standing: Standing) -> None:
        """A line for each round that closed since the last call."""
        for number in range(self._told + 1, standing.rounds + 1):
            line = f"round {number} of {self._plan.rounds}: "
            line += f"{standing.shares[number - 1]} of {len(self._plan.cohort.sites)} sites"
            if number == standing.rounds and standing.dice:
                line += f"; {_scores(standing)}"
            self.say(line)
        self._told = standing.rounds

    def conclude(self, standing: Standing) -> None:
        """The last scores of every site, which are those of the report, and their mean."""
        if standing.dice:
            mean = statistics.fmean(dice for _, dice in standing.dice.values())
            self.say(f"training ended; {_scores(standing)}; mean of sites {mean:.3f}")


class BarDisplay(Display):
    """A bar for the rounds and one for each site's steps."""

    def __init__(self, console: Console, plan: RunPlan, bars: Progress) -> None:
        super().__init__(console, plan)
        self._bars = bars
        self._rounds: TaskID | None = None
        self._sites: dict[str, TaskID] = {}

    def show(self, standing: Standing) -> None:
        """Move the bars."""
        if self._rounds is None:
            self._rounds = self._bars.add_task("rounds", total=self._plan.rounds, note="")
            total = self._plan.rounds * self._plan.local.steps
            self._sites = {
                site: self._bars.add_task(site, total=total, note="") for site in self._plan.cohort.sites
            }
        share = f"{standing.shares[-1]} of {len(self._plan.cohort.sites)} sites" if standing.shares else ""
        self._bars.update(self._rounds, completed=standing.rounds, note=share)
        for site, bar in self._sites.items():
            evaluated = standing.dice.get(site)
            note = f"Dice {evaluated[1]:.3f} after round {evaluated[0]}" if evaluated else ""
            self._bars.update(bar, completed=standing.steps.get(site, 0), note=note)


@contextmanager
def display(console: Console, plan: RunPlan) -> Iterator[Display]:
    """Bars on a terminal, lines otherwise."""
    if not console.is_terminal:
        yield Display(console, plan)
        return
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
    )
    with bars:
        yield BarDisplay(console, plan, bars)


def _scores(standing: Standing) -> str:
    """Scores under the round that each belongs to: a site may evaluate while the next round trains."""
    by_round: dict[int, list[str]] = {}
    for site, (round_number, dice) in standing.dice.items():
        by_round.setdefault(round_number, []).append(f"{site} {dice:.3f}")
    parts = (
        f"Dice {f'after round {number}' if number else 'before training'}: {', '.join(scores)}"
        for number, scores in sorted(by_round.items(), reverse=True)
    )
    return "; ".join(parts)


def _read(path: Path, model: type[Record]) -> Record | None:
    return read_record(path, model) if path.is_file() else None
