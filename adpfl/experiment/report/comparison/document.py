"""`run.json` of a comparison: every input and every figure that the page shows, as one record."""

import hashlib
from pathlib import Path
from typing import Literal

import adpfl
from adpfl.config import FrozenModel
from adpfl.experiment.comparison.folder import CellTiming, ComparisonFolder
from adpfl.experiment.comparison.plan import ComparisonPlan
from adpfl.experiment.report.comparison.contents import Contents
from adpfl.experiment.report.comparison.definitions import definitions
from adpfl.experiment.report.comparison.guarantees import SettingGuarantee, setting_guarantees
from adpfl.experiment.report.comparison.settings import Run
from adpfl.experiment.report.comparison.summary import SettingSummary
from adpfl.experiment.report.comparison.targets import Target
from adpfl.experiment.report.record import SITE_FILE


class CellRecord(FrozenModel):
    """What `run.json` keeps of one finished cell, beside its own records in `cells/`."""

    cell: str
    timing: CellTiming
    record_sha256: dict[str, str]
    """Digests of the coordinator's and the sites' records that the figures were made from, by path."""


class ComparisonRecord(FrozenModel):
    """`run.json` of a comparison: every input and every figure that the page shows."""

    schema_version: Literal[1] = 1
    version: str
    plan: ComparisonPlan
    cells: tuple[CellRecord, ...]
    failed: dict[str, str]
    unfinished: tuple[str, ...]
    definitions: dict[str, str]
    findings: tuple[str, ...]
    targets: tuple[Target, ...]
    arms: tuple[SettingSummary, ...]
    curves: dict[str, tuple[SettingSummary, ...]]
    utility: tuple[SettingSummary, ...]
    guarantees: tuple[SettingGuarantee, ...]


def comparison_record(contents: Contents, folder: ComparisonFolder) -> ComparisonRecord:
    """Everything that is said of the comparison."""
    comparison = contents.comparison
    finished = [setting for setting in contents.settings.all if setting.runs]
    return ComparisonRecord(
        version=adpfl.__version__,
        plan=comparison.plan,
        cells=tuple(_cell_record(run, folder) for run in contents.settings.runs),
        failed=comparison.failed,
        unfinished=comparison.unfinished,
        definitions={fact.term: fact.value for fact in definitions(contents)},
        findings=contents.findings,
        targets=contents.targets,
        arms=contents.arm_summaries,
        curves={curve.group: curve.points for curve in contents.curves},
        utility=contents.utility_summaries,
        guarantees=setting_guarantees(finished),
    )


def _cell_record(run: Run, folder: ComparisonFolder) -> CellRecord:
    place = folder.cell(run.cell.cell)
    paths = [place.record, *(place.site(site.site) / SITE_FILE for site in run.sites)]
    return CellRecord(
        cell=run.cell.cell,
        timing=run.timing,
        record_sha256={path.relative_to(folder.root).as_posix(): _digest(path) for path in paths},
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
