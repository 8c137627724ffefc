"""What an unfinished cell goes on from: one safetensors file, replaced in one step after every round.

The tensors are the global model, and the average of models and the server's moments where there are any; the
metadata holds everything else as JSON. Secret keys are never in it: a cell that goes on draws its sampling
and noise under fresh ones, as a restarted agent does.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import NonNegativeFloat, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from adpfl.config import FrozenModel, Name
from adpfl.errors import StateError
from adpfl.federated.records import EvaluationRecord, ServerRound, StepRecord, TimelineEvent
from adpfl.federated.run_state import RunState
from adpfl.privacy.engine import EngineState

_KEY = "adpfl"
_PARTS = ("averaged", "first_moment", "second_moment")
"""Before the names of other tensors than the global model's, and a slash, which no network's tensor has."""


class SiteCheckpoint(FrozenModel):
    """What one site carries from round to round. Private, as its record is: it holds raw norms."""

    steps: tuple[StepRecord, ...] = ()
    evaluations: tuple[EvaluationRecord, ...] = ()
    engine: EngineState | None = None


class Checkpoint(FrozenModel):
    """A run between two rounds, but for its model."""

    state: RunState
    rounds: tuple[ServerRound, ...]
    timeline: tuple[TimelineEvent, ...]
    sites: dict[Name, SiteCheckpoint]
    seconds: dict[str, NonNegativeFloat]
    """Spent so far, by what they were spent on."""
    starts: int


@dataclass(frozen=True)
class Models:
    """What a run has between two rounds.

    Attributes:
        newest: what the next round trains from, by tensor name.
        averaged: the average of the models so far; None where the plan has none.
        first_moment: of the server's optimizer, its trainable tensors; None where the plan has none.
        second_moment: likewise.
    """

    newest: dict[str, Tensor]
    averaged: dict[str, Tensor] | None = None
    first_moment: dict[str, Tensor] | None = None
    second_moment: dict[str, Tensor] | None = None

    @property
    def parts(self) -> dict[str, dict[str, Tensor] | None]:
        """All but the newest model, by name."""
        return {
            "averaged": self.averaged,
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
        }


def write_checkpoint(path: Path, checkpoint: Checkpoint, models: Models) -> None:
    """Replace the checkpoint in one step.

    Raises:
        StateError: the disk refuses.
    """
    others = {
        f"{part}/{name}": tensor
        for part, weights in models.parts.items()
        for name, tensor in (weights or {}).items()
    }
    payload = save(models.newest | others, metadata={_KEY: checkpoint.model_dump_json()})
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise StateError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_checkpoint(path: Path, *, plan_digest: str) -> tuple[Checkpoint, Models] | None:
    """The checkpoint and its models, tensors in the order of their names; None where there is none.

    Raises:
        StateError: it cannot be read, or is of another plan.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {})[_KEY])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        checkpoint = Checkpoint.model_validate(document)
    except (OSError, SafetensorError, KeyError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise StateError(f"{path}: is no checkpoint of this version: {reason}; remove it") from error
    if checkpoint.state.plan.digest() != plan_digest:
        raise StateError(f"{path}: is of another plan; remove it, and the cell starts afresh")
    newest = {name: tensor for name, tensor in weights.items() if "/" not in name}
    parts = {part: _part(weights, f"{part}/") for part in _PARTS}
    return checkpoint, Models(newest, **parts)


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor] | None:
    found = {name.removeprefix(prefix): one for name, one in weights.items() if name.startswith(prefix)}
    return found or None
