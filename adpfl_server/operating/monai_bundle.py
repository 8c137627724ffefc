"""A run's model as a folder that MONAI alone can load: https://docs.monai.io/en/stable/mb_specification.html.

Only JSON, Markdown and safetensors are written, so the server needs neither torch nor MONAI; the network is
described by MONAI's and torch's own classes. What the images must look like is the task's knowledge: the
bundle takes preprocessed images and says so.
"""

import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from adpfl import __version__
from adpfl.errors import IdentityError, ModelMismatchError, StateError
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.network_shapes import (
    SEGRESNET_SHAPES,
    UNET_CHANNELS,
    UNET_NEGATIVE_SLOPE,
    UNET_RESIDUAL_UNITS,
)
from adpfl.security.private_files import new_staging_folder, publish_folder, sync_folder, write_new
from adpfl.wire.chunks import Manifest
from adpfl_server.operating.privacy_notice import guarantee_kind
from adpfl_server.storage.blobs import BlobFolder
from adpfl_server.storage.weights import export_weights

WEIGHTS_FILE: Final = "models/model.safetensors"
WINDOW_OVERLAP: Final = 0.25
"""Of neighbouring windows in a volume; the tasks predict with the same."""

_FIRST_TENSOR: Final = {
    "unet": "features.model.0.conv.unit0.conv.weight",
    "segresnet": "convInit.conv.weight",
}
_LAST_TENSOR: Final = {"unet": "head.1.weight", "segresnet": "conv_final.2.conv.weight"}
_OUR_LIBRARIES: Final = ("monai", "torch", "numpy", "safetensors")


def write_bundle(
    folder: Path,
    manifest: Manifest,
    blobs: BlobFolder,
    *,
    plan: RunPlan,
    round_number: int,
    averaged: bool,
) -> None:
    """Write a stored model as a bundle; the folder appears whole or not at all.

    Raises:
        StateError: the folder exists, or cannot be written.
        IntegrityError: a chunk is absent or damaged.
        ModelMismatchError: the model is not of the plan's network.
        OSError: a file cannot be written.
    """
    if folder.exists():
        raise StateError(f"{folder}: exists already; it is never overwritten")
    inputs, outputs = _channels(manifest, plan)
    try:
        staging = new_staging_folder(folder)
        for name in ("configs", "models", "docs"):
            (staging / name).mkdir()
        export_weights(
            staging / WEIGHTS_FILE, manifest, blobs, plan=plan, round_number=round_number, averaged=averaged
        )
        _write_json(staging / "configs/inference.json", inference_config(plan, inputs, outputs))
        about = _metadata(plan, inputs, outputs, round_number=round_number, averaged=averaged)
        _write_json(staging / "configs/metadata.json", about)
        write_new(staging / "docs/README.md", _readme(plan, about).encode(), mode=0o644)
        for name in ("configs", "models", "docs"):
            sync_folder(staging / name)
        staging.chmod(0o755)
        publish_folder(staging, folder)
    except IdentityError as error:  # what the shared functions for folders say of a disk that refuses
        raise StateError(str(error)) from error
    finally:
        shutil.rmtree(folder.with_name(f"{folder.name}.partial"), ignore_errors=True)


def inference_config(plan: RunPlan, inputs: int, outputs: int) -> dict[str, Any]:
    """`configs/inference.json`: the network, its weights, and how a whole image is predicted.

    Args:
        plan: the run's.
        inputs: channels of the image.
        outputs: structures, one logit each.
    """
    return {
        "imports": ["$import collections", "$from safetensors.torch import load_file", "$import torch"],
        "bundle_root": ".",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        **_network(plan, inputs, outputs),
        "weights": f"$load_file(@bundle_root + '/{WEIGHTS_FILE}')",
        "network": "$(@network_def.load_state_dict(@weights), @network_def.to(@device).eval())[1]",
        "inferer": _inferer(plan),
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
                {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
            ],
        },
    }


def _network(plan: RunPlan, inputs: int, outputs: int) -> dict[str, Any]:
    dimensions = len(plan.image_size)
    if plan.network.architecture == "segresnet":
        shape = SEGRESNET_SHAPES[dimensions, plan.network.size]
        return {
            "network_def": {
                "_target_": "SegResNet",
                "spatial_dims": dimensions,
                "init_filters": shape.filters,
                "in_channels": inputs,
                "out_channels": outputs,
                "act": ["RELU", {"inplace": False}],
                "norm": ["GROUP", {"num_groups": shape.groups}],
                "blocks_down": list(shape.blocks_down),
                "blocks_up": list(shape.blocks_up),
            }
        }
    channels = UNET_CHANNELS[dimensions, plan.network.size]
    convolution = f"torch.nn.Conv{dimensions}d({channels[0]}, {outputs}, 1)"
    return {
        "features": {
            "_target_": "UNet",
            "spatial_dims": dimensions,
            "in_channels": inputs,
            "out_channels": channels[0],
            "channels": list(channels),
            "strides": [2] * (len(channels) - 1),
            "num_res_units": UNET_RESIDUAL_UNITS,
            "norm": ["INSTANCE", {"affine": True}],
            "act": ["LEAKYRELU", {"negative_slope": UNET_NEGATIVE_SLOPE}],
        },
        "head": f"$torch.nn.Sequential(torch.nn.LeakyReLU({UNET_NEGATIVE_SLOPE}), {convolution})",
        "network_def": "$torch.nn.Sequential(collections.OrderedDict(features=@features, head=@head))",
    }


def _inferer(plan: RunPlan) -> dict[str, Any]:
    if len(plan.image_size) == 2:
        return {"_target_": "SimpleInferer"}
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(plan.image_size),
        "overlap": WINDOW_OVERLAP,
        "mode": "gaussian",
    }


def _channels(manifest: Manifest, plan: RunPlan) -> tuple[int, int]:
    """Channels of the image and structures, as the first and the last layer have them.

    Raises:
        ModelMismatchError: the model has no such layers.
    """
    shapes = {tensor.name: tensor.shape for tensor in manifest.tensors}
    architecture = plan.network.architecture
    first, last = _FIRST_TENSOR[architecture], _LAST_TENSOR[architecture]
    for name in (first, last):
        if len(shapes.get(name, ())) != 2 + len(plan.image_size):
            raise ModelMismatchError(
                f"the model of run {plan.run} has no tensor {name}; a bundle needs the plan's own "
                f"{architecture}"
            )
    return shapes[first][1], shapes[last][0]


def _metadata(
    plan: RunPlan, inputs: int, outputs: int, *, round_number: int, averaged: bool
) -> dict[str, Any]:
    versions = {name: found for name in _OUR_LIBRARIES if (found := _version(name))}
    common = {"type": "image", "spatial_shape": list(plan.image_size), "dtype": "float32"}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by adpfl {__version__}"},
        "monai_version": versions.get("monai", ""),
        "pytorch_version": versions.get("torch", ""),
        "numpy_version": versions.get("numpy", ""),
        "required_packages_version": {"safetensors": versions.get("safetensors", "")},
        "name": plan.run,
        "task": plan.task,
        "description": f"Global model of the federated run {plan.run}.",
        "authors": "the sites and the operator of the run",
        "copyright": "",
        "intended_use": "Research; not a medical device.",
        "network_data_format": {
            "inputs": {
                "image": {
                    **common,
                    "format": "image",
                    "num_channels": inputs,
                    "value_range": [],
                    "is_patch_data": len(plan.image_size) == 3,
                    "channel_def": {str(index): f"channel {index}" for index in range(inputs)},
                }
            },
            "outputs": {
                "pred": {
                    **common,
                    "format": "segmentation",
                    "num_channels": outputs,
                    "value_range": [0, 1],
                    "is_patch_data": len(plan.image_size) == 3,
                    "channel_def": {
                        str(index): f"structure {index} of {plan.task}" for index in range(outputs)
                    },
                }
            },
        },
        "adpfl": {
            "version": __version__,
            "arm": plan.arm,
            "averaged": averaged,
            "guarantee": guarantee_kind(plan.privacy),
            "plan": plan.model_dump(mode="json"),
            "plan_digest": plan.digest(),
            "round": round_number,
        },
    }


def _readme(plan: RunPlan, about: dict[str, Any]) -> str:
    ours = about["adpfl"]
    model = "average of the models up to" if ours["averaged"] else "model after"
    return f"""# {plan.run}

The {model} round {ours["round"]} of {plan.rounds} of the federated run `{plan.run}`, task `{plan.task}`,
trained by {len(plan.cohort.sites)} sites under the arm `{plan.arm}`.
Privacy of the plan: {ours["guarantee"]}.

## Use
```python
from monai.bundle import ConfigParser

parser = ConfigParser()
parser.read_config("configs/inference.json")
parser["bundle_root"] = "."  # this folder
network, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("inferer")
logits = inferer(image, network)
```
MONAI, torch and safetensors are all it needs. `image` is float32, (batch, channels, *{list(plan.image_size)}*
or, for a volume, any larger extent), preprocessed as the task `{plan.task}` of adpfl does it. The logits have
one channel a structure; structures may overlap, so each is thresholded by itself after a sigmoid.

`configs/metadata.json` holds the run's whole plan under `adpfl`. Research software: not a medical device.
"""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write_json(path: Path, document: dict[str, Any]) -> None:
    write_new(path, (json.dumps(document, indent=2) + "\n").encode(), mode=0o644)
