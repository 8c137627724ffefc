"""Mechanisms of a researcher's own: registered together with what they cost, or runnable without a claim.

    def perturb(total, *, clip_norm, noise_multiplier, key, step): ...
    register(ResearchMechanism("staircase", clip_order=1, perturb=perturb, event=price))

A plan names one as `registered:staircase`. With an `event` it may run in mode `rigorous`; without one only in
mode `none`, where every report says that nothing is guaranteed. The registration is code at the site:
nothing that a server sends can bring a mechanism with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from adpfl.errors import ConfigError, PrivacyError

if TYPE_CHECKING:
    from torch import Tensor

    from adpfl.kernels.keystream import KeystreamKey

PREFIX = "registered:"


class Perturb(Protocol):
    """Adds the mechanism's noise to a clipped sum."""

    def __call__(
        self,
        total: "Tensor",
        *,
        clip_norm: float,
        noise_multiplier: float,
        key: "KeystreamKey",
        step: int,
    ) -> "Tensor":
        """Perturb a sum.

        Args:
            total: float64 (D,), the sum of units, each of norm at most `clip_norm`; may be changed.
            clip_norm: C.
            noise_multiplier: the plan's.
            key: the only source of randomness (`adpfl.kernels.keystream`, `adpfl.kernels.lattice`).
            step: the step within the key's life; released once.

        Returns:
            (D,): the perturbed sum.
        """


EventOf = Callable[[float, int], object]
"""(noise multiplier, dimension) -> a `dp_accounting.DpEvent` of one release over every unit.

It must hold for the norm that is clipped and for all `dimension` coordinates: `LaplaceDpEvent` means noise
on an L1-clipped sum, and certifies far too little for an L2 clip.
"""


@dataclass(frozen=True)
class ResearchMechanism:
    """A mechanism and its price.

    Attributes:
        name: by which plans call it, without the prefix.
        clip_order: the norm that is clipped before it, 2 or 1.
        perturb: adds the noise.
        event: what one release costs; None if nothing is claimed.
    """

    name: str
    clip_order: int
    perturb: Perturb
    event: EventOf | None = None

    def __post_init__(self) -> None:
        if self.clip_order not in (1, 2):
            raise PrivacyError(f"clip_order of mechanism {self.name} is {self.clip_order}; must be 1 or 2")


_mechanisms: dict[str, ResearchMechanism] = {}


def register(mechanism: ResearchMechanism) -> None:
    """Make a mechanism known under its name, in this process.

    Raises:
        PrivacyError: the name stands for another mechanism already: the ledger's old rows would change
            their meaning.
    """
    known = _mechanisms.get(mechanism.name)
    if known is not None and known != mechanism:
        raise PrivacyError(f"mechanism {mechanism.name} is registered already; each name stands for one")
    _mechanisms[mechanism.name] = mechanism


def registered(name: str) -> ResearchMechanism:
    """The mechanism that a plan calls `registered:NAME`.

    Raises:
        ConfigError: no mechanism of that name is registered in this process.
    """
    bare = name.removeprefix(PREFIX)
    if bare not in _mechanisms:
        known = ", ".join(sorted(_mechanisms)) or "none"
        raise ConfigError(f"privacy.mechanism is {name}; must be a registered mechanism (known: {known})")
    return _mechanisms[bare]


def require_accounted(name: str) -> ResearchMechanism:
    """The same, with an accounting event.

    Raises:
        ConfigError: it is unknown, or was registered without one and so runs in mode `none` alone.
    """
    mechanism = registered(name)
    if mechanism.event is None:
        raise ConfigError(
            f"privacy.mechanism {name} has no accounting event; without one it runs in privacy.mode none only"
        )
    return mechanism
