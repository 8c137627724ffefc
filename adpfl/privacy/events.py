"""What was released, as the accountant sees it: frozen, hashable, written to the ledger as JSON."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from adpfl.config import FrozenModel


class LaplaceL2Event(FrozenModel):
    """One release of a sum of units, each of L2 norm at most C, with Laplace(b) noise in every coordinate.

    T = C/b = sensitivity / 2^scale_bits, exactly as on the lattice. Renyi divergence of order a:
    d * D_a(T / sqrt(d)). Pure epsilon: sqrt(d) * T. With `sampling_probability` < 1 each unit was in the sum
    independently with that probability, by secret randomness; a sampling scheme without amplification is an
    event with probability 1, counted fewer times.
    """

    kind: Literal["laplace_l2"] = "laplace_l2"
    sensitivity: PositiveInt
    scale_bits: PositiveInt
    dimension: PositiveInt
    sampling_probability: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0

    @property
    def signal(self) -> float:
        """T = C/b. Exact: the sensitivity has fewer bits than a double."""
        return self.sensitivity / (1 << self.scale_bits)


class UnboundedEvent(FrozenModel):
    """A release for which no finite epsilon holds.

    `if_fixed` is what its noise would have been worth had the threshold not looked at the data; None
    without noise.
    """

    kind: Literal["unbounded"] = "unbounded"
    reason: str
    if_fixed: LaplaceL2Event | None = None


Event = Annotated[LaplaceL2Event | UnboundedEvent, Field(discriminator="kind")]


class Charge(FrozenModel):
    """An event and how many times one unit was exposed to it."""

    event: Event
    count: Annotated[int, Field(ge=0)]
