"""What may be won back under an honest budget without spending any of it, as changes of a run plan.

Each recipe is the run of the arms with one thing more. All of it is post-processing of released models,
public beforehand, or inside one unit's contribution, so epsilon stays what the privacy plan says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from adpfl.config import FrozenModel
from adpfl.federated.run_plan import RunPlan
from adpfl.federated.warm_start import WarmStart
from adpfl.privacy.plan import PrivacyPlan

VIEWS: Final = 2
EMA_DECAY: Final = 0.8
FINE_TUNING: Final = 0.25
PART: Final = ("head", "norms")

SETTINGS: Final[Mapping[str, Any]] = {
    "rounds": 40,
    "steps": 2,
    "sampling_probability": 0.5,
    "learning_rate": 0.2,
    "momentum": 0.0,
}
"""Few steps on large Poisson batches: a step's noise is divided by the patients that are expected in it."""


class UtilityChoices(FrozenModel):
    """What a comparison of recipes starts from."""

    warm_start: WarmStart | None = None
    """The comparison's initial model; None leaves out the recipes that need one."""


@dataclass(frozen=True)
class Recipe:
    """One way to spend a budget.

    Attributes:
        key: part of the cells' names.
        label: what a reader sees.
        arm: whose privacy plan it has.
        warm: it starts from the comparison's initial model.
        steady: several views of each record, and the average of the models is published.
        trainable: what of the network is trained.
        rate: of the comparison's learning rate; weights that were trained once take smaller steps.
    """

    key: str
    label: str
    arm: Literal["fl", "rigorous"] = "rigorous"
    warm: bool = False
    steady: bool = True
    trainable: Literal["all"] | tuple[str, ...] = "all"
    rate: float = 1.0

    def applied(self, plan: RunPlan, privacy: PrivacyPlan, warm_start: WarmStart | None) -> RunPlan:
        """The plan changed by the recipe.

        Args:
            plan: a run as the arms have it.
            privacy: of the recipe's arm.
            warm_start: what `warm` recipes start from.
        """
        changed = plan.model_dump()
        changed["privacy"] = privacy.model_dump()
        changed["network"]["trainable"] = self.trainable
        changed["local"]["learning_rate"] = self.rate * plan.local.learning_rate
        if self.warm and warm_start is not None:
            changed["warm_start"] = warm_start.model_dump()
        if self.steady:
            changed["local"]["augmentations_per_record"] = VIEWS
            changed["aggregation"]["averaging"] = {"method": "ema", "decay": EMA_DECAY}
        return RunPlan.model_validate(changed)


RECIPES: Final = (
    Recipe("fl-warm", "FL, warm start", arm="fl", warm=True, steady=False, rate=FINE_TUNING),
    Recipe("rigorous", "Rigorous", steady=False),
    Recipe("rigorous-steady", "Rigorous, views and average"),
    Recipe("rigorous-warm", "Rigorous, warm start, views and average", warm=True, rate=FINE_TUNING),
    Recipe("rigorous-part", "Rigorous, warm start, head and norms alone", warm=True, trainable=PART),
)


def recipes_for(choices: UtilityChoices) -> tuple[Recipe, ...]:
    """The recipes that can be run: without an initial model, those that need none."""
    return tuple(recipe for recipe in RECIPES if choices.warm_start is not None or not recipe.warm)
