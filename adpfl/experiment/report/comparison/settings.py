"""Runs grouped into settings: everything equal but the seed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

from adpfl.experiment.comparison.folder import CellTiming, Comparison
from adpfl.experiment.comparison.plan import CellPlan, Group
from adpfl.experiment.report.comparison.metrics import Metric
from adpfl.experiment.report.comparison.reduction import RunFigure, run_figure
from adpfl.experiment.report.record import JoinedRun
from adpfl.federated.records import SiteRunRecord

REFERENCE_ARM: Final = "fl"
"""What every other arm is held against: the same training without any privacy mechanism."""

CurveGroup = Literal["clip_norm", "percentile", "noise", "budget"]


@dataclass(frozen=True, eq=False)
class Run:
    """One finished cell.

    Attributes:
        cell: its plan.
        joined: its records and overlays.
        timing: how long it took.
    """

    cell: CellPlan
    joined: JoinedRun
    timing: CellTiming

    @property
    def sites(self) -> tuple[SiteRunRecord, ...]:
        """The sites' records, in the plan's order."""
        return self.joined.record.sites


@dataclass(frozen=True, eq=False)
class Setting:
    """Cells of one group that differ by their seed alone.

    Attributes:
        group: what the cells of the group are compared over.
        arm: the arm's key.
        label: what a reader sees.
        value: what the group varies; None where it varies nothing.
        planned: its cells, finished or not.
        runs: the finished ones, in the plan's order.
    """

    group: Group
    arm: str
    label: str
    value: float | None
    planned: tuple[CellPlan, ...]
    runs: tuple[Run, ...]
    _figures: dict[tuple[str, str | None], Mapping[int, RunFigure]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def figures(self, metric: Metric, structure: str | None = None) -> Mapping[int, RunFigure]:
        """One metric of every finished run, by seed."""
        key = (metric.key, structure)
        if key not in self._figures:
            self._figures[key] = {
                run.cell.seed: run_figure(run.sites, metric, structure) for run in self.runs
            }
        return self._figures[key]

    def by_seed(self, metric: Metric, structure: str | None = None) -> dict[int, float]:
        """One metric's figure of every finished run that has one, by seed."""
        return {
            seed: figure.value
            for seed, figure in self.figures(metric, structure).items()
            if figure.value is not None
        }


@dataclass(frozen=True)
class Settings:
    """All settings of a comparison, in the order in which they were planned."""

    comparison: Comparison

    @cached_property
    def all(self) -> tuple[Setting, ...]:
        """Every setting of every group."""
        cells: dict[tuple[Group, str, str, float | None], list[CellPlan]] = {}
        for cell in self.comparison.plan.cells:
            cells.setdefault((cell.group, cell.arm, cell.label, cell.value), []).append(cell)
        return tuple(self._setting(*key, planned) for key, planned in cells.items())

    def of(self, group: Group) -> tuple[Setting, ...]:
        """The group's settings that have a finished run."""
        return tuple(setting for setting in self.all if setting.group == group and setting.runs)

    def reference(self, group: Group = "arms") -> Setting | None:
        """FL of the group where it has one, else of the arms; None where none has finished."""
        for setting in (*self.of(group), *self.of("arms")):
            if setting.arm == REFERENCE_ARM and setting.value is None:
                return setting
        return None

    def arm(self, arm: str) -> Setting | None:
        """The setting of this arm in group `arms`; None where no run of it has finished."""
        return next((setting for setting in self.of("arms") if setting.arm == arm), None)

    def curve(self, group: CurveGroup) -> tuple[Setting, ...]:
        """The settings along a group's axis, by arm and value, with the arms' own where they stand on it."""
        if group == "budget":
            found = [setting for setting in self.of(group) if setting.value is not None]
            return tuple(sorted(found, key=lambda setting: (setting.label, setting.value or 0.0)))
        plan = self.comparison.plan
        arms = dict.fromkeys((cell.arm, cell.label) for cell in plan.group(group))
        points = []
        for arm, label in arms:
            by_value: dict[float, list[CellPlan]] = {}
            for point in plan.curve(group, arm):
                by_value.setdefault(point.value, []).append(point.cell)
            points += [
                self._setting(group, arm, label, value, planned) for value, planned in by_value.items()
            ]
        return tuple(setting for setting in points if setting.runs)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every finished run, in the plan's order."""
        return self._runs(self.comparison.plan.cells)

    def _setting(
        self, group: Group, arm: str, label: str, value: float | None, planned: Iterable[CellPlan]
    ) -> Setting:
        cells = tuple(planned)
        return Setting(group, arm, label, value, cells, self._runs(cells))

    def _runs(self, cells: Iterable[CellPlan]) -> tuple[Run, ...]:
        found = self.comparison
        return tuple(
            Run(cell, found.runs[cell.cell], found.timings[cell.cell])
            for cell in cells
            if cell.cell in found.runs
        )


def own_value(settings: Settings, group: CurveGroup, arm: str) -> float | None:
    """Where the arm itself, as compared in group `arms`, stands on a curve; None where it does not."""
    names = {cell.cell for cell in settings.comparison.plan.group("arms")}
    for point in settings.curve(group):
        if point.arm == arm and any(cell.cell in names for cell in point.planned):
            return point.value
    return None
