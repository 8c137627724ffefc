"""The part of a plan that says how updates become the next global model."""

from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import Field, PositiveFloat, model_validator

from adpfl.config import FrozenModel
from adpfl.federated.averaging import Averaging

Strategy = Literal["fedavg", "fedprox", "fedadam", "fedyogi", "median", "trimmed_mean"]
OptimizerName = Literal["fedadam", "fedyogi"]

_OPTIMIZER: Final = {"server_learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99}
_PARAMETERS: Final = MappingProxyType(
    {"fedadam": _OPTIMIZER, "fedyogi": _OPTIMIZER, "trimmed_mean": {"trim_fraction": 0.2}}
)
"""What each strategy needs besides its name, with the values that it has where the plan is silent."""
_KEYS: Final = ("server_learning_rate", "beta1", "beta2", "tau", "trim_fraction")


class AggregationPlan(FrozenModel):
    """How updates become the next global model.

    `fedavg`: their weighted mean (McMahan et al. 2017). `fedprox`: the same, and sites train with the
    proximal term (Li et al. 2020). `fedadam`, `fedyogi`: the server takes an adaptive step along the mean
    (Reddi et al. 2021). `median`, `trimmed_mean`: coordinate by coordinate, so that a few sites cannot move
    the model at will (Yin et al. 2018).

    A strategy's own parameters are written into the plan where they are left out; those of another strategy
    are refused.
    """

    strategy: Strategy = "fedavg"
    weights: Literal["uniform", "patients"] = "uniform"
    """`patients`: each site counts by its declared, public number of training patients."""
    averaging: Averaging | None = None
    """What a run publishes: an average of its global models over the rounds; None publishes the last one."""
    server_learning_rate: PositiveFloat | None = None
    """Of fedadam and fedyogi: about how far a coordinate moves in a round."""
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Of fedadam and fedyogi: decay of the mean of mean updates."""
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Of fedadam and fedyogi: decay of the mean of their squares."""
    tau: PositiveFloat | None = None
    """Of fedadam and fedyogi: added to the root of the second moment. None: in each round the larger of 0.001
    and the noise's standard deviation in the mean update, where plan and declared patients tell it; the
    round's record says which value was used."""
    trim_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] | None = None
    """Of trimmed_mean: share of the updates that is left out at each end, rounded down."""
    max_update_norm: PositiveFloat | None = None
    """Greatest L2 norm of a site's whole update, noise included; a greater one is refused when it is
    committed, and the site sits its round out. None refuses nothing: what is absurd depends on clip norm,
    noise, learning rate and network, and an honest update that is refused has cost its site budget."""

    @property
    def optimizer(self) -> OptimizerName | None:
        """The server's optimizer; None where the combined update is added as it is."""
        return self.strategy if self.strategy in ("fedadam", "fedyogi") else None

    def trimmed(self, updates: int) -> int | None:
        """How many of so many values are left out at each end; None where the updates' mean is taken.

        The median leaves out all but the one or the two in the middle.
        """
        if self.strategy == "median":
            return (updates - 1) // 2
        if self.trim_fraction is None:
            return None
        return int(self.trim_fraction * updates + 1e-9)  # 0.29 * 100 is 28.999...

    @model_validator(mode="before")
    @classmethod
    def _write_parameters(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        strategy = given.get("strategy")
        defaults = _PARAMETERS.get(strategy, {}) if isinstance(strategy, str) else {}
        return given | {key: value for key, value in defaults.items() if given.get(key) is None}

    @model_validator(mode="after")
    def _parameters_fit(self) -> "AggregationPlan":
        known = {*_PARAMETERS.get(self.strategy, ()), *(("tau",) if self.optimizer else ())}
        for key in _KEYS:
            value = getattr(self, key)
            if value is not None and key not in known:
                raise ValueError(f"{key} is {value}; must be absent with strategy {self.strategy}")
        if self.strategy in ("median", "trimmed_mean") and self.weights != "uniform":
            raise ValueError(
                f"weights is {self.weights}; must be uniform with strategy {self.strategy}: it ranks sites "
                "because it trusts none, and a site must not gain by the number that it declares"
            )
        return self
