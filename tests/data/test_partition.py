"""Splits by patient: disjoint, complete, deterministic, even."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adpfl.data.case import Case
from adpfl.data.partition import deal_by_source, deal_to_sites, split_held_out
from adpfl.errors import ConfigError, DataError

Maker = Callable[..., list[Case]]


def test_no_patient_stands_on_both_sides(patients: Maker) -> None:
    cases = patients([1, 2, 3] * 10)
    split = split_held_out(cases, 0.25, seed=3)
    training, held_out = ({case.patient for case in side} for side in (split.training, split.held_out))
    assert not training & held_out
    assert sorted(split.training + split.held_out, key=lambda case: case.case) == cases
    assert len(held_out) == round(0.25 * 30)


def test_order_of_the_cases_does_not_matter_and_the_seed_does(patients: Maker) -> None:
    cases = patients([1] * 40)
    assert split_held_out(cases, 0.2, 0) == split_held_out(cases[::-1], 0.2, 0)
    assert split_held_out(cases, 0.2, 0) != split_held_out(cases, 0.2, 1)


def test_the_split_is_the_same_on_every_machine(patients: Maker) -> None:
    held_out = split_held_out(patients([1] * 10), 0.3, 0).held_out
    assert [case.patient for case in held_out] == ["p000", "p003", "p009"]


def test_held_out_patients_are_drawn_evenly(patients: Maker) -> None:
    """Over 400 seeds each of 10 patients is held out 120 times in the mean, standard deviation 9.2."""
    cases = patients([1] * 10)
    counts = dict.fromkeys((case.patient for case in cases), 0)
    for seed in range(400):
        for case in split_held_out(cases, 0.3, seed).held_out:
            counts[case.patient] += 1
    assert all(abs(count - 120) < 5 * 9.2 for count in counts.values())


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (5, 0.0, 0), (9, 0.5, 4)]
)
def test_both_sides_keep_at_least_one(patients: Maker, count: int, fraction: float, expected: int) -> None:
    split = split_held_out(patients([1] * count), fraction, 0)
    assert len(split.held_out) == expected
    assert split.training


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_outside_the_range_is_refused(patients: Maker, fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"held_out_fraction is .*; must be >= 0 and < 1"):
        split_held_out(patients([1, 1]), fraction, 0)


def test_one_patient_cannot_be_split(patients: Maker) -> None:
    with pytest.raises(
        DataError, match=r"the number of patients is 1; for held_out_fraction 0\.2 it must be >= 2"
    ):
        split_held_out(patients([4]), 0.2, 0)
    assert len(split_held_out(patients([4]), 0.0, 0).training) == 4
    with pytest.raises(DataError, match="the number of patients is 0"):
        split_held_out([], 0.0, 0)


@settings(deadline=None)
@given(
    images_of=st.lists(st.integers(1, 5), min_size=7, max_size=40),
    sites=st.integers(1, 7),
    seed=st.integers(),
)
def test_a_deal_is_complete_disjoint_and_even(images_of: list[int], sites: int, seed: int) -> None:
    cases = [
        Case(f"c{patient:03d}-{image}", f"p{patient}", None, None)  # type: ignore[arg-type]
        for patient, count in enumerate(images_of)
        for image in range(count)
    ]
    dealt = deal_to_sites(cases, sites, seed)
    assert sorted(case.case for site in dealt for case in site) == [case.case for case in cases]
    groups = [{case.patient for case in site} for site in dealt]
    assert sum(map(len, groups)) == len(images_of)
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1


def test_a_deal_depends_on_the_seed_alone(patients: Maker) -> None:
    cases = patients([1] * 12)
    assert deal_to_sites(cases, 3, 5) == deal_to_sites(cases[::-1], 3, 5)
    assert deal_to_sites(cases, 3, 5) != deal_to_sites(cases, 3, 6)


def test_a_deal_and_a_split_with_one_seed_are_independent(patients: Maker) -> None:
    """Held out would otherwise be what was dealt first."""
    cases = patients([1] * 60)
    first_site = {case.patient for case in deal_to_sites(cases, 3, 0)[0]}
    held_out = {case.patient for case in split_held_out(cases, 1 / 3, 0).held_out}
    assert 1 <= len(first_site & held_out) <= 14


def test_more_sites_than_patients_are_refused(patients: Maker) -> None:
    with pytest.raises(DataError, match="the number of patients is 2; must be >= 3, one a site"):
        deal_to_sites(patients([5, 5]), 3, 0)
    with pytest.raises(ConfigError, match="the number of sites is 0; must be >= 1"):
        deal_to_sites(patients([5, 5]), 0, 0)


def test_a_deal_by_source_follows_the_layout(patients: Maker) -> None:
    north, south = (
        patients([2], "north"),
        [replace(case, source="south", patient="q") for case in patients([1])],
    )
    sites = deal_by_source(north + south)
    assert {name: len(cases) for name, cases in sites.items()} == {"north": 2, "south": 1}


def test_a_deal_by_source_needs_sources_and_disjoint_patients(patients: Maker) -> None:
    cases = patients([2], "north")
    with pytest.raises(DataError, match="c000-0 names no source"):
        deal_by_source(patients([1]))
    with pytest.raises(DataError, match="is in sources 'north' and 'south'; must be in one"):
        deal_by_source([cases[0], replace(cases[1], source="south")])
