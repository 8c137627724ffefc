"""The plan of one run: the public document that the operator writes and every site checks before it joins."""

import hashlib
import json
from typing import Annotated, Final, Literal

from pydantic import Field, PositiveFloat, model_validator

from adpfl.config import FrozenModel, Name
from adpfl.data.grid import Grid
from adpfl.federated.aggregation_plan import AggregationPlan
from adpfl.federated.averaging import TailAveraging
from adpfl.federated.warm_start import WarmStart
from adpfl.learning.plan import LocalPlan, NetworkPlan
from adpfl.privacy.plan import PrivacyPlan, RigorousPrivacy, UnsafeNonePrivacy

_LATER_KEYS: Final[tuple[tuple[tuple[str, ...], object], ...]] = (
    (("spacing_mm",), None),
    (("warm_start",), None),
    (("local", "augmentations_per_record"), 1),
    (("aggregation", "averaging"), None),
    *(
        (("aggregation", key), None)
        for key in ("server_learning_rate", "beta1", "beta2", "tau", "trim_fraction", "max_update_norm")
    ),
    (("network", "trainable"), "all"),
)
"""Path and default of each key that the first plans did not have."""


class CohortPlan(FrozenModel):
    """Who takes part, how many must answer, and how long a round waits."""

    sites: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1000)]
    quorum: Annotated[int, Field(ge=1)]
    """Updates without which a round is not aggregated (the k of k-of-n)."""
    round_deadline_seconds: PositiveFloat = 3600.0

    @model_validator(mode="after")
    def _consistent(self) -> "CohortPlan":
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("sites names a site twice; each may stand once")
        if self.quorum > len(self.sites):
            raise ValueError(
                f"quorum is {self.quorum}; must be at most the number of sites, {len(self.sites)}"
            )
        return self


class RunPlan(FrozenModel):
    """One run. Its canonical JSON is what travels; its digest is what a site approves."""

    run: Name
    task: Name
    network: NetworkPlan = NetworkPlan()
    image_size: Annotated[
        tuple[Annotated[int, Field(ge=16, le=4096)], ...], Field(min_length=2, max_length=3)
    ]
    """Spatial size of the network's input: pixels that a photograph is resized to, e.g. [128, 128], or voxels
    of the patch that is cut from a volume, e.g. [96, 96, 96]."""
    spacing_mm: (
        Annotated[tuple[Annotated[float, Field(ge=0.1, le=50.0)], ...], Field(min_length=3, max_length=3)]
        | None
    ) = None
    """Voxel size (slices, rows, columns) that volumes are resampled to; None is the task's own."""
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    local: LocalPlan
    aggregation: AggregationPlan = AggregationPlan()
    cohort: CohortPlan
    privacy: PrivacyPlan
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Governs initialisation and augmentation only; never noise, never sampling."""
    warm_start: WarmStart | None = None
    """Trained weights to start from; None starts from random ones that `seed` gives."""

    @property
    def arm(self) -> Literal["fl", "dp-fl", "adp-fl", "rigorous"]:
        """The paper's name for this kind of privacy (none, fixed clip norm, percentile), or `rigorous`."""
        if isinstance(self.privacy, UnsafeNonePrivacy):
            return "fl"
        if isinstance(self.privacy, RigorousPrivacy):
            return "rigorous"
        return "dp-fl" if self.privacy.threshold.method == "fixed" else "adp-fl"

    @property
    def grid(self) -> Grid:
        """The network's input and its voxel size."""
        return Grid(self.image_size, self.spacing_mm)

    @model_validator(mode="after")
    def _spacing_of_a_volume(self) -> "RunPlan":
        if self.spacing_mm is not None and len(self.image_size) != len(self.spacing_mm):
            raise ValueError(
                f"spacing_mm is {list(self.spacing_mm)}; must be absent where image_size has "
                f"{len(self.image_size)} entries: only volumes have a spacing"
            )
        return self

    @model_validator(mode="after")
    def _tail_of_this_run(self) -> "RunPlan":
        averaging = self.aggregation.averaging
        if isinstance(averaging, TailAveraging) and averaging.rounds > self.rounds:
            raise ValueError(
                f"aggregation.averaging.rounds is {averaging.rounds}; must be at most rounds, {self.rounds}"
            )
        return self

    @model_validator(mode="after")
    def _strategy_of_this_run(self) -> "RunPlan":
        rule, quorum = self.aggregation, self.cohort.quorum
        if rule.strategy == "fedprox" and self.local.fedprox_mu == 0.0:
            raise ValueError(
                "local.fedprox_mu is 0.0; must be above 0 with aggregation.strategy fedprox, which is fedavg "
                "without it"
            )
        if rule.trimmed(quorum) == 0:
            least = (
                "cohort.quorum must be at least 3"
                if rule.strategy == "median"
                else (f"aggregation.trim_fraction must be at least {1 / quorum:.4g}, one in {quorum}")
            )
            raise ValueError(
                f"aggregation.strategy {rule.strategy} leaves nothing out of {quorum} updates, the quorum, "
                f"and is then the plain mean; {least}"
            )
        return self

    @model_validator(mode="after")
    def _calibrated_to_this_length(self) -> "RunPlan":
        if isinstance(self.privacy, RigorousPrivacy) and self.privacy.target_epsilon is not None:
            steps = self.rounds * self.local.steps
            if self.privacy.total_steps != steps:
                raise ValueError(
                    f"privacy.total_steps is {self.privacy.total_steps}; must be {steps}, rounds times "
                    "local.steps, where target_epsilon is spread over the run"
                )
        return self

    def canonical_json(self) -> bytes:
        """The plan as sorted, compact UTF-8 JSON: the same plan always gives the same bytes.

        A later key at its default is left out, so that plans older than the key keep their digest.
        """
        document = self.model_dump(mode="json")
        for (*sections, key), default in _LATER_KEYS:
            place = document
            for section in sections:
                place = place[section]
            if place[key] == default:
                del place[key]
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return hashlib.sha256(self.canonical_json()).hexdigest()
