"""Everything that a data folder holds and everything that is wrong with it, case by case."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from adpfl.data.brain_layouts import find_brain_cases
from adpfl.data.case import Case
from adpfl.data.case_findings import CaseFinding, inspect_cases
from adpfl.data.isic import divided_splits
from adpfl.data.kidney_layouts import find_kidney_cases
from adpfl.data.site_table import divided_patients, place_cases, survey_site_table
from adpfl.data.skin_layouts import find_skin_cases

_Number = TypeVar("_Number", int, float)
Finder = Callable[..., tuple[list[Case], list[str]]]

FINDERS: Final[dict[str, Finder]] = {
    "brain_tumor": find_brain_cases,
    "kidney_tumor": find_kidney_cases,
    "skin_lesion": find_skin_cases,
}
"""By the task whose folders they read."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a folder holds in all.

    Attributes:
        cases: how many.
        patients: how many; see `patients_are`.
        patients_are: what is told apart, each kind once, sorted.
        sites: patients by source; empty where nothing names one.
        labels: cases by label convention; empty for photographs.
        least_spacing_mm, largest_spacing_mm: along each axis; None for photographs.
        least_size, largest_size: along each axis.
        structures: cases in which each structure is present.
        problems: how many there are in all.
    """

    cases: int
    patients: int
    patients_are: tuple[str, ...]
    sites: dict[str, int]
    labels: dict[str, int]
    least_spacing_mm: tuple[float, ...] | None
    largest_spacing_mm: tuple[float, ...] | None
    least_size: tuple[int, ...] | None
    largest_size: tuple[int, ...] | None
    structures: dict[str, int]
    problems: int


@dataclass
class FolderSurvey:
    """Reads a folder case after case and remembers what its summary needs.

    Attributes:
        cases: what lies in the folder.
        problems: found so far, each once, in the order of discovery.
    """

    cases: Sequence[Case]
    problems: dict[str, None] = field(default_factory=dict)
    _seen: list[CaseFinding] = field(default_factory=list)

    def findings(self, *, workers: int = 2) -> Iterator[CaseFinding]:
        """Every case in turn; problems grow while this runs."""
        first_of: dict[str, CaseFinding] = {}
        for finding in inspect_cases(self.cases, workers=workers):
            found = finding
            if finding.digest is not None:
                before = first_of.setdefault(finding.digest, finding)
                if before.patient != finding.patient:
                    told = f"{finding.case} is the same image as {before.case} under another patient"
                    found = replace(finding, problems=(*finding.problems, told))
            self.problems |= dict.fromkeys(found.problems)
            self._seen.append(found)
            yield found

    def summary(self) -> Summary:
        """Of the cases found so far."""
        seen = self._seen
        spacings = [finding.spacing_mm for finding in seen if finding.spacing_mm is not None]
        sizes = [finding.size for finding in seen if finding.size is not None]
        return Summary(
            cases=len(seen),
            patients=len({finding.patient for finding in seen}),
            patients_are=tuple(sorted({finding.patient_is for finding in seen})),
            sites=_patients_by_source(seen),
            labels=dict(Counter(finding.labels for finding in seen if finding.labels is not None)),
            least_spacing_mm=_along_axes(min, spacings),
            largest_spacing_mm=_along_axes(max, spacings),
            least_size=_along_axes(min, sizes),
            largest_size=_along_axes(max, sizes),
            structures=_present(seen),
            problems=len(self.problems),
        )


def survey(
    finder: Finder,
    folder: Path,
    *,
    with_masks: bool = True,
    table: Path | None = None,
    table_column: str | None = None,
) -> FolderSurvey:
    """Find a folder's cases, and hold them against a table of sites where one is given.

    Raises:
        DataError: the folder is of no known layout, or a table cannot be read: then no case can be told.
    """
    cases, problems = finder(folder, with_masks=with_masks)
    if table is not None:
        sites, contested = survey_site_table(table, column=table_column)
        cases, wrong = place_cases(cases, sites, table.name)
        wrong = [*contested, *wrong]
    else:
        wrong = divided_patients(cases)
    return FolderSurvey(cases, dict.fromkeys([*problems, *wrong, *divided_splits(cases)]))


def _patients_by_source(seen: Sequence[CaseFinding]) -> dict[str, int]:
    pairs = {(finding.source, finding.patient) for finding in seen if finding.source is not None}
    counts = Counter(source for source, _ in pairs)
    return {source: counts[source] for source in sorted(counts)}


def _present(seen: Sequence[CaseFinding]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for finding in seen:
        for structure, amount in (finding.structures or {}).items():
            counts[structure] += amount > 0
    return dict(counts)


def _along_axes(
    pick: Callable[..., _Number], rows: Sequence[tuple[_Number, ...]]
) -> tuple[_Number, ...] | None:
    """The least or the largest of the first entries, of the second entries, and so on."""
    return tuple(pick(column) for column in zip(*rows, strict=True)) if rows else None
