"""The least noise whose certified epsilon does not exceed a target.

The search brackets on a logarithmic scale and narrows by secants; what it returns was itself certified, so
its epsilon is never above the target, and a multiplier 0.01 % smaller is above it (up to what the grids of
the accountant resolve).
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from adpfl.errors import ConfigError
from adpfl.privacy import registry
from adpfl.privacy.certificate import Certificate, certify_configuration
from adpfl.privacy.composition import certify
from adpfl.privacy.events import Charge, ExponentialEvent
from adpfl.privacy.noise import Noise, noise_of, paper_noise, unsafe_noise
from adpfl.privacy.plan import PaperPrivacy, PrivacyPlan, RigorousPrivacy, UnsafeNonePrivacy
from adpfl.privacy.sampling import releases_seen

_LEAST: Final = 2.0**-21
_MOST: Final = 2.0**20
"""Noise multipliers that the lattices of every mechanism carry."""

_RELATIVE_TOLERANCE: Final = 2e-5
_DIGITS: Final = 6


def calibrate(*, target_epsilon: float, **configuration: Any) -> Certificate:
    """The least noise multiplier whose certified epsilon is at most the target.

    Args:
        target_epsilon: above 0.
        **configuration: every other argument of `certify_configuration` but `noise_multiplier`.

    Returns:
        The certificate of the noise found; its `epsilon` is at most the target.

    Raises:
        ConfigError: an argument is out of range, or no noise reaches the target.
    """
    if not 0.0 < target_epsilon < math.inf:
        raise ConfigError(f"target_epsilon is {target_epsilon}; must be a finite number above 0")
    certificates: dict[float, Certificate] = {}

    def epsilon(z: float) -> float:
        certificates[z] = certify_configuration(noise_multiplier=z, **configuration)
        return certificates[z].epsilon

    found = least_multiplier(epsilon, target_epsilon)
    return certificates[found]


def least_multiplier(epsilon: Callable[[float], float], target: float) -> float:
    """The least z with epsilon(z) <= target, to six digits, rounded up and certified.

    Args:
        epsilon: falls with z, up to the noise of its own arithmetic.
        target: above 0.

    Raises:
        ConfigError: even the strongest noise is above the target.
    """
    low, high = _bracket(epsilon, target)
    if low is None:
        return high[0]
    (z_low, above), (z_high, below) = low, high
    nudge, turn, width = 0.0, 0, math.inf
    while z_high / z_low > 1.0 + _RELATIVE_TOLERANCE:
        stalled = turn % 3 == 2 and math.log(z_high / z_low) > 0.25 * width
        if turn % 3 == 0:
            width = math.log(z_high / z_low)
        turn += 1
        share = 0.5 if stalled or below == -math.inf else above / (above - below)
        # Epsilon is nearly a power of z: the secant meets it at once. A step beyond it closes the other side.
        middle = z_low * (z_high / z_low) ** share * (1.0 + nudge)
        if not z_low < middle < z_high:
            middle = math.sqrt(z_low * z_high)
        value = _excess(epsilon, middle, target)
        if value > 0.0:
            z_low, above, nudge = middle, value, 0.4 * _RELATIVE_TOLERANCE
        else:
            z_high, below, nudge = middle, value, -0.4 * _RELATIVE_TOLERANCE
    rounded = _rounded_up(z_high)
    while epsilon(rounded) > target:
        rounded = _rounded_up(rounded * (1.0 + _RELATIVE_TOLERANCE))
    return rounded


@lru_cache(maxsize=64)
def resolve_noise(plan: PrivacyPlan, unit_count: int, dimension: int) -> Noise | None:
    """The noise of a plan at a site: of D coordinates and `unit_count` units. None in plain mode `none`.

    Raises:
        ConfigError: no lattice carries the noise, no noise reaches `target_epsilon`, `total_steps` is
            missing, or a registered mechanism is unknown or has no event.
    """
    match plan:
        case UnsafeNonePrivacy():
            return unsafe_noise(plan)
        case PaperPrivacy():
            return paper_noise(plan, unit_count)
        case RigorousPrivacy():
            if plan.mechanism.startswith(registry.PREFIX):
                registry.require_accounted(plan.mechanism)
            return noise_of(plan.mechanism, rigorous_multiplier(plan, dimension), plan.threshold)


def rigorous_multiplier(plan: RigorousPrivacy, dimension: int) -> float:
    """The noise multiplier of a rigorous plan: its own, or the least that keeps its target.

    Public numbers alone decide it, so every site finds the same. The lattice's own events are certified at
    the end, so the run as it is drawn keeps the target too.

    Raises:
        ConfigError: as `resolve_noise`.
    """
    if plan.noise_multiplier is not None:
        return plan.noise_multiplier
    if plan.total_steps is None or plan.target_epsilon is None:
        raise ConfigError(
            "privacy.total_steps is missing; target_epsilon is spread over the steps of a whole run"
        )
    found = calibrate(
        target_epsilon=plan.target_epsilon,
        mechanism=plan.mechanism,
        dimension=dimension,
        delta=plan.delta,
        sampling=plan.sampling.mode,
        sampling_probability=plan.sampling.probability,
        steps=plan.total_steps,
        threshold=plan.threshold,
    ).noise_multiplier
    while _drawn_epsilon(plan, found, dimension) > plan.target_epsilon:
        found *= 1.0 + _RELATIVE_TOLERANCE
    return found


def _drawn_epsilon(plan: RigorousPrivacy, multiplier: float, dimension: int) -> float:
    assert plan.total_steps is not None
    noise = noise_of(plan.mechanism, multiplier, plan.threshold)
    probability = plan.sampling.probability if plan.sampling.mode == "poisson" else 1.0
    releases = releases_seen(plan.sampling, first_step=0, steps=plan.total_steps)
    event = noise.event(dimension=dimension, sampling_probability=probability)
    spent = [Charge(event=event, count=releases)]
    if plan.threshold.method == "exponential":
        choices = -(-plan.total_steps // plan.threshold.refresh_steps)
        spent.append(Charge(event=ExponentialEvent(epsilon=plan.threshold.epsilon), count=choices))
    return certify(spent, plan.delta).epsilon


def _bracket(
    epsilon: Callable[[float], float], target: float
) -> tuple[tuple[float, float] | None, tuple[float, float]]:
    """(z, excess) on both sides of the target; no low side where the weakest noise keeps it."""
    z, factor = 1.0, 4.0
    value = _excess(epsilon, z, target)
    rising = value > 0.0
    while True:
        if (not rising and z <= _LEAST) or (rising and z >= _MOST):
            break
        following = min(max(z * factor if rising else z / factor, _LEAST), _MOST)
        beyond = _excess(epsilon, following, target)
        if (beyond <= 0.0) == rising:
            sides = ((z, value), (following, beyond))
            return sides if rising else (sides[1], sides[0])
        z, value = following, beyond
    if rising:
        raise ConfigError(
            f"target_epsilon is {target:g}; noise of {z:g} times the clip norm still gives {epsilon(z):.4g}"
        )
    return None, (z, value)


def _excess(epsilon: Callable[[float], float], z: float, target: float) -> float:
    """Logarithm of epsilon over the target: positive where the noise is too weak."""
    value = epsilon(z)
    return math.log(value / target) if value > 0.0 else -math.inf


def _rounded_up(value: float) -> float:
    scale = 10.0 ** (_DIGITS - 1 - math.floor(math.log10(value)))
    rounded = math.ceil(value * scale) / scale
    return rounded if rounded >= value else math.nextafter(rounded, math.inf)
