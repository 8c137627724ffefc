"""Uneven deals: complete, the same everywhere, and as skewed as asked."""

from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adpfl.data.skew import LEAST_PATIENTS, dirichlet_deal, quantity_deal


def sizes(site_of: dict[str, int], sites: int) -> list[int]:
    return [sum(site == number for site in site_of.values()) for number in range(sites)]


def names(count: int) -> list[str]:
    return [f"p{number:03d}" for number in range(count)]


@settings(deadline=None)
@given(
    count=st.integers(12, 60),
    sites=st.integers(1, 6),
    strata=st.integers(1, 5),
    concentration=st.floats(1e-3, 1e3),
    seed=st.integers(),
)
def test_deals_are_complete_and_leave_no_site_bare(
    count: int, sites: int, strata: int, concentration: float, seed: int
) -> None:
    stratum_of = {patient: str(place % strata) for place, patient in enumerate(names(count))}
    for dealt in (
        dirichlet_deal(stratum_of, sites, concentration=concentration, seed=seed),
        quantity_deal(names(count), sites, concentration=concentration, seed=seed),
    ):
        assert sorted(dealt) == names(count)
        assert min(sizes(dealt, sites)) >= LEAST_PATIENTS
        assert max(dealt.values()) < sites


def test_deals_are_the_same_on_every_machine() -> None:
    backwards = quantity_deal(names(10)[::-1], 2, concentration=0.5, seed=0)
    assert quantity_deal(names(10), 2, concentration=0.5, seed=0) == backwards
    dealt = quantity_deal(names(12), 3, concentration=0.5, seed=1)
    assert "".join(str(dealt[patient]) for patient in names(12)) == "100112122211"
    strata = {patient: patient[-1] for patient in names(12)}
    dealt = dirichlet_deal(strata, 3, concentration=0.5, seed=1)
    assert "".join(str(dealt[patient]) for patient in names(12)) == "012101002201"


def test_another_seed_deals_differently() -> None:
    first, second = (quantity_deal(names(40), 4, concentration=0.5, seed=seed) for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(("concentration", "spread"), [(0.3, (0.29, 0.375)), (100.0, (0.033, 0.053))])
def test_quantities_are_spread_as_by_dirichlet(concentration: float, spread: tuple[float, float]) -> None:
    """The share of one of 3 sites has variance 2/9 (1/(3a + 1) + (1 - 1/(3a + 1))/n) under Dirichlet(a).

    Of 200 patients the urn deals n = 194, all but 6: standard deviations of 0.332 and 0.042. Over 300 seeds
    they are seen to within 4 % and a little; the bounds leave three times that.
    """
    shares = [
        sizes(quantity_deal(names(200), 3, concentration=concentration, seed=seed), 3)[0] / 200
        for seed in range(300)
    ]
    deviation = mean((share - 1 / 3) ** 2 for share in shares) ** 0.5
    assert mean(shares) == pytest.approx(1 / 3, abs=0.07)
    assert spread[0] < deviation < spread[1]


def test_strata_are_skewed_each_in_its_own_way() -> None:
    """At a small concentration each stratum lies nearly whole at one site, not all at the same."""
    stratum_of = {patient: str(place % 4) for place, patient in enumerate(names(400))}
    dealt = dirichlet_deal(stratum_of, 4, concentration=0.01, seed=3)
    homes = []
    for stratum in "0123":
        counts = sizes({p: s for p, s in dealt.items() if stratum_of[p] == stratum}, 4)
        assert max(counts) >= 90
        homes.append(counts.index(max(counts)))
    assert len(set(homes)) > 1


def test_a_large_concentration_deals_evenly() -> None:
    stratum_of = {patient: str(place % 4) for place, patient in enumerate(names(400))}
    assert all(
        80 <= size <= 120 for size in sizes(dirichlet_deal(stratum_of, 4, concentration=1e4, seed=0), 4)
    )
