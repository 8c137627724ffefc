"""Labels under which a site's records speak of held-out cases: local to the site, and no names."""

from collections.abc import Sequence

from adpfl.data.case import Case


def case_label(position: int) -> str:
    """The label of the held-out case at a position of `evaluate`'s cases: local to the site, and no name."""
    return f"case-{position + 1:03d}"


def patient_labels(cases: Sequence[Case]) -> dict[str, str]:
    """A label for each patient, by first appearance: local to the site, and no name."""
    names = dict.fromkeys(case.patient for case in cases)
    return {name: f"patient-{number:03d}" for number, name in enumerate(names, start=1)}
