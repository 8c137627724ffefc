"""A run's initial weights as a safetensors file, and weights files in general.

The server's daemon never imports torch, so it starts `python -m adpfl.learning.initial_model PLAN.json
OUTPUT` in a process of its own.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from adpfl.config import load_json, parse
from adpfl.errors import AdpflError, ConfigError, IntegrityError, StateError
from adpfl.federated.run_plan import RunPlan
from adpfl.federated.warm_start import PRETRAINED_KEY
from adpfl.learning.networks import (
    TensorLayout,
    build,
    check_weights,
    parameter_layout,
    size_divisor,
    weight_layout,
    weights_of,
)
from adpfl.tasks.registry import get_task
from adpfl.tasks.task import Task

METADATA_KEY = "adpfl"
"""One key that holds sorted JSON: safetensors writes several keys in an order that changes from process to
process, and equal models must have equal bytes."""


def build_network(plan: RunPlan, task: Task) -> nn.Module:
    """The plan's network for the task, with the weights that the plan's seed gives.

    Raises:
        ConfigError: the plan's image size does not fit the task or the network.
    """
    if len(plan.image_size) != task.spatial_dims:
        raise ConfigError(
            f"image_size is {list(plan.image_size)}; must have {task.spatial_dims} entries "
            f"for task {task.name}",
            rule="plan",
        )
    divisor = size_divisor(plan.network, spatial_dims=task.spatial_dims)
    if any(extent % divisor or extent < 2 * divisor for extent in plan.image_size):
        raise ConfigError(
            f"image_size is {list(plan.image_size)}; each entry must be a multiple of {divisor}, "
            f"at least {2 * divisor}, for network {plan.network.architecture} {plan.network.size}",
            rule="plan",
        )
    return build(
        plan.network,
        spatial_dims=task.spatial_dims,
        in_channels=task.in_channels,
        out_channels=len(task.structures),
        seed=plan.seed,
        kind=task.kind,
    )


def model_layout(plan: RunPlan, task: Task) -> tuple[TensorLayout, ...]:
    """Names and shapes of the plan's whole model, for size checks, manifests and weights files."""
    return weight_layout(build_network(plan, task))


def update_layout(plan: RunPlan, task: Task) -> tuple[TensorLayout, ...]:
    """Names and shapes of what an update holds: the trainable tensors. Their sizes add up to its D."""
    return parameter_layout(build_network(plan, task))


def write_initial_model(plan: RunPlan, path: Path) -> None:
    """Write a run's initial weights; the same plan gives the same bytes.

    Raises:
        ConfigError: the plan names no known task or a size that does not fit it.
        StateError: the file cannot be written.
    """
    task = get_task(plan.task)
    save_weights(path, weights_of(build_network(plan, task)), plan=plan)


def save_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    *,
    plan: RunPlan,
    pretrained: Mapping[str, object] | None = None,
) -> None:
    """Write weights as safetensors: whole and durable under its name, or not at all.

    The metadata's key `adpfl` holds task, architecture, size and seed as sorted JSON.

    Args:
        path: the file.
        weights: by tensor name.
        plan: of the network and the task.
        pretrained: JSON-able; what trained weights were trained on, which `adpfl.federated.warm_start` reads.

    Raises:
        StateError: the file cannot be written.
    """
    described: dict[str, object] = {
        "architecture": plan.network.architecture,
        "seed": plan.seed,
        "size": plan.network.size,
        "task": plan.task,
    }
    if pretrained is not None:
        described[PRETRAINED_KEY] = dict(pretrained)
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    payload = save(tensors, metadata={METADATA_KEY: json.dumps(described, sort_keys=True)})
    try:
        _write_atomically(path, payload)
    except OSError as error:
        raise StateError(f"{path}: cannot be written: {error.strerror or error}") from error


def load_weights(path: Path, layout: Sequence[TensorLayout]) -> dict[str, Tensor]:
    """Read a weights file and check it against the layout.

    Raises:
        IntegrityError: the file is absent, cut short or no safetensors file.
        ModelMismatchError: its tensors are not those of the layout.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise IntegrityError(f"{path}: is no readable safetensors file: {error}") from error
    check_weights(weights, layout, source=str(path))
    return {tensor.name: weights[tensor.name] for tensor in layout}


def _write_atomically(path: Path, payload: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the initial model of the plan whose JSON stands in a file; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m adpfl.learning.initial_model",
        description="Write a run's initial weights as a safetensors file.",
    )
    parser.add_argument("plan", type=Path, help="JSON of the run's plan")
    parser.add_argument("output", type=Path, help="safetensors file to write")
    options = parser.parse_args(arguments)
    try:
        document = load_json(options.plan.read_text(encoding="utf-8"))
        write_initial_model(parse(document, RunPlan, source=str(options.plan)), options.output)
    except AdpflError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the one line that this process says
        return error.exit_code
    except (OSError, ValueError) as error:
        print(f"{options.plan}: is no readable JSON: {error}", file=sys.stderr)  # noqa: T201 - as above
        return ConfigError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
