"""Patient-level splits: who is held out, and which patients go to which site.

Order comes from SHA-256 of (purpose, seed, patient), so that the same folder and seed give the same split on
every machine and with every version of Python or NumPy. All images of a patient always stay together.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adpfl.data.case import Case
from adpfl.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Split:
    """Two disjoint groups of patients' cases, each ordered by case."""

    training: tuple[Case, ...]
    held_out: tuple[Case, ...]


def split_held_out(cases: Sequence[Case], fraction: float, seed: int) -> Split:
    """Hold out a share of the patients.

    round(fraction * patients) are held out, at least one where the fraction is not 0, and at least one stays
    for training. To exclude a patient later, split first and drop the patient afterwards: the others then
    keep their sides.

    Args:
        cases: of one site.
        fraction: in [0, 1).
        seed: any integer; another seed holds out others.

    Raises:
        ConfigError: fraction is outside [0, 1).
        DataError: there are too few patients to have both groups.
    """
    if not 0.0 <= fraction < 1.0:
        raise ConfigError(f"held_out_fraction is {fraction}; must be >= 0 and < 1")
    patients = shuffled({case.patient for case in cases}, "held-out", seed)
    needed = 2 if fraction > 0.0 else 1
    if len(patients) < needed:
        raise DataError(
            f"the number of patients is {len(patients)}; "
            f"for held_out_fraction {fraction} it must be >= {needed}"
        )
    count = 0
    if fraction > 0.0:
        count = min(max(round(fraction * len(patients)), 1), len(patients) - 1)
    held_out = frozenset(patients[:count])
    ordered = sorted(cases, key=lambda case: case.case)
    return Split(
        training=tuple(case for case in ordered if case.patient not in held_out),
        held_out=tuple(case for case in ordered if case.patient in held_out),
    )


def deal_to_sites(cases: Sequence[Case], count: int, seed: int) -> tuple[tuple[Case, ...], ...]:
    """Deal patients to `count` sites, near-equally: patients differ by at most one, images by little.

    Raises:
        ConfigError: count is below 1.
        DataError: there are fewer patients than sites.
    """
    if count < 1:
        raise ConfigError(f"the number of sites is {count}; must be >= 1")
    by_patient: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.case):
        by_patient.setdefault(case.patient, []).append(case)
    if len(by_patient) < count:
        raise DataError(f"the number of patients is {len(by_patient)}; must be >= {count}, one a site")
    patients_of = [0] * count
    sites: list[list[Case]] = [[] for _ in range(count)]
    for patient in shuffled(by_patient, "deal", seed):
        site = min(range(count), key=lambda index: (patients_of[index], len(sites[index]), index))
        patients_of[site] += 1
        sites[site].extend(by_patient[patient])
    return tuple(tuple(sorted(site, key=lambda case: case.case)) for site in sites)


def deal_by_source(cases: Sequence[Case]) -> dict[str, tuple[Case, ...]]:
    """One site for each `source` that the layout names, sorted by name.

    Raises:
        DataError: a case names no source, or a patient stands in two.
    """
    sites: dict[str, list[Case]] = {}
    source_of: dict[str, str] = {}
    for case in sorted(cases, key=lambda case: case.case):
        if case.source is None:
            raise DataError(f"{case.case} names no source; a deal by source needs one for every case")
        if source_of.setdefault(case.patient, case.source) != case.source:
            first = source_of[case.patient]
            raise DataError(
                f"the patient of {case.case} is in sources {first!r} and {case.source!r}; must be in one"
            )
        sites.setdefault(case.source, []).append(case)
    return {source: tuple(sites[source]) for source in sorted(sites)}


def shuffled(patients: Iterable[str], purpose: str, seed: int) -> list[str]:
    """Patients ordered by SHA-256 of (purpose, seed, patient)."""

    def key(patient: str) -> tuple[bytes, str]:
        return hashlib.sha256(f"{purpose}\0{seed}\0{patient}".encode()).digest(), patient

    return sorted(patients, key=key)
