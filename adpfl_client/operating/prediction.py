"""Masks for new images, by a global model that this site received."""

from pathlib import Path

import torch

from adpfl.errors import ConfigError, DataError
from adpfl.learning.initial_model import build_network, load_weights
from adpfl.learning.networks import load_into, weight_layout
from adpfl.tasks.registry import get_task
from adpfl_client.rounds.models import StoredModel


def predict_folder(model_path: Path, images: Path, output: Path) -> list[Path]:
    """Segment every image of a folder at its original size; returns the mask files, in the cases' order.

    Raises:
        ConfigError: the model's task is not installed, or writes no masks.
        DataError: the model file or an image cannot be used, or the output folder cannot be made.
        ModelMismatchError: the file's tensors are not those of the network that it names.
    """
    stored = StoredModel.read(model_path)
    task = get_task(stored.plan.task)
    if task.kind != "segmentation":
        raise ConfigError(
            f"{model_path}: the model's task {task.name} answers whether a crop shows a structure; "
            "must be a segmentation task to write masks"
        )
    network = build_network(stored.plan, task)
    load_into(network, load_weights(model_path, weight_layout(network)), source=str(model_path))
    network.eval()
    grid = stored.plan.grid
    cases = task.read(images, with_masks=False)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--output {output}: cannot be made: {error.strerror or error}") from error
    written = []
    with torch.inference_mode():
        for case in cases:
            image = task.load_image(case, grid)
            prediction = task.predict(network, image, grid, size=task.original_size(case))
            written.append(task.write_prediction(prediction, case, output))
    return written
