"""What a comparison runs: its cells, each a whole run plan, and the data that all of them share."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from adpfl.config import FrozenModel, Name
from adpfl.experiment.report.record import PatientsAre
from adpfl.federated.run_plan import RunPlan
from adpfl.privacy.plan import FixedThreshold, PaperPrivacy, PercentileThreshold

Group = Literal["arms", "clip_norm", "percentile", "noise", "budget", "utility"]
"""What the cells of a group are compared over.

`arms`: nothing but the arm. `clip_norm`: DP-FL's fixed C. `percentile`: ADP-FL's percentile. `noise`: the
nominal epsilon, which under one reading is the noise. `budget`: the target of the honest epsilon. `utility`:
settings beyond the privacy plan.
"""


class CellPlan(FrozenModel):
    """One run of the comparison."""

    cell: Name
    """Unique; the name of its folder and of its run."""
    group: Group
    arm: Name
    """fl, dp-fl, adp-fl, rigorous, or another name that the group gives."""
    label: str
    """What a reader sees: FL, DP-FL, ..."""
    value: float | None = None
    """What the group varies; None in group `arms`, and for an arm that the value does not touch."""
    seed: Annotated[int, Field(ge=0)]
    """Of initial weights and augmentation. Sampling and noise come from a secret key, anew in every run."""
    plan: RunPlan

    @model_validator(mode="after")
    def _one_name(self) -> "CellPlan":
        if (self.plan.run, self.plan.seed) != (self.cell, self.seed):
            raise ValueError(
                f"cell {self.cell} with seed {self.seed} holds run {self.plan.run} with seed "
                f"{self.plan.seed}; must agree"
            )
        return self


class DataDescription(FrozenModel):
    """The images that every cell trains on and is scored on, the same patients for all."""

    words: str
    """Where they come from, for a reader."""
    synthetic: bool
    """They were drawn by a program and show no person."""
    patients_are: PatientsAre
    partition: str
    """How patients came to their sites, in words."""
    training_patients: dict[Name, int]
    """By site, in the order of the cohort."""
    held_out_patients: dict[Name, int]
    held_out_fraction: float
    split_seed: int

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in the order of the cohort."""
        return tuple(self.training_patients)


class ComparisonPlan(FrozenModel):
    """`comparison.json`: everything that was decided before the first cell ran."""

    schema_version: Literal[1] = 1
    task: Name
    command: str
    """What was typed."""
    options: dict[str, str]
    """Every option that decides a result, defaults included, as text."""
    data: DataDescription
    evaluate_every_rounds: Annotated[int, Field(ge=0)] = 5
    """The initial and the final model are scored in any case; 0 scores no other."""
    cells: Annotated[tuple[CellPlan, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _cells_belong_together(self) -> "ComparisonPlan":
        names = [cell.cell for cell in self.cells]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"cell {name} stands twice; each may stand once")
        for cell in self.cells:
            if cell.plan.task != self.task:
                raise ValueError(f"cell {cell.cell} is of task {cell.plan.task}; must be {self.task}")
            if cell.plan.cohort.sites != self.data.sites:
                raise ValueError(f"cell {cell.cell} names other sites than the data; must be the same")
        return self

    def cell(self, name: str) -> CellPlan:
        """The cell of this name.

        Raises:
            KeyError: there is none.
        """
        for cell in self.cells:
            if cell.cell == name:
                return cell
        raise KeyError(name)

    def group(self, group: Group) -> tuple[CellPlan, ...]:
        """The cells of a group, in the order in which they were planned."""
        return tuple(cell for cell in self.cells if cell.group == group)

    def curve(self, group: Literal["clip_norm", "percentile", "noise"], arm: str) -> tuple["CurvePoint", ...]:
        """The points of one arm's curve, by value and seed.

        A point at the arms' own value is not run twice: there the arms' cells stand, of every seed.
        """
        own = [CurvePoint(cell.value, cell) for cell in self.group(group) if cell.arm == arm and cell.value]
        shared = [
            CurvePoint(value, cell)
            for cell in self.group("arms")
            if own and cell.arm == arm and (value := varied(cell.plan, group)) is not None
        ]
        return tuple(sorted((*own, *shared), key=lambda point: (point.value, point.cell.seed)))


@dataclass(frozen=True)
class CurvePoint:
    """One cell on a curve."""

    value: float
    cell: CellPlan


def varied(plan: RunPlan, group: Literal["clip_norm", "percentile", "noise"]) -> float | None:
    """Where a plan stands on the axis of a group; None where it stands on none."""
    privacy = plan.privacy
    if not isinstance(privacy, PaperPrivacy):
        return None
    if group == "noise":
        return privacy.nominal_epsilon
    if group == "clip_norm":
        return privacy.threshold.clip_norm if isinstance(privacy.threshold, FixedThreshold) else None
    return privacy.threshold.percentile if isinstance(privacy.threshold, PercentileThreshold) else None
