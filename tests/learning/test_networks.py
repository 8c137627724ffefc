"""Sizes, determinism, layout and the layers that are refused."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from adpfl.errors import ConfigError, ModelMismatchError
from adpfl.learning.networks import (
    build,
    check_weights,
    dimension,
    load_into,
    parameter_layout,
    refuse_unsafe_layers,
    size_divisor,
    weights_of,
)
from adpfl.learning.plan import NetworkPlan

ModelOf = Callable[..., nn.Module]

PARAMETERS = {"tiny": (73_000, 96_000), "small": (390_000, 1_250_000), "full": (1_500_000, 19_500_000)}
CHANNELS = {2: (3, 1), 3: (4, 3)}


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("size", ["tiny", "small", "full"])
@pytest.mark.parametrize("architecture", ["unet", "segresnet"])
def test_size_lies_in_its_class(architecture: str, size: str, spatial_dims: int) -> None:
    in_channels, out_channels = CHANNELS[spatial_dims]
    model = build(
        NetworkPlan.model_validate({"architecture": architecture, "size": size}),
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        seed=0,
    )
    least, most = PARAMETERS[size]
    count = dimension(parameter_layout(model))
    assert count == sum(parameter.numel() for parameter in model.parameters())
    assert least <= count <= most


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("size", ["tiny", "small", "full"])
@pytest.mark.parametrize("architecture", ["unet", "segresnet"])
def test_one_launch_on_a_gpu_holds_every_tensor(architecture: str, size: str, spatial_dims: int) -> None:
    header = Path(__file__).resolve().parents[2] / "csrc" / "dp_release.h"
    most = re.search(r"kTensorsPerLaunch = (\d+);", header.read_text())
    assert most is not None
    plan = NetworkPlan.model_validate({"architecture": architecture, "size": size})
    model = build(plan, spatial_dims=spatial_dims, in_channels=4, out_channels=3, seed=0)
    assert len(parameter_layout(model)) <= int(most[1])


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("architecture", ["unet", "segresnet"])
def test_smallest_allowed_image_passes_and_keeps_its_size(
    model_of: ModelOf, architecture: str, spatial_dims: int
) -> None:
    plan = NetworkPlan.model_validate({"architecture": architecture})
    extent = 2 * size_divisor(plan, spatial_dims=spatial_dims)
    size = (extent, *[2 * extent] * (spatial_dims - 1))
    logits = model_of(architecture, spatial_dims, structures=2)(torch.zeros(1, 1, *size))
    assert logits.shape == (1, 2, *size)


def test_weights_follow_the_seed_alone(model_of: ModelOf) -> None:
    torch.manual_seed(1)
    first = weights_of(model_of("unet", 2))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = weights_of(model_of("unet", 2))
    assert torch.equal(torch.get_rng_state(), state), "building must not touch the global generator"
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build(NetworkPlan(), spatial_dims=2, in_channels=1, out_channels=1, seed=4)
    assert any(not torch.equal(first[name], tensor) for name, tensor in weights_of(other).items())


def test_records_of_a_batch_do_not_meet(model_of: ModelOf) -> None:
    for architecture in ("unet", "segresnet"):
        model = model_of(architecture, 2).double()
        images = torch.randn(3, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        alone = model(images[:1])
        assert torch.allclose(model(images)[:1], alone, rtol=1e-12, atol=1e-12)


def test_layout_is_the_order_of_the_parameters(model_of: ModelOf) -> None:
    model = model_of("segresnet", 2)
    layout = parameter_layout(model)
    assert [tensor.name for tensor in layout] == [name for name, _ in model.named_parameters()]
    assert list(weights_of(model)) == [tensor.name for tensor in layout]


def test_load_into_restores_weights(model_of: ModelOf) -> None:
    model = model_of("unet", 2)
    wanted = {name: tensor + 1 for name, tensor in weights_of(model).items()}
    load_into(model, wanted)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in weights_of(model).items())


def test_mismatched_weights_are_named_and_change_nothing(model_of: ModelOf) -> None:
    model = model_of("unet", 2)
    before = weights_of(model)
    first, second = list(before)[:2]
    shape = tuple(before[second].shape)
    cases = [
        ({**before, second: torch.zeros(7)}, rf"{second} has shape \(7,\); must be \({shape[0]}"),
        ({name: tensor for name, tensor in before.items() if name != first}, f"{first} is missing"),
        ({**before, "extra.weight": torch.zeros(1)}, "extra.weight is not a tensor"),
        ({**before, first: before[first].double()}, f"{first} has type torch.float64"),
        ({**before, second: torch.full(shape, torch.nan)}, f"{second} holds NaN"),
    ]
    for weights, message in cases:
        with pytest.raises(ModelMismatchError, match=message):
            load_into(model, weights)
        with pytest.raises(ModelMismatchError, match=r"^round 4: "):
            check_weights(weights, parameter_layout(model), source="round 4")
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(model).items())


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(2), nn.SyncBatchNorm(2), nn.BatchNorm2d(2, track_running_stats=False)]
)
def test_batch_norm_is_refused_with_the_reason(layer: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"layer 1 is \w*BatchNorm\w*, which mixes the units of a batch"):
        refuse_unsafe_layers(nn.Sequential(nn.Conv2d(1, 2, 3), layer))


def test_buffers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"buffer 0\.running_mean"):
        refuse_unsafe_layers(nn.Sequential(nn.InstanceNorm2d(2, track_running_stats=True)))


def test_shared_tensors_are_refused() -> None:
    layer = nn.Conv2d(1, 1, 3)
    with pytest.raises(ConfigError, match=r"tensor 1\.weight is the same as 0\.weight"):
        refuse_unsafe_layers(nn.Sequential(layer, layer))


def test_other_dimensions_are_refused() -> None:
    with pytest.raises(ConfigError, match="spatial_dims is 1"):
        build(NetworkPlan(), spatial_dims=1, in_channels=1, out_channels=1, seed=0)
