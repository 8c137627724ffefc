"""The networks, in three sizes, built from MONAI and safe for per-unit gradients.

Every weight is an ordinary parameter and every layer treats the records of a batch independently, so that the
gradient of one unit's loss is a function of that unit alone: without that, no clipping bounds what a patient
contributes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from monai.networks.nets import SegResNet, UNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adpfl.errors import ConfigError, ModelMismatchError
from adpfl.learning.classifiers import PresenceNetwork, ResidualEncoder, SegResNetEncoder
from adpfl.learning.plan import NetworkPlan
from adpfl.learning.trainable import trainable_names

Size = Literal["tiny", "small", "full"]


@dataclass(frozen=True)
class TensorLayout:
    """Name and shape of one tensor."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class _SegResNetShape:
    filters: int
    groups: int
    blocks_down: tuple[int, ...]

    @property
    def blocks_up(self) -> tuple[int, ...]:
        return (1,) * (len(self.blocks_down) - 1)


_UNET_CHANNELS: Final[dict[tuple[int, Size], tuple[int, ...]]] = {
    (2, "tiny"): (8, 16, 32, 56),
    (2, "small"): (16, 32, 64, 128),
    (2, "full"): (16, 32, 64, 128, 256),
    (3, "tiny"): (8, 16, 32),
    (3, "small"): (16, 32, 64, 128),
    (3, "full"): (32, 64, 128, 256, 512),
}
_SEGRESNET_SHAPES: Final[dict[tuple[int, Size], _SegResNetShape]] = {
    (2, "tiny"): _SegResNetShape(6, 2, (1, 1, 1, 1)),
    (2, "small"): _SegResNetShape(8, 4, (1, 2, 2, 4)),
    (2, "full"): _SegResNetShape(16, 8, (1, 2, 2, 4)),
    (3, "tiny"): _SegResNetShape(6, 2, (1, 1, 2)),
    (3, "small"): _SegResNetShape(8, 4, (1, 2, 2, 4)),
    (3, "full"): _SegResNetShape(32, 8, (1, 2, 2, 4)),
}
_NEGATIVE_SLOPE = 0.1


class UNetWithHead(nn.Module):
    """MONAI's residual UNet as a feature extractor, with a 1x1 convolution to the structures.

    Left to produce the logits itself, the UNet ends in a normalisation of the structure's own channel, which
    takes from each image the freedom to say how large its structure is.
    """

    def __init__(
        self, *, spatial_dims: int, in_channels: int, out_channels: int, channels: Sequence[int]
    ) -> None:
        super().__init__()
        activation = ("LEAKYRELU", {"negative_slope": _NEGATIVE_SLOPE})
        self.features = UNet(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=channels[0],
            channels=channels,
            strides=(2,) * (len(channels) - 1),
            num_res_units=2,
            norm=("INSTANCE", {"affine": True}),
            act=activation,
        )
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.head = nn.Sequential(nn.LeakyReLU(_NEGATIVE_SLOPE), convolution(channels[0], out_channels, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, in_channels, *size) to logits (B, out_channels, *size)."""
        logits: Tensor = self.head(self.features(image))
        return logits


Kind = Literal["segmentation", "classification"]
"""Whether a network answers for each pixel, or for each image (`adpfl.learning.classifiers`)."""


def build(
    plan: NetworkPlan,
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    seed: int,
    kind: Kind = "segmentation",
) -> nn.Module:
    """Build a network; the same arguments give the same float32 weights, and no global generator is touched.

    Tensors that the plan does not train are frozen: they require no gradient.

    Args:
        plan: architecture, size and what is trainable.
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: structures, one logit each.
        seed: of the initial weights.
        kind: of the answer.

    Raises:
        ConfigError: `spatial_dims` is neither 2 nor 3, or what is to be trainable fits no tensor.
    """
    if spatial_dims not in {2, 3}:
        raise ConfigError(f"spatial_dims is {spatial_dims}; must be 2 or 3")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "segmentation":
            model = _segmenter(plan, spatial_dims, in_channels, out_channels)
        else:
            model = _classifier(plan, spatial_dims, in_channels, out_channels)
    refuse_unsafe_layers(model)
    trained = frozenset(trainable_names(plan, [name for name, _ in model.named_parameters()]))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return model


def _segmenter(plan: NetworkPlan, spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    if plan.architecture == "unet":
        return UNetWithHead(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=_UNET_CHANNELS[spatial_dims, plan.size],
        )
    network: nn.Module = _segresnet(plan, spatial_dims, in_channels, out_channels)
    return network


def _classifier(plan: NetworkPlan, spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    encoder: ResidualEncoder | SegResNetEncoder
    if plan.architecture == "unet":
        encoder = ResidualEncoder(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            channels=_UNET_CHANNELS[spatial_dims, plan.size],
        )
    else:
        encoder = SegResNetEncoder(_segresnet(plan, spatial_dims, in_channels, out_channels))
    return PresenceNetwork(encoder, spatial_dims=spatial_dims, out_channels=out_channels)


def _segresnet(plan: NetworkPlan, spatial_dims: int, in_channels: int, out_channels: int) -> SegResNet:
    shape = _SEGRESNET_SHAPES[spatial_dims, plan.size]
    return SegResNet(
        spatial_dims=spatial_dims,
        init_filters=shape.filters,
        in_channels=in_channels,
        out_channels=out_channels,
        act=("RELU", {"inplace": False}),
        norm=("GROUP", {"num_groups": shape.groups}),
        blocks_down=shape.blocks_down,
        blocks_up=shape.blocks_up,
    )


def size_divisor(plan: NetworkPlan, *, spatial_dims: int) -> int:
    """What every entry of the image size must be a multiple of, at least twice: each level halves it.

    The deepest level needs at least two pixels an axis to have a variance to normalise by.
    """
    if plan.architecture == "unet":
        levels = len(_UNET_CHANNELS[spatial_dims, plan.size])
    else:
        levels = len(_SEGRESNET_SHAPES[spatial_dims, plan.size].blocks_down)
    return 1 << (levels - 1)


def weight_layout(model: nn.Module) -> tuple[TensorLayout, ...]:
    """Every tensor in registration order, trainable or frozen: what a weights file holds."""
    return tuple(TensorLayout(name, tuple(parameter.shape)) for name, parameter in model.named_parameters())


def parameter_layout(model: nn.Module) -> tuple[TensorLayout, ...]:
    """The trainable tensors in registration order: the order of the gradient's coordinates everywhere."""
    return tuple(
        TensorLayout(name, tuple(parameter.shape))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    )


def dimension(layout: Sequence[TensorLayout]) -> int:
    """Number of coordinates of the whole gradient: the D of the release."""
    return sum(tensor.size for tensor in layout)


def check_weights(
    weights: Mapping[str, Tensor], layout: Sequence[TensorLayout], *, source: str = "model"
) -> None:
    """Refuse weights that are not those of the layout.

    Args:
        weights: by tensor name.
        layout: what they must be.
        source: names the weights in the message.

    Raises:
        ModelMismatchError: a tensor is absent, unknown, of another shape, not float32 or not finite; names
            the first.
    """
    expected = {tensor.name: tensor.shape for tensor in layout}
    for name, shape in expected.items():
        if name not in weights:
            raise ModelMismatchError(
                f"{source}: tensor {name} is missing; the plan's network has it, shape {shape}"
            )
        tensor = weights[name]
        if tuple(tensor.shape) != shape:
            raise ModelMismatchError(
                f"{source}: tensor {name} has shape {tuple(tensor.shape)}; must be {shape}"
            )
        if tensor.dtype != torch.float32:
            raise ModelMismatchError(
                f"{source}: tensor {name} has type {tensor.dtype}; must be torch.float32"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ModelMismatchError(
                f"{source}: tensor {name} holds NaN or infinity; every weight must be finite"
            )
    unknown = sorted(weights.keys() - expected.keys())
    if unknown:
        raise ModelMismatchError(f"{source}: tensor {unknown[0]} is not a tensor of the plan's network")


def load_into(model: nn.Module, weights: Mapping[str, Tensor], *, source: str = "model") -> None:
    """Copy weights into the model.

    Raises:
        ModelMismatchError: as `check_weights`; the model is then unchanged.
    """
    check_weights(weights, weight_layout(model), source=source)
    with torch.no_grad():
        for name, tensor in weights.items():
            model.get_parameter(name).copy_(tensor)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of every tensor, trainable or frozen, by name, in layout order."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def refuse_unsafe_layers(model: nn.Module) -> None:
    """Refuse a network whose per-unit gradients are not functions of one unit alone, or not the whole model.

    Raises:
        ConfigError: a BatchNorm layer, a buffer or a tensor registered twice; says where and why.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise ConfigError(
                f"network layer {name or 'model'} is {type(module).__name__}, which mixes the units of a "
                "batch, so that no clip bounds one patient's contribution; use GroupNorm or InstanceNorm"
            )
    for name, _ in model.named_buffers():
        raise ConfigError(
            f"network buffer {name} holds state learned outside the gradient, which would leave the site "
            "without noise; use layers without buffers (track_running_stats=False)"
        )
    seen: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = seen.setdefault(id(parameter), name)
        if first != name:
            raise ConfigError(
                f"network tensor {name} is the same as {first}; each tensor may be registered once"
            )
