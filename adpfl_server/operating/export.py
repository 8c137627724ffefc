"""Models that leave the server by the operator's hand: which one, and as a weights file or a MONAI bundle."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from adpfl.errors import ConfigError, StateError
from adpfl.federated.run_state import RunState
from adpfl.wire.chunks import Manifest
from adpfl_server.config import ServerConfig
from adpfl_server.operating.monai_bundle import write_bundle
from adpfl_server.operating.overview import open_store
from adpfl_server.storage.collection import reading
from adpfl_server.storage.weights import export_weights
from adpfl_server.store import Store


class Kind(Enum):
    """Which of a round's models is meant."""

    PUBLISHED = "published"
    """The average where the plan averages, else the model itself: what the run gives out."""
    LAST = "last"
    AVERAGED = "averaged"


@dataclass(frozen=True)
class Choice:
    """What the operator asks for."""

    kind: Kind = Kind.PUBLISHED
    round_number: int | None = None
    """None is the newest."""


NEWEST = Choice()


@dataclass(frozen=True)
class Found:
    """A kept model."""

    manifest: Manifest
    round_number: int
    averaged: bool


def export_model(
    config: ServerConfig, run: str, path: Path, *, choice: Choice = NEWEST, bundle: bool = False
) -> str:
    """Write a model that a run has kept; returns one line that says which it is.

    Args:
        config: the server's.
        run: its name.
        path: the safetensors file, or the bundle's folder.
        choice: which of its models.
        bundle: write a folder that MONAI loads, and not a single file.

    Raises:
        StateError: there is no such run or model, or the file cannot be written.
        IntegrityError: the model is damaged on disk.
        ModelMismatchError: a bundle is wanted of a model that the plan's network does not have.
    """
    with open_store(config) as store, reading(config.state_dir):
        state = store.state(run)
        return export_found(store, state, _find(store, state, choice), path, bundle=bundle)


def export_found(store: Store, state: RunState, found: Found, path: Path, *, bundle: bool) -> str:
    """Write a kept model; returns one line that says which it is.

    Args:
        store: the server's state, held by `reading`.
        state: of the run.
        found: which of its models.
        path: the safetensors file, or the bundle's folder.
        bundle: write a folder that MONAI loads, and not a single file.

    Raises:
        StateError: the file cannot be written.
        IntegrityError: the model is damaged on disk.
        ModelMismatchError: a bundle is wanted of a model that the plan's network does not have.
    """
    write = write_bundle if bundle else export_weights
    try:
        write(
            path,
            found.manifest,
            store.blobs,
            plan=state.plan,
            round_number=found.round_number,
            averaged=found.averaged,
        )
    except OSError as error:
        raise StateError(f"{path}: cannot be written: {error.strerror or error}") from error
    progress = f"round {found.round_number} of {state.plan.rounds} of {state.plan.run} ({state.status})"
    what = "the average of the models up to" if found.averaged else "the model after"
    return f"wrote {path}: {what} {progress}"


def chosen(*, round_number: int | None, last: bool, averaged: bool) -> Choice:
    """What a command line asks for.

    Raises:
        ConfigError: two options contradict each other.
    """
    if last and averaged:
        raise ConfigError("--last and --averaged are both given; they are two models")
    if last and round_number is not None:
        raise ConfigError(f"--last and --round {round_number} are both given; --last is the newest round's")
    kind = Kind.AVERAGED if averaged else Kind.LAST if last or round_number is not None else Kind.PUBLISHED
    return Choice(kind, round_number)


def _find(store: Store, state: RunState, choice: Choice) -> Found:
    run = state.plan.run
    kept = store.kept_models(run)
    averages = store.kept_averages(run)
    number = state.rounds_closed if choice.round_number is None else choice.round_number
    averaged = choice.kind is Kind.AVERAGED or (choice.kind is Kind.PUBLISHED and number in averages)
    digest = (averages if averaged else kept).get(number)
    manifest = None if digest is None else store.manifest(digest)
    if manifest is None:
        what = "average of the models up to" if averaged else "model of"
        rounds = ", ".join(map(str, sorted(averages if averaged else kept))) or "none"
        raise StateError(f"run {run} keeps no {what} round {number}; kept rounds: {rounds}")
    return Found(manifest, number, averaged)
