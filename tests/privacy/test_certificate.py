"""The figure of any one configuration: published values, traps, limits, and independent integration."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from adpfl.errors import ConfigError
from adpfl.privacy.accounting import divergence
from adpfl.privacy.certificate import Certificate, _event, certify_configuration
from adpfl.privacy.plan import (
    ExponentialThreshold,
    NoisyBitsThreshold,
    PercentileThreshold,
    SlackThreshold,
)

BITS = NoisyBitsThreshold(method="noisy_bits")
SLACK = SlackThreshold(method="slack")


def certify(**changes: Any) -> Certificate:
    keys: dict[str, Any] = {
        "mechanism": "gaussian",
        "noise_multiplier": 1.0,
        "dimension": 1000,
        "delta": 1e-5,
    }
    if "epochs" not in changes:
        keys["steps"] = 1
    return certify_configuration(**(keys | changes))


def epsilon(**changes: Any) -> float:
    return certify(**changes).epsilon


POISSON = {"sampling": "poisson"}


@pytest.mark.parametrize(
    ("changes", "expected", "accountant"),
    [
        ({"steps": 1000, "sampling_probability": 0.01, **POISSON}, 1.828, "pld"),
        ({"noise_multiplier": 5.0, "steps": 100}, 9.997, "pld"),
        ({"mechanism": "laplace_l1", "noise_multiplier": 10.0, "steps": 100}, 4.220, "pld"),
        (
            {"mechanism": "laplace_l2", "noise_multiplier": 10.0, "dimension": 10**4, "steps": 1000},
            19.05,
            "renyi",
        ),
        (
            {
                "mechanism": "laplace_l2",
                "dimension": 10**6,
                "steps": 100,
                "sampling_probability": 0.1,
                **POISSON,
            },
            7.97,
            "renyi",
        ),
        ({"mechanism": "laplace_l1", "noise_multiplier": 2.0}, 0.5 + 2.0 * math.log1p(-1e-5), "pld"),
    ],
)
def test_known_values(changes: dict[str, Any], expected: float, accountant: str) -> None:
    found = certify(**changes)
    assert found.epsilon == pytest.approx(expected, rel=3e-4)
    assert found.accountant == accountant
    assert not found.caveats


def test_l2_clipped_laplace_is_never_certified_below_the_lower_bound_on_its_truth() -> None:
    found = epsilon(mechanism="laplace_l2", noise_multiplier=10.0, dimension=10**4, steps=1000)
    assert found > 17.85


def test_trap_the_librarys_laplace_event_under_reports_an_l2_clip() -> None:
    accountant = dp_accounting.pld.PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(dp_accounting.LaplaceDpEvent(1.0), 10)
    ours = epsilon(mechanism="laplace_l2", dimension=10**6, steps=10)
    assert accountant.get_epsilon(1e-5) < 10.0 < 17.85 < ours == pytest.approx(19.04, abs=0.01)


def test_trap_the_central_limit_is_not_an_upper_bound() -> None:
    mu = 0.01 * math.sqrt(1000 * math.expm1(1.0))
    limit = get_epsilon_gaussian(1.0 / mu, 1e-5)
    assert limit < 1.7 < epsilon(steps=1000, sampling_probability=0.01, **POISSON)


def test_trap_gaussian_noise_of_the_same_scale_does_not_dominate_the_l2_clipped_laplace() -> None:
    delta = 0.385
    truth = 1.0 + 2.0 * math.log1p(-delta)  # one coordinate, T = 1
    assert epsilon(delta=delta, dimension=1) == 0.0 < truth
    assert epsilon(mechanism="laplace_l2", delta=delta, dimension=1) >= truth


# --- independent integration ---


def hockey_stick(upper: Callable[..., Any], lower: Callable[..., Any], at: float) -> float:
    grid = np.linspace(-40.0, 60.0, 200_001)
    return float(integrate.trapezoid(np.maximum(upper(grid) - math.exp(at) * lower(grid), 0.0), grid))


def exact_epsilon(shifted: Callable[..., Any], base: Callable[..., Any], q: float, delta: float) -> float:
    """Epsilon of one Poisson-sampled release, by integration of both directions."""

    def mixed(x: Any) -> Any:
        return (1.0 - q) * base(x) + q * shifted(x)

    def worst(at: float) -> float:
        return max(hockey_stick(mixed, base, at), hockey_stick(base, mixed, at)) - delta

    return float(optimize.brentq(worst, 0.0, 50.0, xtol=1e-10))


@pytest.mark.parametrize(("z", "q"), [(0.7, 0.05), (1.0, 0.3), (2.0, 0.9)])
def test_one_sampled_gaussian_release_by_integration(z: float, q: float) -> None:
    exact = exact_epsilon(stats.norm(1.0, z).pdf, stats.norm(0.0, z).pdf, q, 1e-5)
    found = epsilon(noise_multiplier=z, sampling_probability=q, **POISSON)
    assert exact * (1.0 - 1e-4) <= found <= exact * 1.001


@pytest.mark.parametrize(("z", "q"), [(0.7, 0.05), (2.0, 0.4)])
def test_one_sampled_laplace_release_by_integration(z: float, q: float) -> None:
    exact = exact_epsilon(stats.laplace(1.0, z).pdf, stats.laplace(0.0, z).pdf, q, 1e-3)
    one = {"noise_multiplier": z, "sampling_probability": q, "delta": 1e-3, "dimension": 1, **POISSON}
    assert epsilon(mechanism="laplace_l1", **one) == pytest.approx(exact, rel=2e-3)
    assert exact * (1.0 - 1e-4) <= epsilon(mechanism="laplace_l2", **one) <= 1.6 * exact


@pytest.mark.parametrize("coordinates", [1, 2, 3])
def test_l2_clipped_laplace_in_few_dimensions_by_convolution(coordinates: int) -> None:
    """Loss of the even shift: coordinates' losses are independent; their law is convolved on a grid."""
    shift, cells = 1.5 / math.sqrt(coordinates), 4096
    step = 2.0 * shift / cells
    edges = -shift + step * np.arange(cells + 1)
    # Rounded down: a lower bound on the truth.
    law = np.diff(np.concatenate([[0.0], stats.laplace.cdf((shift + edges[1:]) / 2.0, loc=shift)]))
    law[-1] += 1.0 - stats.laplace.cdf(shift, loc=shift)
    losses = edges[:-1]
    composed, start = law, losses[0]
    for _ in range(coordinates - 1):
        composed, start = np.convolve(composed, law), start + losses[0]
    values = start + step * np.arange(len(composed))

    def excess(at: float) -> float:
        return float(np.sum(composed * np.maximum(1.0 - np.exp(at - values), 0.0))) - 1e-3

    lower = optimize.brentq(excess, 0.0, 10.0)
    found = epsilon(mechanism="laplace_l2", noise_multiplier=1 / 1.5, dimension=coordinates, delta=1e-3)
    assert lower <= found <= 1.35 * lower + 1e-9


# --- properties ---


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["gaussian", "laplace_l2", "laplace_l1"]),
    st.floats(1e-3, 1e3),
    st.integers(1, 100_000),
    st.integers(1, 20_000_000),
)
def test_epsilon_falls_with_noise_and_rises_with_steps(mechanism: str, z: float, steps: int, d: int) -> None:
    here = epsilon(mechanism=mechanism, noise_multiplier=z, steps=steps, dimension=d)
    assert math.isfinite(here)
    assert epsilon(mechanism=mechanism, noise_multiplier=1.05 * z, steps=steps, dimension=d) <= here + 1e-9
    assert epsilon(mechanism=mechanism, noise_multiplier=z, steps=2 * steps, dimension=d) >= here


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace_l1", "laplace_l2"])
@pytest.mark.parametrize("z", [1e-3, 0.3, 3.0, 1e3])
def test_rarer_sampling_never_costs_more_and_no_sampling_is_the_limit(mechanism: str, z: float) -> None:
    common = {"mechanism": mechanism, "noise_multiplier": z, "steps": 200, "dimension": 10**5}
    sampled = [epsilon(sampling_probability=q, **POISSON, **common) for q in (1e-4, 0.01, 0.3, 0.999, 1.0)]
    full = epsilon(**common)
    assert sampled[-1] == full
    for rarer, oftener in pairwise(sampled):
        assert rarer <= oftener * (1.0 + 1e-3) + 1e-9
    assert sampled[-2] <= full * (1.0 + 1e-9) + 1e-12


@pytest.mark.parametrize("z", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("q", [1e-4, 1.0])
@pytest.mark.parametrize("steps", [1, 100_000])
@pytest.mark.parametrize("mechanism", ["gaussian", "laplace_l1", "laplace_l2"])
def test_the_corners_of_the_range_have_an_answer(mechanism: str, z: float, q: float, steps: int) -> None:
    found = certify(
        mechanism=mechanism,
        noise_multiplier=z,
        sampling_probability=q,
        steps=steps,
        dimension=2 * 10**7,
        sampling="poisson",
    )
    assert 0.0 <= found.epsilon < math.inf
    assert found.epsilon <= epsilon(mechanism=mechanism, noise_multiplier=z, steps=steps, dimension=2 * 10**7)


def test_a_weak_noise_costs_what_the_likely_number_of_samples_costs() -> None:
    """At z = 0.01 sampling hides nothing but how often: 1000 steps at 1/1000 are a handful of releases."""
    found = epsilon(noise_multiplier=0.01, steps=1000, sampling_probability=1e-3, **POISSON)
    hits = stats.binom.isf([1e-4, 1e-6], 1000, 1e-3)
    assert hits[0] * 5000 <= found <= (hits[1] + 1) * 5000 * 1.2


# --- sampling modes ---


def test_partition_composes_epochs_and_claims_no_amplification() -> None:
    partition = certify(sampling="partition", sampling_probability=0.1, steps=95)
    assert (partition.steps, partition.releases) == (95, 10)
    assert partition.epsilon == epsilon(steps=10)
    assert partition.epsilon == epsilon(sampling="partition", sampling_probability=0.1, epochs=10)
    assert partition.epsilon > epsilon(sampling="poisson", sampling_probability=0.1, steps=95)


def test_a_probability_that_does_not_divide_gives_whole_batches() -> None:
    assert certify(sampling="partition", sampling_probability=0.3, steps=10).releases == 4
    assert certify(sampling="partition", sampling_probability=0.1, steps=10).releases == 1  # exactly 1/10


def test_epochs_under_poisson_are_their_steps() -> None:
    assert certify(sampling="poisson", sampling_probability=0.01, epochs=3).steps == 300
    assert certify(sampling="poisson", sampling_probability=0.3, epochs=1).steps == 4
    assert certify(epochs=7).steps == 7


# --- records of one patient ---


def test_a_group_under_full_sampling_is_one_unit_of_its_whole_shift() -> None:
    for mechanism in ("gaussian", "laplace_l2", "laplace_l1"):
        group = epsilon(mechanism=mechanism, noise_multiplier=8.0, records_per_patient=4, steps=10)
        assert group == pytest.approx(epsilon(mechanism=mechanism, noise_multiplier=2.0, steps=10), rel=1e-9)


def test_a_sampled_group_is_a_mixture_of_gaussians() -> None:
    q, k, z = 0.1, 3, 2.0
    weights = stats.binom.pmf(range(k + 1), k, q)

    def mixed(x: Any) -> Any:
        return sum(weight * stats.norm(j, z).pdf(x) for j, weight in enumerate(weights))

    base = stats.norm(0.0, z).pdf

    def worst(at: float) -> float:
        return max(hockey_stick(mixed, base, at), hockey_stick(base, mixed, at)) - 1e-5

    exact = optimize.brentq(worst, 0.0, 20.0, xtol=1e-9)
    found = epsilon(noise_multiplier=z, sampling_probability=q, records_per_patient=k, **POISSON)
    assert exact * (1.0 - 1e-4) <= found <= exact * 1.002


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace_l2", "laplace_l1"])
def test_a_sampled_group_lies_between_one_record_and_all_of_them_always(mechanism: str) -> None:
    common = {"mechanism": mechanism, "noise_multiplier": 4.0, "steps": 50, "dimension": 10**5}
    sampled = {"sampling_probability": 0.05, **POISSON}
    group = epsilon(records_per_patient=3, **sampled, **common)
    assert epsilon(**sampled, **common) < group < epsilon(records_per_patient=3, **common)


def test_one_laplace_shift_is_worse_than_the_same_shift_in_two_parts() -> None:
    """Under partition a patient's records may share a batch: that case must cover the others."""
    at = [0.0, 0.2, 0.5, 0.9]
    library = dp_accounting.pld.privacy_loss_distribution
    one = library.from_laplace_mechanism(1.0)
    two = library.from_laplace_mechanism(2.0).self_compose(2)
    for value in at:
        assert two.get_delta_for_epsilon(value) <= one.get_delta_for_epsilon(value) + 1e-7


# --- thresholds ---


def test_noisy_bits_share_one_event_with_the_gradient() -> None:
    plain, bits = (
        certify(noise_multiplier=3.0, steps=50),
        certify(noise_multiplier=3.0, steps=50, threshold=BITS),
    )
    assert bits.epsilon == pytest.approx(plain.epsilon, rel=1e-9)
    assert bits.gradient_noise_multiplier == pytest.approx(3.0 * 1.0206, rel=1e-4)


def test_noisy_bits_beside_laplace_noise_are_counted_inside_the_sampled_sum() -> None:
    """At order 2: ln(1 + q^2 (exp(d D_2(t) + 2 / (8 sb^2)) - 1)), t = 1 / (z_grad sqrt(d))."""
    z, d, q = 2.0, 50, 0.2
    event = _event("laplace_l2", z, BITS, dimension=d, probability=q, records=1)
    t = 1.0 / (z / math.sqrt(1.0 - 1.0 / 25.0) * math.sqrt(d))
    scalar = math.log(2.0 / 3.0 * math.exp(t) + 1.0 / 3.0 * math.exp(-2.0 * t))
    inner = d * scalar + 2.0 / (8.0 * (2.5 * z) ** 2)
    expected = math.log1p(q**2 * math.expm1(inner))
    assert divergence(event, np.array([2.0]))[0] == pytest.approx(expected, rel=1e-9)


def test_slack_costs_nothing_under_gaussian_noise_and_ten_coordinates_under_laplace() -> None:
    assert epsilon(threshold=SLACK) == epsilon()
    few = {"mechanism": "laplace_l2", "noise_multiplier": 2.0, "steps": 20, "delta": 1e-9}
    assert epsilon(dimension=5, threshold=SLACK, **few) == epsilon(dimension=15, **few)
    assert epsilon(dimension=15, **few) > epsilon(dimension=5, **few)
    pure = {"mechanism": "laplace_l1", "noise_multiplier": 10.0}
    assert epsilon(threshold=SLACK, **pure) == epsilon(**pure)


def test_exponential_adds_its_choices() -> None:
    threshold = ExponentialThreshold(method="exponential", epsilon=0.2, refresh_steps=10)
    alone = epsilon(noise_multiplier=5.0, steps=95)
    with_choices = epsilon(noise_multiplier=5.0, steps=95, threshold=threshold)
    # Ten choices of rho = 0.2^2 / 8 beside rho = 95 / (2 * 25), by their divergences or better.
    rho = 95 / 50 + 10 * 0.04 / 8
    assert alone < with_choices <= rho + 2.0 * math.sqrt(rho * math.log(1e5))


def test_percentile_has_no_epsilon_but_the_one_had_it_been_fixed() -> None:
    found = certify(threshold=PercentileThreshold(method="percentile"))
    assert found.epsilon == math.inf
    assert found.epsilon_if_fixed == epsilon()
    assert '"epsilon":"inf"' in found.model_dump_json()
    assert "percentile" in found.caveats[0]


# --- bad input ---


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"delta": 0.0}, "delta is 0.0; must be above 0"),
        ({"delta": 1.0}, "delta is 1.0; must be"),
        ({"delta": math.nan}, "delta is nan"),
        ({"noise_multiplier": 0.0}, "noise_multiplier is 0.0; must be above 0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0"),
        ({"noise_multiplier": math.nan}, "noise_multiplier is nan"),
        ({"noise_multiplier": math.inf}, "noise_multiplier is inf"),
        ({"dimension": 0}, "dimension is 0; must be at least 1"),
        ({"steps": 0}, "steps is 0; must be at least 1"),
        ({"steps": None}, "exactly one must be given"),
        ({"steps": 1, "epochs": 1}, "exactly one must be given"),
        ({"records_per_patient": 0}, "records_per_patient is 0"),
        ({"sampling_probability": 0.5}, "must be 1 or absent with sampling full"),
        ({"sampling_probability": 0.0, "sampling": "poisson"}, "sampling_probability is 0.0"),
        ({"sampling_probability": 1.5, "sampling": "poisson"}, "sampling_probability is 1.5"),
        ({"sampling": "shuffle"}, "sampling is shuffle; must be poisson"),
        ({"mechanism": "gauss"}, "mechanism is gauss; must be gaussian"),
        ({"mechanism": "laplace_l1", "threshold": BITS}, "noisy_bits adds Gaussian noise"),
        ({"mechanism": "registered:unheard-of"}, "must be a registered mechanism"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        certify(**changes)
