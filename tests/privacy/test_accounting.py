"""The honest figure: published values, traps, and what must stand beside it."""

import math
from collections.abc import Callable

import dp_accounting
import numpy as np
import pytest

from adpfl.errors import ConfigError, PrivacyError
from adpfl.privacy import accounting, renyi
from adpfl.privacy.accounting import certify, charges, guarantee
from adpfl.privacy.events import Charge, LaplaceL2Event, UnboundedEvent
from adpfl.privacy.plan import PaperPrivacy, Sampling, UnsafeNonePrivacy

Plans = Callable[..., PaperPrivacy]


def laplace(signal: float, dimension: int, q: float = 1.0) -> LaplaceL2Event:
    return LaplaceL2Event(
        sensitivity=int(signal * 2**20), scale_bits=20, dimension=dimension, sampling_probability=q
    )


@pytest.mark.parametrize(
    ("signal", "dimension", "q", "steps", "expected"),
    [
        (0.1, 10**4, 1.0, 1000, 19.05),
        (1.0, 10**6, 0.1, 100, 7.97),
        (1.0, 10**6, 1.0, 10, 19.04),
        (1000.0, 10**6, 1.0, 1000, 3.68e8),
        (1000.0, 10**6, 0.1, 1000, 3.68e8),  # whole orders alone would say 6.2e8
    ],
)
def test_known_values(signal: float, dimension: int, q: float, steps: int, expected: float) -> None:
    found = certify([Charge(event=laplace(signal, dimension, q), count=steps)], 1e-5)
    assert found.epsilon == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("reading", "expected"),
    [("multiplier", 3.7e8), ("multiplier_mean", 2.0e5), ("budget", 0.108), ("budget_n", 1.31)],
)
def test_the_four_readings_of_one_nominal_epsilon(paper_plan: Plans, reading: str, expected: float) -> None:
    # Batches of 50 of 500 units; partition charges each of 1000 epochs once and claims no amplification.
    plan = paper_plan(
        nominal_epsilon=0.001, reading=reading, sampling=Sampling(mode="partition", probability=0.1)
    )
    found = guarantee(plan, unit_count=500, dimension=10**6, steps=10_000)
    assert found.epsilon == pytest.approx(expected, rel=0.01)
    assert found.epsilon_if_fixed is None
    assert (found.nominal_epsilon, found.reading) == (0.001, reading)


def test_laplace_event_of_the_library_would_under_report(paper_plan: Plans) -> None:
    """A Laplace event means noise on ONE number; on an L2-clipped vector it certifies less than is true."""
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(dp_accounting.LaplaceDpEvent(1.0), 10)
    library = accountant.get_epsilon(1e-5)
    ours = guarantee(paper_plan(), unit_count=100, dimension=10**6, steps=10).epsilon
    assert library == pytest.approx(9.99, abs=0.02)
    assert ours == pytest.approx(19.04, abs=0.02)
    assert ours > 17.85  # a lower bound on the truth, from the central limit of the privacy loss


def test_central_limit_is_no_upper_bound(paper_plan: Plans) -> None:
    """The limiting Gaussian (mu = T * sqrt(steps)) certifies less than a valid bound must."""
    mu = math.sqrt(10)

    def delta_at(epsilon: float) -> float:
        tail = [0.5 * math.erfc(-x / math.sqrt(2)) for x in (-epsilon / mu + mu / 2, -epsilon / mu - mu / 2)]
        return tail[0] - math.exp(epsilon) * tail[1]

    limit = next(epsilon for epsilon in np.arange(10, 30, 0.01) if delta_at(epsilon) <= 1e-5)
    ours = guarantee(paper_plan(), unit_count=100, dimension=10**6, steps=10).epsilon
    assert limit < ours


def test_one_coordinate_does_not_cost_more_than_its_pure_epsilon() -> None:
    found = certify([Charge(event=laplace(0.1, 1), count=1)], 1e-12)
    assert found.epsilon == pytest.approx(0.1, abs=1e-6)
    assert found.order == math.inf


@pytest.mark.parametrize("q", [0.01, 0.5])
@pytest.mark.parametrize("signal", [0.01, 5.0, 900.0])
def test_pure_epsilon_of_a_sample(signal: float, q: float) -> None:
    found = accounting.pure_epsilon(laplace(signal, 1, q))
    t = int(signal * 2**20) / 2**20
    expected = math.log1p(q * math.expm1(t)) if t < 700 else t + math.log(q)
    assert found == pytest.approx(expected, rel=1e-12)


def test_charges_of_different_mechanisms_and_runs_compose_order_by_order() -> None:
    first, second = laplace(0.5, 1000), laplace(1.0, 10**6, 0.1)
    spent = [Charge(event=first, count=3), Charge(event=second, count=50), Charge(event=first, count=4)]
    curve = 7 * accounting.divergence(first) + 50 * accounting.divergence(second)
    expected = float(np.min(renyi.epsilon_at(accounting.ORDERS, curve, 1e-5)))
    assert certify(spent, 1e-5).epsilon == pytest.approx(expected, rel=1e-12)


def test_one_order_fixed_beforehand_is_never_better_than_the_best() -> None:
    spent = [Charge(event=laplace(1.0, 10**6), count=10)]
    best = certify(spent, 1e-5)
    assert certify(spent, 1e-5, order=best.order).epsilon == pytest.approx(best.epsilon, rel=1e-12)
    assert certify(spent, 1e-5, order=8.0).epsilon > best.epsilon


def test_nothing_spent_is_epsilon_zero_and_an_unbounded_charge_infinite() -> None:
    assert certify([], 1e-5).epsilon == 0.0
    assert certify([Charge(event=laplace(1.0, 10), count=0)], 1e-5).epsilon == 0.0
    spent = [Charge(event=laplace(1.0, 10), count=1), Charge(event=UnboundedEvent(reason="x"), count=1)]
    assert certify(spent, 1e-5).epsilon == math.inf


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, math.nan])
def test_delta_outside_its_range_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match=r"delta is .*; must be above 0 and below 1"):
        certify([], delta)


@pytest.mark.parametrize("name", ["unit_count", "dimension", "steps"])
def test_numbers_out_of_range_are_named(paper_plan: Plans, name: str) -> None:
    numbers = {"unit_count": 10, "dimension": 10, "steps": 10} | {name: -1}
    with pytest.raises(PrivacyError, match=f"{name} is -1; must be at least"):
        charges(paper_plan(), **numbers)


def test_noise_that_no_lattice_carries_is_refused_with_the_keys_that_ask_for_it(paper_plan: Plans) -> None:
    plan = paper_plan(nominal_epsilon=1e-12)
    with pytest.raises(
        ConfigError, match=r"privacy\.nominal_epsilon is 1e-12 with privacy\.reading multiplier"
    ):
        guarantee(plan, unit_count=10, dimension=10, steps=1)


def test_percentile_is_infinite_with_the_figure_of_its_noise_beside_it(paper_plan: Plans) -> None:
    fixed = guarantee(paper_plan(), unit_count=200, dimension=10**6, steps=10)
    adaptive = guarantee(
        paper_plan(threshold={"method": "percentile"}), unit_count=200, dimension=10**6, steps=10
    )
    assert adaptive.epsilon == math.inf
    assert adaptive.epsilon_if_fixed == fixed.epsilon
    assert any("percentile of raw norms" in caveat for caveat in adaptive.caveats)


def test_mode_none_is_infinite_and_says_unsafe() -> None:
    plan = UnsafeNonePrivacy(mode="none", sampling=Sampling(mode="full"))
    found = guarantee(plan, unit_count=10, dimension=10, steps=1)
    assert (found.epsilon, found.epsilon_if_fixed) == (math.inf, None)
    assert "unsafe" in found.mechanism
    assert found.caveats


def test_every_figure_carries_its_conditions(paper_plan: Plans) -> None:
    plan = paper_plan(unit="record", sampling=Sampling(mode="poisson", probability=0.1), delta=1e-6)
    found = guarantee(plan, unit_count=100, dimension=1000, steps=40)
    assert (found.unit, found.neighboring_relation, found.steps, found.delta) == (
        "record",
        "zero-out",
        40,
        1e-6,
    )
    assert found.sampling == "poisson, probability 0.1"
    assert found.mechanism == "laplace_l2"


def test_only_poisson_is_credited_with_amplification(paper_plan: Plans) -> None:
    def epsilon(mode: str, probability: float, steps: int) -> float:
        plan = paper_plan(sampling=Sampling(mode=mode, probability=probability))
        return guarantee(plan, unit_count=100, dimension=10**6, steps=steps).epsilon

    assert epsilon("poisson", 0.1, 100) < epsilon("partition", 0.1, 100) == epsilon("full", 1.0, 10)


def test_delta_too_large_for_the_units_is_said(paper_plan: Plans) -> None:
    assert any(
        "1/200" in caveat
        for caveat in guarantee(paper_plan(delta=0.01), unit_count=200, dimension=10, steps=1).caveats
    )


def test_epsilon_in_the_hundreds_of_millions_names_the_ideal_sampler(paper_plan: Plans) -> None:
    huge = guarantee(paper_plan(nominal_epsilon=0.001), unit_count=200, dimension=10**6, steps=1000)
    assert accounting.IDEAL_SAMPLER_ONLY in huge.caveats
    modest = guarantee(paper_plan(), unit_count=200, dimension=10**6, steps=10)
    assert accounting.IDEAL_SAMPLER_ONLY not in modest.caveats


def test_noise_too_strong_for_the_lattice_is_said(paper_plan: Plans) -> None:
    plan = paper_plan(nominal_epsilon=1e-6, reading="budget")
    found = guarantee(plan, unit_count=200, dimension=10**6, steps=10)
    assert any("round off" in caveat for caveat in found.caveats)
