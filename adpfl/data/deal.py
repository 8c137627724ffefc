"""Deals a data set to sites as a `PartitionPlan` says: patient by patient, the same on every machine."""

import re
from collections.abc import Mapping, Sequence

from adpfl.data.case import Case
from adpfl.data.lesion_size import lesion_size
from adpfl.data.partition import deal_by_source, deal_to_sites
from adpfl.data.partition_plan import PartitionPlan
from adpfl.data.problems import folder_error
from adpfl.data.site_table import place_cases, read_site_table
from adpfl.data.skew import LEAST_PATIENTS, dirichlet_deal, quantity_deal
from adpfl.errors import ConfigError, DataError

_LONGEST_NAME = 63


def deal(
    cases: Sequence[Case], partition: PartitionPlan, sites: int | None, seed: int
) -> dict[str, tuple[Case, ...]]:
    """The cases of each site, by name; no patient in two, at least two patients in each.

    Sites are called after their sources where these are dealt by, `site1`, `site2`, ... otherwise.

    Args:
        cases: of the whole data set; with masks where strata come from lesions.
        partition: how.
        sites: how many. By source, the largest sources are taken and the rest is left out; None takes all.
        seed: any integer; it decides nothing where sources do.

    Raises:
        ConfigError: `sites` is missing or below 1.
        DataError: there are too few patients or sources, a case has no source, a patient stands in two, a
            table or a mask cannot be read.
    """
    if partition.table is not None:
        table = read_site_table(partition.table, column=partition.table_column)
        cases = _placed(cases, table, partition)
    if partition.method == "source":
        return _by_source(cases, sites)
    if sites is None or sites < 1:
        raise ConfigError(f"the number of sites is {sites}; must be >= 1 to deal by {partition.method}")
    patients = sorted({case.patient for case in cases})
    if len(patients) < LEAST_PATIENTS * sites:
        raise DataError(
            f"the number of patients is {len(patients)}; must be >= {LEAST_PATIENTS * sites}, "
            f"{LEAST_PATIENTS} for each of {sites} sites"
        )
    if partition.method == "equal":
        return dict(zip(_names(sites), deal_to_sites(cases, sites, seed), strict=True))
    if partition.method == "quantity":
        site_of = quantity_deal(patients, sites, concentration=partition.concentration, seed=seed)
    else:
        strata = _strata(cases, partition)
        site_of = dirichlet_deal(strata, sites, concentration=partition.concentration, seed=seed)
    ordered = sorted(cases, key=lambda case: case.case)
    return {
        name: tuple(case for case in ordered if site_of[case.patient] == site)
        for site, name in enumerate(_names(sites))
    }


def site_name(source: str) -> str:
    """A source's name as a site's: lower case, and safe in files and addresses.

    Raises:
        DataError: nothing of the name is left.
    """
    name = re.sub(r"[^a-z0-9_-]+", "-", source.lower()).strip("-_")[:_LONGEST_NAME]
    if not name:
        raise DataError(f"source {source!r} has no letter or digit to name a site by")
    return name


def _names(sites: int) -> tuple[str, ...]:
    return tuple(f"site{number}" for number in range(1, sites + 1))


def _placed(
    cases: Sequence[Case], table: Mapping[str, str | None], partition: PartitionPlan
) -> Sequence[Case]:
    """The cases to which the table gives a source; it may list cases that are not here."""
    assert partition.table is not None
    here = {case.case for case in cases}
    own = {case: site for case, site in table.items() if case in here}
    placed, problems = place_cases(cases, own, partition.table.name)
    if problems:
        raise folder_error(partition.table, problems)
    return [case for case in placed if case.source is not None]


def _by_source(cases: Sequence[Case], sites: int | None) -> dict[str, tuple[Case, ...]]:
    by_source = deal_by_source(cases)
    patients = {source: len({case.patient for case in share}) for source, share in by_source.items()}
    chosen = sorted(by_source, key=lambda source: (-patients[source], source))
    if sites is not None:
        if sites < 1:
            raise ConfigError(f"the number of sites is {sites}; must be >= 1")
        if len(chosen) < sites:
            raise DataError(f"the number of sources is {len(chosen)}; must be >= {sites}, one a site")
        chosen = chosen[:sites]
    small = [source for source in chosen if patients[source] < LEAST_PATIENTS]
    if small:
        raise DataError(
            f"sources {', '.join(small[:5])}{', ...' if len(small) > 5 else ''} have fewer than "
            f"{LEAST_PATIENTS} patients; at most {len(chosen) - len(small)} sites can be made of sources"
        )
    named: dict[str, tuple[Case, ...]] = {}
    for source in sorted(chosen):
        name = site_name(source)
        if name in named:
            raise DataError(f"two sources would both be the site {name!r}; give them names that differ")
        named[name] = by_source[source]
    return named


def _strata(cases: Sequence[Case], partition: PartitionPlan) -> dict[str, str]:
    """The stratum of each patient."""
    if partition.covariate == "source":
        by_source = deal_by_source(cases)
        return {case.patient: source for source, share in by_source.items() for case in share}
    sizes: dict[str, list[float]] = {}
    for case in sorted(cases, key=lambda case: case.case):
        sizes.setdefault(case.patient, []).append(lesion_size(case))
    order = sorted(sizes, key=lambda patient: (sum(sizes[patient]) / len(sizes[patient]), patient))
    return {patient: str(place * partition.strata // len(order)) for place, patient in enumerate(order)}
