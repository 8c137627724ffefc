"""What was released, as the accountant sees it: frozen, hashable, written to the ledger as JSON.

T = C/b or C/sigma is always a ratio of integers, sensitivity / 2^scale_bits, exactly as on the lattice.

`sampling_probability` q < 1 means that each record was in the sum independently with probability q, by
secret randomness; a sampling scheme without amplification is an event with probability 1, counted fewer
times. `records` k > 1 asks for the group figure of a patient with at most k records, each of them clipped and
sampled by itself.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from adpfl.config import FrozenModel

Probability = Annotated[float, Field(gt=0.0, le=1.0)]

DRAWN_LATTICE_VARIANCE_LOSS: Final = 9
"""A lattice Gaussian of deviation 2^s is post-processing of N(0, 4^s - 9), within 1e-76 a draw."""


class LaplaceL2Event(FrozenModel):
    """One release of a sum of units, each of L2 norm at most C, with Laplace(b) noise in every coordinate.

    Renyi divergence of order a: d * D_a(T / sqrt(d)). Pure epsilon: sqrt(d) * T. A noisy bit beside it
    (`bit_sensitivity` > 0) is Gaussian: it adds a * B^2 / 2, B = bit_sensitivity / 2^bit_scale_bits, to
    every moment before sampling, and leaves no pure epsilon.
    """

    kind: Literal["laplace_l2"] = "laplace_l2"
    sensitivity: PositiveInt
    scale_bits: PositiveInt
    dimension: PositiveInt
    sampling_probability: Probability = 1.0
    bit_sensitivity: NonNegativeInt = 0
    bit_scale_bits: PositiveInt = 20
    records: PositiveInt = 1

    @property
    def signal(self) -> float:
        """T = C/b, correctly rounded."""
        return self.sensitivity / (1 << self.scale_bits)

    @property
    def bit_signal(self) -> float:
        """B, what one unit moves the noisy bit by in deviations of its noise; 0 without a bit."""
        return self.bit_sensitivity / (1 << self.bit_scale_bits)


class LaplaceL1Event(FrozenModel):
    """One release of a sum of units, each of L1 norm at most C, with Laplace(b) noise in every coordinate.

    Pure epsilon T = C/b. No shift of that norm is worse than the one that lies in a single coordinate, so
    it is certified as scalar Laplace noise.
    """

    kind: Literal["laplace_l1"] = "laplace_l1"
    sensitivity: PositiveInt
    scale_bits: PositiveInt
    dimension: PositiveInt
    sampling_probability: Probability = 1.0
    records: PositiveInt = 1

    @property
    def signal(self) -> float:
        """T = C/b, correctly rounded."""
        return self.sensitivity / (1 << self.scale_bits)


class GaussianEvent(FrozenModel):
    """One release of a sum of units, each of L2 norm at most C, with N(0, sigma^2) in every coordinate.

    A noisy bit (`bit_sensitivity` > 0) is one more coordinate of the same release and the same lattice:
    T^2 = (A^2 + A_b^2) / 4^s. Renyi divergence of order a: a * T^2 / 2.
    """

    kind: Literal["gaussian"] = "gaussian"
    sensitivity: PositiveInt
    scale_bits: PositiveInt
    dimension: PositiveInt
    sampling_probability: Probability = 1.0
    bit_sensitivity: NonNegativeInt = 0
    records: PositiveInt = 1

    @property
    def signal(self) -> float:
        """T = C/sigma, with sigma that of the law which the lattice draw post-processes."""
        squared = self.sensitivity**2 + self.bit_sensitivity**2
        return float((squared / (4**self.scale_bits - DRAWN_LATTICE_VARIANCE_LOSS)) ** 0.5)


class ExponentialEvent(FrozenModel):
    """One choice by the exponential mechanism with a utility of sensitivity 1.

    P(y) proportional to exp(epsilon * u / 2). Pure epsilon-DP, and of bounded range epsilon: zCDP with rho =
    epsilon^2 / 8 (Cesar, Rogers 2021), so a Renyi divergence of at most a * epsilon^2 / 8.
    """

    kind: Literal["exponential"] = "exponential"
    epsilon: PositiveFloat
    records: PositiveInt = 1


class RegisteredEvent(FrozenModel):
    """One release of a researcher's own mechanism; its accounting is looked up in the registry by name."""

    kind: Literal["registered"] = "registered"
    mechanism: str
    noise_multiplier: PositiveFloat
    dimension: PositiveInt
    sampling_probability: Probability = 1.0


NoisedEvent = Annotated[
    LaplaceL2Event | LaplaceL1Event | GaussianEvent | ExponentialEvent | RegisteredEvent,
    Field(discriminator="kind"),
]
"""Events with a finite epsilon."""


class UnboundedEvent(FrozenModel):
    """A release for which no finite epsilon holds.

    `if_fixed` is what its noise would have been worth had the threshold not looked at the data; None
    without noise.
    """

    kind: Literal["unbounded"] = "unbounded"
    reason: str
    if_fixed: NoisedEvent | None = None


Event = Annotated[
    LaplaceL2Event | LaplaceL1Event | GaussianEvent | ExponentialEvent | RegisteredEvent | UnboundedEvent,
    Field(discriminator="kind"),
]


class Charge(FrozenModel):
    """An event and how many times one unit was exposed to it."""

    event: Event
    count: Annotated[int, Field(ge=0)]
