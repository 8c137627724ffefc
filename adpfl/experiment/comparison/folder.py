"""A comparison's folder: what lies where, and how finished cells are read back.

- comparison.json: the plan
- data/<site>/...: the sites' images
- initial.safetensors: what cells with a warm start begin with
- cells/<cell>/run.json: the coordinator's record
- cells/<cell>/sites/<site>/site.json: a site's record, with overlay-*.png beside it
- cells/<cell>/timing.json: written last; a cell with it is over
- cells/<cell>/checkpoint.safetensors: what an unfinished cell goes on from
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from adpfl.config import FrozenModel
from adpfl.experiment.comparison.plan import CellPlan, ComparisonPlan
from adpfl.experiment.report.record import (
    SERVER_FILE,
    DataNote,
    JoinedRun,
    load_run,
    read_record,
    write_record,
)
from adpfl.federated.records import ServerRunRecord

PLAN_FILE = "comparison.json"
TIMING_FILE = "timing.json"
CHECKPOINT_FILE = "checkpoint.safetensors"
PROGRESS_FILE = "progress.json"
INITIAL_MODEL_FILE = "initial.safetensors"


class CellTiming(FrozenModel):
    """`timing.json`: how long a cell took, and with what.

    Time that a killed process spent after its last checkpoint is in no figure.
    """

    schema_version: Literal[1] = 1
    training_seconds: NonNegativeFloat
    """Local steps of all sites, one after the other, with the loading of their images."""
    evaluation_seconds: NonNegativeFloat
    """Scoring global models on held-out patients, overlays included."""
    coordination_seconds: NonNegativeFloat
    """Everything else: reading the folders, rounds, sums, checkpoints, records."""
    total_seconds: NonNegativeFloat
    starts: Annotated[int, Field(ge=1)] = 1
    """More than one where the cell was interrupted and went on."""
    threads: Annotated[int, Field(ge=1)] = 1
    software: dict[str, str] = Field(default_factory=dict)
    """Versions of what computed it, by name."""

    @property
    def overhead(self) -> float:
        """Coordination's share of the total, in [0, 1]."""
        return self.coordination_seconds / self.total_seconds if self.total_seconds else 0.0


class CellProgress(FrozenModel):
    """`progress.json` of a cell that is being played."""

    rounds: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class ComparisonFolder:
    """Paths in one comparison's folder."""

    root: Path

    @property
    def plan(self) -> Path:
        """The comparison's plan."""
        return self.root / PLAN_FILE

    @property
    def data(self) -> Path:
        """The folder above the sites' images."""
        return self.root / "data"

    @property
    def initial_model(self) -> Path:
        """The weights that cells with a warm start begin with; absent where no cell does."""
        return self.root / INITIAL_MODEL_FILE

    def site_data(self, site: str) -> Path:
        """A site's images and masks."""
        return self.data / site

    def cell(self, cell: str) -> "CellFolder":
        """The folder of one cell."""
        return CellFolder(self.root / "cells" / cell)


@dataclass(frozen=True)
class CellFolder:
    """Paths in one cell's folder."""

    root: Path

    @property
    def record(self) -> Path:
        """The coordinator's record."""
        return self.root / SERVER_FILE

    def site(self, site: str) -> Path:
        """The folder of a site's record."""
        return self.root / "sites" / site

    @property
    def timing(self) -> Path:
        """Written last."""
        return self.root / TIMING_FILE

    @property
    def checkpoint(self) -> Path:
        """Of an unfinished cell."""
        return self.root / CHECKPOINT_FILE

    @property
    def progress(self) -> Path:
        """How far an unfinished cell is."""
        return self.root / PROGRESS_FILE

    def note_rounds(self, rounds: int) -> None:
        """Say how many rounds have closed, to whoever watches."""
        write_record(self.progress, CellProgress(rounds=rounds))

    def rounds_closed(self) -> int | None:
        """What was last said so; None before the first start, and once the cell is over."""
        try:
            return CellProgress.model_validate_json(self.progress.read_bytes()).rounds
        except FileNotFoundError:
            return None

    @property
    def is_over(self) -> bool:
        """Whether the cell has finished or failed for good."""
        return self.timing.is_file()


@dataclass(frozen=True)
class Comparison:
    """A comparison as far as it has come; cells that are not over are absent.

    Attributes:
        plan: what was decided before the first cell ran.
        runs: records of the cells that finished, by cell.
        failed: why a cell failed for good (training left the finite numbers), by cell.
        timings: of every cell that is over, by cell.
    """

    plan: ComparisonPlan
    runs: dict[str, JoinedRun]
    failed: dict[str, str]
    timings: dict[str, CellTiming]

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Cells that are not over, in the plan's order."""
        return tuple(cell.cell for cell in self.plan.cells if cell.cell not in self.timings)


def load_comparison(root: Path) -> Comparison:
    """Read a comparison's folder.

    Raises:
        StateError: the plan or a record is absent, unreadable or does not belong with the others.
        IntegrityError: an overlay named by a record is absent or no PNG.
    """
    folder = ComparisonFolder(root)
    plan = read_record(folder.plan, ComparisonPlan)
    over = [cell for cell in plan.cells if folder.cell(cell.cell).is_over]
    timings = {cell.cell: read_record(folder.cell(cell.cell).timing, CellTiming) for cell in over}
    failed = {cell.cell: reason for cell in over if (reason := _failure(folder.cell(cell.cell))) is not None}
    runs = {cell.cell: _load_cell(folder, plan, cell) for cell in over if cell.cell not in failed}
    return Comparison(plan, runs, failed, timings)


def _failure(cell: CellFolder) -> str | None:
    record = read_record(cell.record, ServerRunRecord)
    return record.summary if record.status == "failed" else None


def _load_cell(folder: ComparisonFolder, plan: ComparisonPlan, cell: CellPlan) -> JoinedRun:
    place = folder.cell(cell.cell)
    note = DataNote(synthetic=plan.data.synthetic, patients_are=plan.data.patients_are)
    return load_run(place.root, tuple(place.site(site) for site in plan.data.sites), data_note=note)
