"""What a site is told to train, as frozen configuration. Importable without torch."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, StringConstraints, model_validator

from adpfl.config import FrozenModel

TensorPattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.*?-]{1,256}$")]


class NetworkPlan(FrozenModel):
    """One of the networks that `adpfl.learning.networks` builds from MONAI."""

    architecture: Literal["unet", "segresnet"] = "unet"
    size: Literal["tiny", "small", "full"] = "tiny"
    trainable: Literal["all"] | Annotated[tuple[TensorPattern, ...], Field(min_length=1, max_length=64)] = (
        "all"
    )
    """`all`, or groups (`head`, `norms`, `biases`) and patterns of tensor names; every other tensor is frozen
    at its initial value. See `adpfl.learning.trainable`."""


class LocalPlan(FrozenModel):
    """The local part of a round; momentum, weight decay and the proximal term act after the release."""

    steps: Annotated[int, Field(ge=1, le=100_000)]
    learning_rate: PositiveFloat
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    weight_decay: NonNegativeFloat = 0.0
    fedprox_mu: NonNegativeFloat = 0.0
    records_per_unit: Annotated[int, Field(ge=1, le=64)] = 1
    """Images drawn from each patient in a step; their mean loss is what is differentiated."""
    augment: bool = True
    augmentations_per_record: Annotated[int, Field(ge=1, le=64)] = 1
    """Augmented views of each image drawn; their gradients are averaged before the clip, at no privacy cost.
    Training time grows with them."""

    @model_validator(mode="after")
    def _views_differ(self) -> "LocalPlan":
        if self.augmentations_per_record > 1 and not self.augment:
            raise ValueError(
                f"augmentations_per_record is {self.augmentations_per_record}; must be 1 where "
                "augment is false"
            )
        return self
