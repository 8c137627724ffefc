"""One epsilon for runs that mix mechanisms: the least of the valid bounds."""

import math

import numpy as np
import pytest
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

from adpfl.privacy import pld, renyi
from adpfl.privacy.composition import IDEAL_SAMPLER_ONLY, ORDERS, certify, divergence
from adpfl.privacy.events import (
    Charge,
    Event,
    ExponentialEvent,
    GaussianEvent,
    LaplaceL1Event,
    LaplaceL2Event,
    UnboundedEvent,
)

DELTA = 1e-5


def gaussian(z: float, q: float = 1.0, **changes: int) -> GaussianEvent:
    return GaussianEvent(
        sensitivity=int(2**20 / z), scale_bits=20, dimension=100, sampling_probability=q, **changes
    )


def laplace(z: float, q: float = 1.0, **changes: int) -> LaplaceL1Event:
    return LaplaceL1Event(
        sensitivity=int(2**20 / z), scale_bits=20, dimension=100, sampling_probability=q, **changes
    )


def laplace_l2(z: float, q: float = 1.0) -> LaplaceL2Event:
    return LaplaceL2Event(sensitivity=int(2**20 / z), scale_bits=20, dimension=10**6, sampling_probability=q)


def spent(*events: tuple[Event, int]) -> list[Charge]:
    return [Charge(event=event, count=count) for event, count in events]


def test_gaussians_of_different_noise_are_one_gaussian() -> None:
    found = certify(spent((gaussian(4.0), 9), (gaussian(8.0), 28)), DELTA)
    assert found.epsilon == pytest.approx(get_epsilon_gaussian(1.0, DELTA), rel=1e-6)
    assert found.accountant == "pld"


def test_mechanisms_with_privacy_losses_compose_tightly() -> None:
    mixed = spent((gaussian(2.0, 0.1), 50), (laplace(20.0), 30), (gaussian(10.0), 20))
    found = certify(mixed, DELTA)
    curve = sum(charge.count * divergence(charge.event) for charge in mixed)
    by_orders = float(np.min(renyi.epsilon_at(ORDERS, curve, DELTA)))
    assert found.accountant == "pld"
    parts = [certify([charge], DELTA).epsilon for charge in mixed]
    assert max(parts) < found.epsilon < by_orders


@pytest.mark.parametrize("order", [1.1, 3.0, 20.0])
def test_with_an_l2_clipped_laplace_among_them_divergences_add(order: float) -> None:
    mixed = spent((gaussian(2.0, 0.1), 50), (laplace_l2(5.0), 30), (ExponentialEvent(epsilon=0.1), 4))
    found = certify(mixed, DELTA)
    assert found.accountant == "renyi"
    at = np.array([order])
    curve = sum(charge.count * divergence(charge.event, at) for charge in mixed)
    assert found.epsilon <= float(renyi.epsilon_at(at, curve, DELTA)[0]) + 1e-12


def test_the_order_of_charges_and_their_division_do_not_matter() -> None:
    one = certify(spent((gaussian(2.0, 0.1), 50), (laplace(20.0), 30)), DELTA)
    other = certify(spent((laplace(20.0), 10), (gaussian(2.0, 0.1), 50), (laplace(20.0), 20)), DELTA)
    assert one.epsilon == pytest.approx(other.epsilon, rel=1e-9)


def test_pure_epsilons_add_where_delta_is_out_of_reach() -> None:
    found = certify(spent((laplace(10.0), 3), (ExponentialEvent(epsilon=0.2), 1)), 1e-300)
    assert found.epsilon == pytest.approx(3 * (int(2**20 / 10.0) / 2**20) + 0.2, rel=1e-12)
    assert found.accountant == "pure"


def test_the_exponential_mechanism_is_bounded_by_its_range_and_by_itself() -> None:
    curve = divergence(ExponentialEvent(epsilon=0.5), np.array([2.0, 1e4]))
    assert curve == pytest.approx([2.0 * 0.25 / 8.0, 0.5])
    group = divergence(ExponentialEvent(epsilon=0.5, records=3), np.array([2.0]))
    assert group == pytest.approx([2.0 * 2.25 / 8.0])


def test_a_filters_order_uses_no_other_bound() -> None:
    charges = spent((gaussian(1.0, 0.01), 1000))
    assert certify(charges, DELTA, order=8.0).epsilon > certify(charges, DELTA).epsilon
    assert certify(charges, DELTA, order=8.0).accountant == "renyi"


def test_a_noisy_bit_is_one_more_coordinate_of_the_same_gaussian() -> None:
    event = gaussian(1.0, bit_sensitivity=2**19)
    assert event.signal == pytest.approx(math.sqrt(1.25), rel=1e-11)


def test_the_lattice_gaussian_counts_a_little_less_noise_than_its_name() -> None:
    event = GaussianEvent(sensitivity=1, scale_bits=10, dimension=1)
    assert event.signal == pytest.approx(1 / math.sqrt(4**10 - 9), rel=1e-15)
    assert event.signal > 2**-10


def test_small_deltas_do_without_fourier_transforms() -> None:
    event = gaussian(1.0, 0.01)
    assert certify(spent((event, 100)), 1e-12).accountant == "renyi"
    assert certify(spent((event, 100)), pld.SMALLEST_DELTA).accountant == "pld"


@pytest.mark.parametrize("count", [1, 40])
def test_grids_agree_with_the_exact_gaussian(count: int) -> None:
    """The sampled path at q just under 1 has no closed form to lean on; q = 1 does."""
    z = 3.0
    exact = get_epsilon_gaussian(z / math.sqrt(count), DELTA)
    nearly = certify(spent((gaussian(z, 1.0 - 1e-9), count)), DELTA).epsilon
    assert exact * (1.0 - 1e-4) <= nearly <= exact * (1.0 + 2e-4)


def test_a_huge_epsilon_is_the_ideal_samplers() -> None:
    assert certify(spent((gaussian(0.01), 10)), DELTA).caveats == (IDEAL_SAMPLER_ONLY,)
    assert certify(spent((gaussian(3.0), 10)), DELTA).caveats == ()


def test_an_unbounded_charge_is_infinite_beside_any_other() -> None:
    charges = spent((gaussian(3.0), 1), (UnboundedEvent(reason="percentile"), 1))
    assert certify(charges, DELTA).epsilon == math.inf


@pytest.mark.parametrize(
    "event",
    [
        gaussian(1.0, 0.5, records=3, bit_sensitivity=7),
        laplace(1.0, 0.5),
        laplace_l2(1.0),
        ExponentialEvent(epsilon=0.5),
        UnboundedEvent(reason="x", if_fixed=gaussian(2.0)),
    ],
)
def test_events_survive_the_ledgers_json(event: Event) -> None:
    charge = Charge(event=event, count=3)
    assert Charge.model_validate_json(charge.model_dump_json()) == charge
