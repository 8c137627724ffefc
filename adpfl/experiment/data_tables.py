"""What `adpfl data check` shows on a terminal."""

from collections.abc import Callable, Sequence

from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from adpfl.data.case_findings import CaseFinding
from adpfl.data.folder_survey import FolderSurvey, Summary

_KINDS = {"patient": "patients", "lesion": "lesions", "image": "images"}


def print_survey(found: FolderSurvey, console: Console, workers: int) -> None:
    """Read the folder under a progress bar, then print a row a case, the summary and what is wrong."""
    rows = []
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(found.cases))
        for finding in found.findings(workers=workers):
            rows.append(finding)
            progress.advance(bar)
    console.print(case_table(rows))
    console.print(summary_table(found.summary()))
    for problem in found.problems:
        console.print(Text(f"wrong: {problem}", style="red"))


def case_table(findings: Sequence[CaseFinding]) -> Table:
    """One row a case. Columns that would say nothing are left out; a case's name is never cut or broken."""
    columns: list[tuple[str, JustifyMethod, Callable[[CaseFinding], str]]] = [
        ("case", "left", lambda finding: finding.case)
    ]
    if any(finding.patient != finding.case for finding in findings):
        columns.append(("patient", "left", lambda finding: finding.patient))
    if any(finding.source is not None for finding in findings):
        columns.append(("source", "left", lambda finding: finding.source or "-"))
    columns.append(("size", "right", lambda finding: _by(finding.size)))
    if any(finding.spacing_mm is not None for finding in findings):
        columns.append(("spacing, mm", "right", lambda finding: _spacing(finding.spacing_mm)))
        columns.append(("stored", "left", lambda finding: finding.orientation or "-"))
    table = Table(box=None, header_style="bold", pad_edge=False)
    longest = max((len(finding.case) for finding in findings), default=0)
    for heading, justify, _ in columns:
        least = longest if heading == "case" else None
        table.add_column(heading, justify=justify, min_width=least, overflow="fold")
    table.add_column("mask")
    for finding in findings:
        mask = Text("wrong", style="red") if finding.problems else Text(_mask(finding))
        table.add_row(*(Text(words(finding)) for _, _, words in columns), mask)
    return table


def summary_table(summary: Summary) -> Table:
    """What the folder holds in all."""
    table = Table(box=None, show_header=False, pad_edge=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    told = str(summary.patients)
    if summary.patients_are != ("patient",):
        told += f" (for want of patients: {' and '.join(_KINDS[kind] for kind in summary.patients_are)})"
    rows = [("cases", str(summary.cases)), ("patients", told)]
    if summary.sites:
        counts = ", ".join(f"{site} {patients}" for site, patients in summary.sites.items())
        rows.append(("sites", f"{len(summary.sites)}; patients: {counts}"))
    if summary.labels:
        counts = ", ".join(f"{labels} ({cases})" for labels, cases in sorted(summary.labels.items()))
        rows.append(("labels of", counts))
    if summary.least_size is not None:
        rows.append(("sizes", f"{_by(summary.least_size)} to {_by(summary.largest_size)}"))
    if summary.least_spacing_mm is not None:
        spacings = f"{_spacing(summary.least_spacing_mm)} to {_spacing(summary.largest_spacing_mm)}"
        rows.append(("spacings, mm", spacings))
    rows += [(name, f"in {cases} of {summary.cases} cases") for name, cases in summary.structures.items()]
    rows.append(("wrong", str(summary.problems)))
    for heading, words in rows:
        table.add_row(heading, Text(words))
    return table


def _by(size: tuple[int, ...] | None) -> str:
    return "-" if size is None else "x".join(map(str, size))


def _spacing(spacing_mm: tuple[float, ...] | None) -> str:
    return "-" if spacing_mm is None else "x".join(f"{edge:.3g}" for edge in spacing_mm)


def _mask(finding: CaseFinding) -> str:
    """What the mask holds: ml of each structure, or the lesion's share of a photograph."""
    if finding.structures is None:
        return "-"
    if finding.labels is None:
        return ", ".join(f"{name} {share:.1%}" for name, share in finding.structures.items())
    held = [f"{name} {volume:.1f} ml" for name, volume in finding.structures.items() if volume > 0.0]
    return ", ".join(held) or "empty"
