"""Which tensors of a network a run trains, by their names alone. Importable without torch.

The others are frozen: they keep the initial model's values, and are neither differentiated, clipped, noised
nor sent. Noise grows with the number of coordinates, so a run that starts from trained weights may learn more
under a budget from a few of them.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final

from adpfl.errors import ConfigError
from adpfl.learning.plan import NetworkPlan

GROUPS: Final = MappingProxyType(
    {
        ("unet", "head"): ("head.*",),
        ("unet", "norms"): ("*.adn.N.*", "normalise.*"),
        ("unet", "biases"): ("*.bias",),
        ("segresnet", "head"): ("conv_final.*", "head.*"),
        ("segresnet", "norms"): ("*.norm1.*", "*.norm2.*", "conv_final.0.*", "normalise.*"),
        ("segresnet", "biases"): ("*.bias",),
    }
)
"""Patterns of the groups that a plan may name: (architecture, group).

They cover both kinds of network that an architecture has: the segmenter, and the classifier of
`adpfl.learning.classifiers`, whose `head` and `normalise` are its own. No name of one kind fits a pattern
that is meant for the other.
"""


def trainable_names(plan: NetworkPlan, names: Sequence[str]) -> tuple[str, ...]:
    """The trainable ones of a network's tensors, in the order given.

    Args:
        plan: its `trainable` names groups or patterns, in which `*` stands for any characters.
        names: every tensor of the network.

    Raises:
        ConfigError: a group or pattern fits no tensor.
    """
    if plan.trainable == "all":
        return tuple(names)
    chosen: set[str] = set()
    for entry in plan.trainable:
        patterns = GROUPS.get((plan.architecture, entry), (entry,))
        found = {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
        if not found:
            groups = ", ".join(group for architecture, group in GROUPS if architecture == plan.architecture)
            raise ConfigError(
                f"network.trainable names {entry!r}, which fits no tensor of network {plan.architecture} "
                f"{plan.size}; must be one of {groups}, or a pattern as {names[0]!r}",
                rule="plan",
            )
        chosen |= found
    return tuple(name for name in names if name in chosen)
