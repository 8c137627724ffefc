"""What noise a plan means at a site: the multiplier it stands for, and the lattice that carries it."""

import math
from dataclasses import dataclass
from fractions import Fraction

from adpfl.errors import ConfigError, PrivacyError
from adpfl.kernels.lattice import LatticeScale, Law, NormOrder
from adpfl.privacy import registry
from adpfl.privacy.events import GaussianEvent, LaplaceL1Event, LaplaceL2Event, NoisedEvent, RegisteredEvent
from adpfl.privacy.plan import (
    AnyThreshold,
    NoisyBitsThreshold,
    PaperPrivacy,
    SlackThreshold,
    UnsafeNonePrivacy,
)
from adpfl.privacy.sampling import expected_units

SLACK_COORDINATES = 10
"""K: coordinates that a `slack` threshold adds to a release."""


@dataclass(frozen=True)
class Noise:
    """Noise of one release, relative to the clip norm C.

    The noise really drawn has scale C * 2^s / A on each coordinate of the sum;
    `lattice.inverse_noise_multiplier` is the exact T = A / 2^s that accounting uses.
    """

    law: Law
    lattice: LatticeScale
    order: NormOrder = 2
    bit: LatticeScale | None = None
    """Sensitivity A_b and scale of the noisy bit, where the threshold releases one."""
    slack_coordinates: int = 0
    registered: registry.ResearchMechanism | None = None
    """Adds the noise in the lattice's stead; clips and sums are on the lattice all the same."""
    multiplier: float = math.nan
    """z as asked for; the noise that is drawn is never less."""

    def scale(self, clip_norm: float) -> float:
        """Noise scale (b, or sigma) on each coordinate of the sum at clip norm C."""
        if self.registered is not None:
            return clip_norm * self.multiplier
        return clip_norm / float(self.lattice.inverse_noise_multiplier)

    def event(self, *, dimension: int, sampling_probability: float, records: int = 1) -> NoisedEvent:
        """What one release of D coordinates costs, by the integers that are really used."""
        a, s = self.lattice.sensitivity, self.lattice.scale_bits
        released = dimension + self.slack_coordinates
        bit, bit_scale = (0, 20) if self.bit is None else (self.bit.sensitivity, self.bit.scale_bits)
        if self.registered is not None:
            return RegisteredEvent(
                mechanism=self.registered.name,
                noise_multiplier=self.multiplier,
                dimension=dimension,
                sampling_probability=sampling_probability,
            )
        if self.law == "gaussian":
            return GaussianEvent(
                sensitivity=a,
                scale_bits=s,
                dimension=released,
                sampling_probability=sampling_probability,
                bit_sensitivity=bit,
                records=records,
            )
        if self.order == 1:
            return LaplaceL1Event(
                sensitivity=a,
                scale_bits=s,
                dimension=released,
                sampling_probability=sampling_probability,
                records=records,
            )
        return LaplaceL2Event(
            sensitivity=a,
            scale_bits=s,
            dimension=released,
            sampling_probability=sampling_probability,
            bit_sensitivity=bit,
            bit_scale_bits=bit_scale,
            records=records,
        )


def gradient_multiplier(noise_multiplier: float, threshold: AnyThreshold) -> float:
    """z_grad, the noise multiplier left for the gradient.

    With noisy bits at sb = r * z one event at z holds both: z_grad = (z^-2 - (2 sb)^-2)^(-1/2) = z /
    sqrt(1 - 1/(2r)^2), which is 1.0206 z at r = 2.5. Any other threshold leaves z as it is.
    """
    if isinstance(threshold, NoisyBitsThreshold):
        return noise_multiplier / math.sqrt(1.0 - (2.0 * threshold.bit_noise_ratio) ** -2)
    return noise_multiplier


def noise_of(mechanism: str, noise_multiplier: float, threshold: AnyThreshold) -> Noise:
    """Noise of a rigorous mechanism at z, with what its threshold releases besides.

    The bit of `noisy_bits` moves the sum by +-1/2, with noise of deviation sb = r * z: 2 sb in units of its
    sensitivity. With `gaussian` it lives on the gradient's own lattice, A_b = floor(2^s / (2 sb)).

    Raises:
        ConfigError: no lattice carries this noise, or a registered mechanism is not known.
    """
    z = gradient_multiplier(noise_multiplier, threshold)
    if mechanism.startswith(registry.PREFIX):
        own = registry.registered(mechanism)
        order: NormOrder = 1 if own.clip_order == 1 else 2
        # Clipped and summed on a fine lattice; its own noise follows.
        return Noise("laplace", LatticeScale(30, 1 << 30), order, registered=own, multiplier=noise_multiplier)
    law: Law = "gaussian" if mechanism == "gaussian" else "laplace"
    order = 1 if mechanism == "laplace_l1" else 2
    try:
        lattice = LatticeScale.for_noise_multiplier(z, law=law, order=order)
        bit = None
        if isinstance(threshold, NoisyBitsThreshold):
            bit = _bit_lattice(2.0 * threshold.bit_noise_ratio * noise_multiplier, law, lattice)
    except PrivacyError as error:
        raise ConfigError(f"privacy.noise_multiplier for mechanism {mechanism}: {error}") from error
    slack = SLACK_COORDINATES if isinstance(threshold, SlackThreshold) else 0
    return Noise(law, lattice, order, bit, slack, multiplier=noise_multiplier)


def noise_multiplier(plan: PaperPrivacy, unit_count: int) -> float:
    """Noise multiplier z = b/C, b the Laplace scale on each coordinate of the SUM over sampled units.

    The mean is the sum over the public q*n, so noise of scale b' on the mean is noise of scale b' * q * n
    on the sum:

    - `multiplier`: b = epsilon * C, z = epsilon.
    - `multiplier_mean`: b' = epsilon * C, z = epsilon * q * n.
    - `budget`: b = C / epsilon, z = 1 / epsilon.
    - `budget_n`: b' = C / (n * epsilon), z = q / epsilon.
    """
    epsilon = plan.nominal_epsilon
    match plan.reading:
        case "multiplier":
            return epsilon
        case "multiplier_mean":
            return epsilon * expected_units(plan.sampling, unit_count)
        case "budget":
            return 1.0 / epsilon
        case "budget_n":
            return expected_units(plan.sampling, 1) / epsilon


def paper_noise(plan: PaperPrivacy, unit_count: int) -> Noise:
    """The noise of a plan of mode `paper` at a site of `unit_count` units.

    Raises:
        ConfigError: no lattice carries this multiplier.
    """
    multiplier = noise_multiplier(plan, unit_count)
    try:
        lattice = LatticeScale.for_noise_multiplier(multiplier, law="laplace")
    except PrivacyError as error:
        raise ConfigError(
            f"privacy.nominal_epsilon is {plan.nominal_epsilon} with privacy.reading {plan.reading}: {error}"
        ) from error
    return Noise("laplace", lattice, multiplier=multiplier)


def unsafe_noise(plan: UnsafeNonePrivacy) -> Noise | None:
    """The registered mechanism that mode `none` runs without a claim; None where it runs plain.

    Raises:
        ConfigError: the mechanism is not known here.
    """
    if plan.mechanism is None or plan.noise_multiplier is None:
        return None
    own = registry.registered(plan.mechanism)
    order: NormOrder = 1 if own.clip_order == 1 else 2
    return Noise(
        "laplace", LatticeScale(30, 1 << 30), order, registered=own, multiplier=plan.noise_multiplier
    )


def _bit_lattice(multiplier: float, law: Law, gradient: LatticeScale) -> LatticeScale:
    """A_b: on the gradient's own scale under the Gaussian law, the finest there is beside Laplace noise."""
    if law == "laplace":
        return LatticeScale.for_noise_multiplier(multiplier, law="gaussian")
    sensitivity = (1 << gradient.scale_bits) // Fraction(multiplier)
    if sensitivity < 1:
        raise PrivacyError(f"noise on the bit is {multiplier:g} times its sensitivity; no lattice carries it")
    return LatticeScale(gradient.scale_bits, sensitivity)
