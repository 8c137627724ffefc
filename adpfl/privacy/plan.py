"""What a run promises about privacy, as frozen configuration.

The plan is the same for all sites of a run and public. What a site makes of it depends on its own (public)
number of units. See `docs/privacy.md` for the meaning of each key.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from adpfl.config import FrozenModel

Unit = Literal["patient", "record"]
Mechanism = Literal["laplace_l2"]
Reading = Literal["multiplier", "multiplier_mean", "budget", "budget_n"]
Delta = Annotated[float, Field(gt=0.0, lt=1.0)]

NEIGHBORING_RELATION = "zero-out"
"""One unit's contribution is replaced by zero; the number of units stays public."""


class FixedThreshold(FrozenModel):
    """One clip norm for the whole run, from the configuration: the DP-FL arm. Costs nothing."""

    method: Literal["fixed"]
    clip_norm: PositiveFloat


class PercentileThreshold(FrozenModel):
    """The paper's threshold: a percentile of the site's own raw norms. Its honest epsilon is infinite."""

    method: Literal["percentile"]
    percentile: Annotated[float, Field(ge=0.0, le=100.0)] = 50.0
    window_steps: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Norms of this many earlier steps are ranked together with those of the current one."""
    initial_clip_norm: PositiveFloat = 1.0
    """Serves until a finite norm has been seen."""
    min_clip_norm: PositiveFloat = 1e-6


Threshold = Annotated[FixedThreshold | PercentileThreshold, Field(discriminator="method")]


class Sampling(FrozenModel):
    """How the units of one step are chosen.

    `poisson`: each unit independently with `probability`, from the site's secret keystream. `partition`:
    shuffled epochs, every unit once an epoch, no amplification claimed. `full`: every unit in every step.
    """

    mode: Literal["poisson", "partition", "full"]
    probability: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0

    @model_validator(mode="after")
    def _full_means_one(self) -> "Sampling":
        if self.mode == "full" and self.probability != 1.0:
            raise ValueError(
                f"mode full takes every unit; probability is {self.probability}; must be 1 or absent"
            )
        return self


class UnsafeNonePrivacy(FrozenModel):
    """No clipping and no noise: the FL arm. Epsilon is infinite and every report says so."""

    mode: Literal["none"]
    unit: Unit = "patient"
    sampling: Sampling


class PaperPrivacy(FrozenModel):
    """The published mechanism: L2 clip to C, Laplace noise scaled to C, at one nominal epsilon.

    `reading` must be chosen, because "epsilon = 0.001" alone does not determine the noise scale b:
    `multiplier` b = epsilon*C on the sum; `multiplier_mean` b = epsilon*C on the mean; `budget` b =
    C/epsilon on the sum; `budget_n` b = C/(n*epsilon) on the mean.
    """

    mode: Literal["paper"]
    nominal_epsilon: PositiveFloat = 0.001
    reading: Reading
    mechanism: Mechanism = "laplace_l2"
    threshold: Threshold
    delta: Delta = 1e-5
    unit: Unit = "patient"
    sampling: Sampling


PrivacyPlan = Annotated[UnsafeNonePrivacy | PaperPrivacy, Field(discriminator="mode")]
