"""The figure of any one configuration, asked for by its parameters and without a run.

It is that of the noise multiplier as written. A run draws its noise on a lattice and never less than was
asked for, so the run's own figure is at most this one.
"""

import math
from fractions import Fraction
from math import ceil, floor
from typing import Any, Final, Literal

from adpfl.config import FrozenModel
from adpfl.errors import ConfigError
from adpfl.privacy import registry
from adpfl.privacy.composition import Certified, certify
from adpfl.privacy.events import (
    Charge,
    ExponentialEvent,
    GaussianEvent,
    LaplaceL1Event,
    LaplaceL2Event,
    NoisedEvent,
    RegisteredEvent,
)
from adpfl.privacy.guarantee import Epsilon
from adpfl.privacy.noise import SLACK_COORDINATES, gradient_multiplier
from adpfl.privacy.plan import NEIGHBORING_RELATION, AnyThreshold, FixedThreshold

SamplingMode = Literal["poisson", "partition", "full"]

PERCENTILE_REASON: Final = "the threshold is a percentile of raw norms, and the noise scale reveals it"

_EXACT_BITS: Final = 60
"""T = 1/z as a ratio over 2^60, rounded up: the events hold integers, as on a lattice."""

_FIXED: Final = FixedThreshold(method="fixed", clip_norm=1.0)


class Certificate(FrozenModel):
    """Epsilon(delta) of one configuration, with everything that it refers to."""

    epsilon: Epsilon
    accountant: str
    """`pld`, `renyi` or `pure`: which valid bound was the least."""
    delta: float
    epsilon_if_fixed: Epsilon | None = None
    """With `percentile`: what this noise would give had the threshold been fixed without looking at the
    data; not a guarantee."""
    mechanism: str
    noise_multiplier: float
    gradient_noise_multiplier: float
    """What is left for the gradient beside a noisy bit."""
    dimension: int
    sampling: SamplingMode
    sampling_probability: float
    steps: int
    releases: int
    """How many of the steps one unit can take part in: those that are composed."""
    threshold: str
    unit: str
    records_per_patient: int
    neighboring_relation: str = NEIGHBORING_RELATION
    caveats: tuple[str, ...] = ()


def certify_configuration(
    *,
    mechanism: str,
    noise_multiplier: float,
    dimension: int,
    delta: float,
    sampling: SamplingMode = "full",
    sampling_probability: float = 1.0,
    steps: int | None = None,
    epochs: int | None = None,
    records_per_patient: int = 1,
    threshold: AnyThreshold = _FIXED,
) -> Certificate:
    """Certify one configuration.

    Args:
        mechanism: `gaussian`, `laplace_l2`, `laplace_l1` or `registered:NAME`.
        noise_multiplier: z = sigma/C or b/C, on the sum over the sampled units.
        dimension: d, coordinates of one unit's gradient.
        delta: in (0, 1).
        sampling: `poisson` is credited with amplification; `partition` (shuffled epochs) and `full` are not.
        sampling_probability: q; 1 with `full`.
        steps: S noised steps. Under `partition` they are ceil(S / floor(1/q)) epochs, each of which a unit
            sees once.
        epochs: in place of steps: floor(1/q) steps each under `partition`, 1/q (rounded up in all) under
            `poisson`, one under `full`.
        records_per_patient: k; with k > 1 each record is clipped and sampled by itself, and the figure is
            that of a patient with k records.
        threshold: how C is chosen. `noisy_bits` and `slack` and `fixed` change nothing at equal z but the
            noise left for the gradient and the coordinates; `exponential` adds its own cost; `percentile`
            has no finite epsilon.

    Raises:
        ConfigError: a parameter is out of range or contradicts another.
    """
    _check_numbers(noise_multiplier, dimension, delta, records_per_patient)
    q = _checked_probability(sampling, sampling_probability)
    _check_mechanism(mechanism, threshold, records_per_patient)
    step_count, releases = _count(sampling, q, steps, epochs)
    event = _event(
        mechanism,
        noise_multiplier,
        threshold,
        dimension=dimension,
        probability=sampling_probability if sampling == "poisson" else 1.0,
        records=records_per_patient,
    )
    charges = [Charge(event=event, count=releases)]
    if threshold.method == "exponential":
        choice = ExponentialEvent(epsilon=threshold.epsilon, records=records_per_patient)
        charges.append(Charge(event=choice, count=-(-step_count // threshold.refresh_steps)))
    supposed = certify(charges, delta)
    certified, if_fixed, caveats = supposed, None, supposed.caveats
    if threshold.method == "percentile":
        certified, if_fixed = Certified(math.inf, math.inf), supposed.epsilon
        caveats = (PERCENTILE_REASON, *(f"epsilon_if_fixed: {caveat}" for caveat in caveats))
    return Certificate(
        epsilon=certified.epsilon,
        accountant=certified.accountant,
        delta=delta,
        epsilon_if_fixed=if_fixed,
        mechanism=mechanism,
        noise_multiplier=noise_multiplier,
        gradient_noise_multiplier=gradient_multiplier(noise_multiplier, threshold),
        dimension=dimension,
        sampling=sampling,
        sampling_probability=sampling_probability,
        steps=step_count,
        releases=releases,
        threshold=threshold.method,
        unit="unit" if records_per_patient == 1 else f"patient of at most {records_per_patient} records",
        records_per_patient=records_per_patient,
        caveats=caveats,
    )


def _check_numbers(noise_multiplier: float, dimension: int, delta: float, records_per_patient: int) -> None:
    rules: tuple[tuple[str, float, bool, str], ...] = (
        ("delta", delta, 0.0 < delta < 1.0, "must be above 0 and below 1"),
        ("dimension", dimension, dimension >= 1, "must be at least 1"),
        ("records_per_patient", records_per_patient, records_per_patient >= 1, "must be at least 1"),
        (
            "noise_multiplier",
            noise_multiplier,
            1e-9 <= noise_multiplier <= 1e12,
            "must be above 0 (1e-9 to 1e12)",
        ),
    )
    for name, value, holds, rule in rules:
        if not holds:
            raise ConfigError(f"{name} is {value}; {rule}")


def _checked_probability(sampling: str, probability: float) -> Fraction:
    """The sampling probability q exactly as it was written."""
    if sampling not in ("poisson", "partition", "full"):
        raise ConfigError(f"sampling is {sampling}; must be poisson, partition or full")
    if not 0.0 < probability <= 1.0:
        raise ConfigError(f"sampling_probability is {probability}; must be above 0 and at most 1")
    if sampling == "full" and probability != 1.0:
        raise ConfigError(f"sampling_probability is {probability}; must be 1 or absent with sampling full")
    return Fraction(repr(float(probability)))


def _check_mechanism(mechanism: str, threshold: AnyThreshold, records: int) -> None:
    if mechanism.startswith(registry.PREFIX):
        registry.require_accounted(mechanism)
        if records > 1:
            raise ConfigError(f"records_per_patient is {records}; must be 1 with {mechanism}")
        if threshold.method in ("noisy_bits", "slack"):
            raise ConfigError(
                f"threshold is {threshold.method}; must be fixed or exponential with {mechanism}"
            )
    elif mechanism not in ("gaussian", "laplace_l2", "laplace_l1"):
        raise ConfigError(
            f"mechanism is {mechanism}; must be gaussian, laplace_l2, laplace_l1 or registered:NAME"
        )
    if threshold.method == "noisy_bits" and mechanism == "laplace_l1":
        raise ConfigError(
            "threshold noisy_bits adds Gaussian noise, which ends the pure guarantee of laplace_l1; take "
            "slack, exponential or fixed"
        )


def _count(sampling: str, q: Fraction, steps: int | None, epochs: int | None) -> tuple[int, int]:
    """Steps, and how many of them are composed."""
    if (steps is None) == (epochs is None):
        raise ConfigError("steps and epochs: exactly one must be given")
    for name, value in (("steps", steps), ("epochs", epochs)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; must be at least 1")
    epoch_steps = floor(1 / q)
    if sampling == "partition":
        if epochs is not None:
            return epochs * epoch_steps, epochs
        assert steps is not None
        return steps, -(-steps // epoch_steps)
    count = steps if epochs is None else ceil(epochs / q)
    assert count is not None
    return count, count


def _event(
    mechanism: str, z: float, threshold: AnyThreshold, *, dimension: int, probability: float, records: int
) -> NoisedEvent:
    """One release at exactly this noise."""
    if mechanism.startswith(registry.PREFIX):
        return RegisteredEvent(
            mechanism=mechanism.removeprefix(registry.PREFIX),
            noise_multiplier=z,
            dimension=dimension,
            sampling_probability=probability,
        )
    common: dict[str, Any] = {
        "sensitivity": _ratio(gradient_multiplier(z, threshold)),
        "scale_bits": _EXACT_BITS,
        "dimension": dimension + (SLACK_COORDINATES if threshold.method == "slack" else 0),
        "sampling_probability": probability,
        "records": records,
    }
    if mechanism == "laplace_l1":
        return LaplaceL1Event(**common)
    bit = _ratio(2.0 * threshold.bit_noise_ratio * z) if threshold.method == "noisy_bits" else 0
    if mechanism == "gaussian":
        return GaussianEvent(**common, bit_sensitivity=bit)
    return LaplaceL2Event(**common, bit_sensitivity=bit, bit_scale_bits=_EXACT_BITS)


def _ratio(multiplier: float) -> int:
    return ceil((1 << _EXACT_BITS) / Fraction(multiplier))
