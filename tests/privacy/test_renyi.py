"""Divergences against arbitrary-precision arithmetic and numerical integration."""

from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from adpfl.privacy import renyi

ORDERS = renyi.default_orders()


def exact_laplace(order: float, shift: float) -> float:
    with mpmath.workdps(80):
        a, t = mpmath.mpf(order), mpmath.mpf(shift)
        inside = a / (2 * a - 1) * mpmath.exp((a - 1) * t) + (a - 1) / (2 * a - 1) * mpmath.exp(-a * t)
        return float(mpmath.log(inside) / (a - 1))


@pytest.mark.parametrize("shift", [1e-3 / np.sqrt(2e7), 1e-7, 1e-4, 0.01, 0.49, 0.51, 1.0, 30.0, 1e4])
def test_laplace_divergence_keeps_twelve_digits_over_the_whole_range(shift: float) -> None:
    orders = np.array([1 + 1e-9, 1 + 1e-6, 1.0002, 1.5, 2.0, 10.0, 1e3, 1e5])
    found = renyi.laplace_divergence(orders, shift)
    assert found == pytest.approx([exact_laplace(a, shift) for a in orders], rel=1e-12)


@given(st.floats(1e-9, 1e5), st.floats(1e-7, 1e3))
def test_laplace_divergence_lies_between_zero_and_the_shift(gap: float, shift: float) -> None:
    value = float(renyi.laplace_divergence(np.array([1.0 + gap]), shift)[0])
    assert 0.0 < value <= shift * (1 + 1e-12)


def test_l2_bound_is_attained_by_the_even_shift_and_no_other() -> None:
    orders = np.array([1.1, 2.0, 8.0])
    bound = renyi.laplace_l2_divergence(orders, 2.0, 4)
    for shift in ([1, 1, 1, 1], [2, 0, 0, 0], [np.sqrt(2), np.sqrt(2), 0, 0], [1.5, 1.0, 0.5, np.sqrt(0.5)]):
        assert np.linalg.norm(shift) == pytest.approx(2.0)
        actual = sum(renyi.laplace_divergence(orders, float(part)) for part in shift)
        assert np.all(actual <= bound * (1 + 1e-12))
    assert renyi.laplace_l2_divergence(orders, 2.0, 4) == pytest.approx(
        4 * renyi.laplace_divergence(orders, 1.0)
    )


def test_l2_bound_rises_with_dimension_to_that_of_the_gaussian() -> None:
    orders = np.array([1.5, 3.0, 20.0])
    values = [renyi.laplace_l2_divergence(orders, 0.7, d) for d in (1, 10, 1000, 10**6, 2 * 10**7)]
    for lower, higher in pairwise(values):
        assert np.all(lower < higher)
    assert values[-1] == pytest.approx(orders * 0.7**2 / 2, rel=1e-3)
    assert np.all(values[-1] < orders * 0.7**2 / 2)


def test_sampled_divergence_is_that_of_the_mixture_by_numerical_integration() -> None:
    shift, q = 1.3, 0.2

    def moment(order: float) -> float:
        def integrand(x: float) -> float:
            base = 0.5 * np.exp(-abs(x))
            ratio = 1 - q + q * np.exp(abs(x) - abs(x - shift))
            return float(base * ratio**order)

        return sum(integrate.quad(integrand, *ends)[0] for ends in ((-40, 0), (0, shift), (shift, 60)))

    orders = np.array([2.0, 3.0, 7.0])
    found = renyi.poisson_sampled(lambda a: renyi.laplace_divergence(a, shift), orders, q)
    assert found == pytest.approx([np.log(moment(a)) / (a - 1) for a in orders], rel=1e-8)
    # Between whole orders the chord is a bound, and not a wild one.
    between = np.array([1.5, 2.5, 4.3])
    bound = renyi.poisson_sampled(lambda a: renyi.laplace_divergence(a, shift), between, q)
    actual = np.array([np.log(moment(a)) / (a - 1) for a in between])
    assert np.all(actual < bound)
    assert np.all(bound < 1.5 * actual)


def test_sampling_never_costs_and_certainty_changes_nothing() -> None:
    def release(a: renyi.Curve) -> renyi.Curve:
        return renyi.laplace_l2_divergence(a, 1000.0, 10**6)

    plain = release(ORDERS)
    assert np.all(renyi.poisson_sampled(release, ORDERS, 0.1) <= plain)
    assert np.array_equal(renyi.poisson_sampled(release, ORDERS, 1.0), plain)


def test_sampled_divergence_keeps_its_digits_when_sampling_is_rare_and_noise_strong() -> None:
    # At order 2 and small divergence, R = ln(1 + q^2 (exp(R_2) - 1)).
    found = renyi.poisson_sampled(lambda a: a * 1e-12 / 2, np.array([2.0]), 1e-4)
    assert found[0] == pytest.approx(1e-8 * 1e-12, rel=1e-9)


def test_conversion_gives_the_published_formula_and_never_a_negative_epsilon() -> None:
    order, divergence, delta = 3.0, 0.5, 1e-5
    expected = divergence + np.log(1 - 1 / order) - (np.log(delta) + np.log(order)) / (order - 1)
    found = renyi.epsilon_at(np.array([order]), np.array([divergence]), delta)
    assert found[0] == pytest.approx(expected)
    assert np.all(renyi.epsilon_at(ORDERS, np.zeros_like(ORDERS), 0.9) >= 0.0)


def test_no_order_just_above_one_certifies_an_epsilon_of_zero() -> None:
    near_one = np.array([1 + 1e-9, 1 + 1e-8, 1 + 1e-6])
    found = renyi.epsilon_at(near_one, renyi.laplace_l2_divergence(near_one, 1.0, 10**6), 1e-5)
    assert np.all(found > 1e5)


def test_orders_start_just_above_one_and_hold_every_small_whole_number() -> None:
    assert ORDERS[0] == pytest.approx(1.0 + 1e-9, abs=1e-12)
    assert set(range(2, 65)) <= set(ORDERS.tolist())
    gaps = ORDERS - 1.0
    assert np.max(gaps[1:] / gaps[:-1]) < 1.065


@pytest.mark.parametrize("records", [1, 2, 3, 7, 64])
def test_a_groups_divergence_is_near_the_square_of_its_size(records: int) -> None:
    """For a curve a * rho, of which the exact group figure is a * k^2 * rho."""
    rho = 1e-3
    found = renyi.group_divergence(ORDERS, ORDERS * rho, records)
    reached = (ORDERS > 1.5) & (ORDERS < 500.0)
    ratio = found[reached] / (ORDERS[reached] * records**2 * rho)
    assert np.all(ratio >= 1.0 - 1e-9)
    assert np.all(ratio < 1.1)


def test_a_sampled_group_costs_no_less_than_the_exact_mixture_at_order_two() -> None:
    q, k, t = 0.1, 3, 0.5
    single = renyi.poisson_sampled(lambda a: a * t**2 / 2, ORDERS, q)
    found = renyi.group_divergence(ORDERS, single, k)[np.flatnonzero(ORDERS == 2.0)[0]]
    # E exp(t^2 J J') over independent J, J' ~ Binomial(3, q)
    weights = [0.729, 0.243, 0.027, 0.001]
    moment = sum(
        one * other * np.exp(t**2 * i * j) for i, one in enumerate(weights) for j, other in enumerate(weights)
    )
    assert np.log(moment) <= found < 1.5 * np.log(moment)
