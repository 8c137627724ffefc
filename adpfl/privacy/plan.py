"""What a run promises about privacy, as frozen configuration.

The plan is the same for all sites of a run and public. What a site makes of it depends on its own (public)
number of units. See `docs/privacy.md` for the meaning of each key.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

from adpfl.config import FrozenModel

Unit = Literal["patient", "record"]
Mechanism = Literal["laplace_l2", "laplace_l1", "gaussian"]
Registered = Annotated[str, StringConstraints(pattern=r"^registered:[a-z0-9][a-z0-9_-]{0,62}$")]
"""A researcher's own mechanism, by the name that `adpfl.privacy.registry` knows it by."""
Reading = Literal["multiplier", "multiplier_mean", "budget", "budget_n"]
Delta = Annotated[float, Field(gt=0.0, lt=1.0)]
Percentile = Annotated[float, Field(ge=0.0, le=100.0)]
ClipNorm = Annotated[float, Field(ge=2.0**-126, le=2.0**127)]
"""A clip norm within the normal range of float32, which a release is written in."""

NEIGHBORING_RELATION = "zero-out"
"""One unit's contribution is replaced by zero; the number of units stays public."""


class FixedThreshold(FrozenModel):
    """One clip norm for the whole run, from the configuration: the DP-FL arm. Costs nothing."""

    method: Literal["fixed"]
    clip_norm: PositiveFloat


class PercentileThreshold(FrozenModel):
    """The paper's threshold: a percentile of the site's own raw norms. Its honest epsilon is infinite."""

    method: Literal["percentile"]
    percentile: Percentile = 50.0
    window_steps: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Norms of this many earlier steps are ranked together with those of the current one."""
    initial_clip_norm: PositiveFloat = 1.0
    """Serves until a finite norm has been seen."""
    min_clip_norm: PositiveFloat = 1e-6


class _Tracking(FrozenModel):
    """A clip norm that follows a percentile of the norms through releases of its own."""

    percentile: Percentile = 50.0
    """Share of units whose norm should lie at or below C."""
    initial_clip_norm: ClipNorm = 1.0
    min_clip_norm: ClipNorm = 1e-6
    max_clip_norm: ClipNorm = 1e6

    @model_validator(mode="after")
    def _rising(self) -> "_Tracking":
        if not self.min_clip_norm <= self.initial_clip_norm <= self.max_clip_norm:
            raise ValueError(
                f"min_clip_norm {self.min_clip_norm:g}, initial_clip_norm {self.initial_clip_norm:g} and "
                f"max_clip_norm {self.max_clip_norm:g} must rise in this order"
            )
        return self


class NoisyBitsThreshold(_Tracking):
    """C follows the noisy share of units under it (Andrew et al. 2021).

    Costs 2.1 % more gradient noise at the default `bit_noise_ratio`: gradient and bit are one release at
    the plan's noise multiplier z, with z_grad = (z^-2 - (2 * bit_noise_ratio * z)^-2)^(-1/2) on the
    gradient.
    """

    method: Literal["noisy_bits"]
    learning_rate: PositiveFloat = 0.2
    bit_noise_ratio: Annotated[float, Field(gt=0.5, le=1000.0)] = 2.5
    """Deviation of the noise on the sum of +-1/2 bits, over z."""


class SlackThreshold(_Tracking):
    """C follows noisy slack: ten more coordinates of the same release that say how full the clip is.

    Costs no epsilon and no gradient noise: slack fills only what the unit's gradient left of C. With
    `laplace_l2` the release has ten coordinates more, which its divergence counts.
    """

    method: Literal["slack"]
    learning_rate: PositiveFloat = 0.2


class ExponentialThreshold(_Tracking):
    """C is chosen by the exponential mechanism from a log grid, over the norms of ALL units.

    Costs zCDP rho = epsilon^2 / 8 a choice, beside the gradients' own cost.
    """

    method: Literal["exponential"]
    epsilon: Annotated[float, Field(gt=0.0, le=100.0)]
    """Pure epsilon of one choice."""
    refresh_steps: PositiveInt
    """Steps between two choices; the local steps of a round make it one choice a round."""
    grid_points: Annotated[int, Field(ge=2, le=4096)] = 256
    """Candidates, from `min_clip_norm` to `max_clip_norm` in equal ratios."""


Threshold = Annotated[FixedThreshold | PercentileThreshold, Field(discriminator="method")]
RigorousThreshold = Annotated[
    FixedThreshold | NoisyBitsThreshold | SlackThreshold | ExponentialThreshold | PercentileThreshold,
    Field(discriminator="method"),
]
"""`percentile` is known here only to be refused with its reason."""
AnyThreshold = (
    FixedThreshold | PercentileThreshold | NoisyBitsThreshold | SlackThreshold | ExponentialThreshold
)


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
    """No clipping and no noise: the FL arm. Epsilon is infinite and every report says so.

    `mechanism` runs a registered mechanism that has no accounting event, and so no guarantee either.
    """

    mode: Literal["none"]
    unit: Unit = "patient"
    sampling: Sampling
    mechanism: Registered | None = None
    noise_multiplier: PositiveFloat | None = None
    clip_norm: ClipNorm | None = None
    """The fixed clip norm that `mechanism` is given; required with it."""

    @model_validator(mode="after")
    def _mechanism_is_whole(self) -> "UnsafeNonePrivacy":
        for name, value in (("noise_multiplier", self.noise_multiplier), ("clip_norm", self.clip_norm)):
            if (value is None) != (self.mechanism is None):
                raise ValueError(f"{name} goes with mechanism: both or neither")
        return self


class PaperPrivacy(FrozenModel):
    """The published mechanism: L2 clip to C, Laplace noise scaled to C, at one nominal epsilon.

    `reading` must be chosen, because "epsilon = 0.001" alone does not determine the noise scale b:
    `multiplier` b = epsilon*C on the sum; `multiplier_mean` b = epsilon*C on the mean; `budget` b =
    C/epsilon on the sum; `budget_n` b = C/(n*epsilon) on the mean.
    """

    mode: Literal["paper"]
    nominal_epsilon: PositiveFloat = 0.001
    reading: Reading
    mechanism: Literal["laplace_l2"] = "laplace_l2"
    threshold: Threshold
    delta: Delta = 1e-5
    unit: Unit = "patient"
    sampling: Sampling


class RigorousPrivacy(FrozenModel):
    """A finite epsilon that holds: noise given, or calibrated to a target.

    Noise is given by `noise_multiplier` z (sigma/C or b/C on the sum), or found as the least that keeps
    `target_epsilon` at `delta` over `total_steps` steps, at each site from public numbers alone.
    """

    mode: Literal["rigorous"]
    mechanism: Mechanism | Registered = "gaussian"
    threshold: RigorousThreshold = NoisyBitsThreshold(method="noisy_bits")
    target_epsilon: PositiveFloat | None = None
    noise_multiplier: PositiveFloat | None = None
    total_steps: PositiveInt | None = None
    """Noised steps of the whole run (rounds times local steps), which `target_epsilon` is spread over."""
    delta: Delta = 1e-5
    unit: Unit = "patient"
    records_per_patient: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """With unit `record`: most records that one patient has; the patient's own figure is then stated too."""
    sampling: Sampling

    @model_validator(mode="after")
    def _noise_is_given_once(self) -> "RigorousPrivacy":
        if (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise ValueError(
                "target_epsilon and noise_multiplier: exactly one must be given, as each decides the other"
            )
        if self.total_steps is not None and self.target_epsilon is None:
            raise ValueError("total_steps goes with target_epsilon; noise_multiplier needs none")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "RigorousPrivacy":
        if self.records_per_patient is not None and self.unit != "record":
            raise ValueError("records_per_patient goes with unit record; unit patient counts once by itself")
        if self.threshold.method == "percentile":
            raise ValueError(
                "threshold.method percentile has no finite epsilon; rigorous takes noisy_bits, slack, "
                "exponential or fixed"
            )
        if self.threshold.method == "noisy_bits" and self.mechanism == "laplace_l1":
            raise ValueError(
                "threshold.method noisy_bits adds Gaussian noise, which ends the pure guarantee of "
                "mechanism laplace_l1; take slack, exponential or fixed"
            )
        if self.mechanism.startswith("registered:"):
            if self.threshold.method not in ("fixed", "exponential"):
                raise ValueError(
                    f"threshold.method is {self.threshold.method}; must be fixed or exponential with a "
                    "registered mechanism"
                )
            if self.records_per_patient not in (None, 1):
                raise ValueError("records_per_patient has no meaning for a registered mechanism")
        return self


PrivacyPlan = Annotated[UnsafeNonePrivacy | PaperPrivacy | RigorousPrivacy, Field(discriminator="mode")]


def claims_epsilon(plan: PrivacyPlan) -> bool:
    """Whether a finite epsilon is claimed of the plan's releases."""
    return not (isinstance(plan, UnsafeNonePrivacy) or plan.threshold.method == "percentile")
