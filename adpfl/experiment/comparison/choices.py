"""What a person may choose about a comparison, every default resolved."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from adpfl.config import FrozenModel, Name
from adpfl.data.partition_plan import PartitionPlan
from adpfl.experiment.arms import Arm
from adpfl.experiment.comparison.recipes import UtilityChoices
from adpfl.privacy.plan import Delta, Percentile, Reading, Unit

Values = tuple[PositiveFloat, ...]


class Curves(FrozenModel):
    """What is varied beside the arms; an empty tuple varies nothing."""

    clip_norms: Values = ()
    """DP-FL's C."""
    percentiles: tuple[Percentile, ...] = ()
    """ADP-FL's."""
    nominal_epsilons: Values = ()
    """Of DP-FL and ADP-FL alike."""
    target_epsilons: Values = ()
    """Of the rigorous arm: honest figures."""
    seeds: Annotated[int, Field(ge=1)] = 1
    """Runs a point."""


class Choices(FrozenModel):
    """One comparison, as `comparison.json` remembers what was asked."""

    task: Name
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]
    seeds: Annotated[int, Field(ge=1, le=1000)]
    data: Path | None
    """Real images to deal out; None generates hospitals."""
    partition: PartitionPlan = PartitionPlan()
    """How `data` comes to the sites."""
    sites: Annotated[int, Field(ge=1, le=1000)] | None
    """None: one for each source, where `partition` deals by sources."""
    cases: Annotated[int, Field(ge=4)]
    """Generated images a hospital."""
    data_seed: NonNegativeInt
    """Of generated images, of the deal and of who is held out: the same in every cell."""
    held_out_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]
    network: Literal["tiny", "small", "full"]
    image_size: tuple[int, ...]
    spacing_mm: tuple[PositiveFloat, ...] | None = None
    rounds: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    learning_rate: PositiveFloat
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)]
    sampling_probability: Annotated[float, Field(gt=0.0, le=1.0)]
    evaluate_every: NonNegativeInt
    unit: Unit
    delta: Delta
    nominal_epsilon: PositiveFloat
    reading: Reading
    clip_norm: PositiveFloat
    percentile: Percentile
    target_epsilon: PositiveFloat
    curves: Curves = Curves()
    utility: UtilityChoices | None = None
    """Recipes for an honest budget, beside the arms; None runs none."""

    @model_validator(mode="after")
    def _sites_are_known(self) -> "Choices":
        if self.data is None and self.partition != PartitionPlan():
            raise ValueError(f"partition is {self.partition.method}; goes with data")
        if self.sites is None and self.partition.method != "source":
            raise ValueError(f"sites is absent; must be given with partition {self.partition.method}")
        return self

    @model_validator(mode="after")
    def _arms_once(self) -> "Choices":
        for arm in self.arms:
            if self.arms.count(arm) > 1:
                raise ValueError(f"arms names {arm} twice; each may stand once")
        return self

    def options(self) -> dict[str, str]:
        """Every choice as text, by the option's name."""
        flat: dict[str, object] = {}
        for name, value in self.model_dump(mode="json").items():
            flat |= (
                {f"{name}.{key}": one for key, one in value.items()}
                if isinstance(value, dict)
                else {name: value}
            )
        return {name: _text(value) for name, value in flat.items()}


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(_text(one) for one in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)
