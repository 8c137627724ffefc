"""Deals patients to sites unevenly, by Polya's urn.

Drawing the sites of n patients one after another, each site with probability proportional to
`concentration` + the patients it has already, gives the counts exactly as drawing proportions from a
symmetric Dirichlet distribution first and patients from them afterwards (Blackwell & MacQueen 1973). The urn
needs uniform draws alone, which come from SHA-256: the same patients and seed give the same deal on every
machine and with every version of Python or NumPy.
"""

import hashlib
from collections.abc import Mapping, Sequence

from adpfl.data.partition import shuffled

LEAST_PATIENTS = 2
"""At every site: one to train on and one to hold out."""


def dirichlet_deal(
    stratum_of: Mapping[str, str], sites: int, *, concentration: float, seed: int
) -> dict[str, int]:
    """The site of each patient, each stratum spread in proportions of its own (Hsu et al. 2019).

    Sites left with fewer than two patients then take some from the largest, so that the smallest deals are a
    little more even than the distribution.

    Args:
        stratum_of: by patient; at least two patients a site.
        sites: how many.
        concentration: of the symmetric Dirichlet distribution, above 0.
        seed: any integer.
    """
    site_of: dict[str, int] = {}
    for stratum in sorted(set(stratum_of.values())):
        members = [patient for patient, its in stratum_of.items() if its == stratum]
        purpose = f"dirichlet\0{stratum}"
        site_of |= _urn(shuffled(members, purpose, seed), [0] * sites, purpose, concentration, seed)
    return _repaired(site_of, sites, seed)


def quantity_deal(patients: Sequence[str], sites: int, *, concentration: float, seed: int) -> dict[str, int]:
    """The site of each patient: two for every site, the rest by one draw of Dirichlet proportions.

    Args:
        patients: at least two a site.
        sites: how many.
        concentration: of the symmetric Dirichlet distribution, above 0.
        seed: any integer.
    """
    order = shuffled(patients, "quantity", seed)
    first, rest = order[: LEAST_PATIENTS * sites], order[LEAST_PATIENTS * sites :]
    site_of = {patient: place % sites for place, patient in enumerate(first)}
    return site_of | _urn(rest, [0] * sites, "quantity", concentration, seed)


def _urn(
    patients: Sequence[str], counts: list[int], purpose: str, concentration: float, seed: int
) -> dict[str, int]:
    site_of: dict[str, int] = {}
    for drawn, patient in enumerate(patients):
        place = _uniform(purpose, seed, patient) * (len(counts) * concentration + drawn)
        site = 0
        while site < len(counts) - 1 and place >= concentration + counts[site]:
            place -= concentration + counts[site]
            site += 1
        counts[site] += 1
        site_of[patient] = site
    return site_of


def _repaired(site_of: Mapping[str, int], sites: int, seed: int) -> dict[str, int]:
    groups: list[list[str]] = [[] for _ in range(sites)]
    for patient in shuffled(site_of, "repair", seed):
        groups[site_of[patient]].append(patient)
    for group in groups:
        while len(group) < LEAST_PATIENTS:
            largest = max(groups, key=len)
            group.append(largest.pop())
    return {patient: site for site, group in enumerate(groups) for patient in group}


def _uniform(purpose: str, seed: int, patient: str) -> float:
    """A number in [0, 1) with 53 bits, apart from the digest that orders patients."""
    digest = hashlib.sha256(f"urn\0{purpose}\0{seed}\0{patient}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53
