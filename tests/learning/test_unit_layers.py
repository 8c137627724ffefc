"""Each rule against an ordinary backward pass for each unit, and what has no rule."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from adpfl.learning.unit_layers import UnitWeights, UnsupportedLayerError, channels_last

UNITS = 2
ROUNDING = 1e-12
"""In double precision, over sums of at most 10^4 terms near 1."""

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "stride": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "no bias": lambda: nn.Conv2d(4, 6, (3, 1), bias=False),
    "dilation": lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2),
    "groups": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "one channel": lambda: nn.Sequential(nn.Conv2d(4, 1, 1), nn.Conv2d(1, 6, 3), nn.GroupNorm(3, 6)),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed groups": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "plain norm": lambda: nn.Sequential(nn.InstanceNorm2d(4), nn.Conv2d(4, 2, 1)),
    "used twice": lambda: nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1)] * 2),
    "3D": lambda: nn.Conv3d(4, 6, 3, padding=1),
    "3D stride": lambda: nn.Conv3d(4, 6, 3, stride=(2, 1, 2), padding=(1, 0, 2)),
    "3D stride over the edge": lambda: nn.Conv3d(4, 6, (2, 3, 3), stride=4, padding=2),
    "3D dilation": lambda: nn.Conv3d(4, 6, (3, 1, 3), padding=3, dilation=(3, 1, 2)),
    "3D kernel plane in the padding": lambda: nn.Conv3d(4, 6, 3, padding=(20, 1, 1), dilation=(20, 1, 1)),
    "3D groups": lambda: nn.Conv3d(4, 6, 3, groups=2),
    "3D transposed": lambda: nn.ConvTranspose3d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "3D instance norm": lambda: nn.InstanceNorm3d(4, affine=True),
}


def unit_gradients(layer: nn.Module, images: Tensor, units: int) -> tuple[list[Tensor], Tensor]:
    """By one pass: the gradients of the sum of squares, and the output."""
    weights = [weight for weight in layer.parameters() if weight.requires_grad]
    with UnitWeights(weights, units) as unit_weights:
        output = layer(channels_last(images))
    return list(torch.autograd.grad((output**2).sum(), unit_weights.copies)), output


@pytest.mark.parametrize("records", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_every_rule_equals_a_backward_pass_a_unit(name: str, records: int) -> None:
    torch.manual_seed(1)
    layer = LAYERS[name]().double()
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randn_like(weight))
    size = (9, 8, 7) if "3D" in name else (9, 8)
    images = torch.randn(UNITS * records, 4, *size, dtype=torch.float64)
    gradients, output = unit_gradients(layer, images, UNITS)
    torch.testing.assert_close(output, layer(images), rtol=ROUNDING, atol=ROUNDING)
    for unit, own in enumerate(images.split(records)):
        wanted = torch.autograd.grad((layer(own) ** 2).sum(), list(layer.parameters()))
        for found, expected in zip(gradients, wanted, strict=True):
            error = float((found[unit] - expected).norm())
            assert error <= ROUNDING * max(1.0, float(expected.norm()))
            assert found.is_contiguous(), "the release reads rows as they lie"


def test_frozen_weights_have_no_gradient_and_take_part() -> None:
    layer = nn.Sequential(nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 2, 1)).double()
    layer[0].requires_grad_(requires_grad=False)
    layer[1].bias.requires_grad_(requires_grad=False)
    images = torch.randn(UNITS, 4, 8, 8, dtype=torch.float64)
    gradients, _ = unit_gradients(layer, images, UNITS)
    trainable = [weight for weight in layer.parameters() if weight.requires_grad]
    assert [len(gradient) for gradient in gradients] == [UNITS] * 3
    for unit in range(UNITS):
        wanted = torch.autograd.grad((layer(images[unit : unit + 1]) ** 2).sum(), trainable)
        for found, expected in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(found[unit], expected, rtol=ROUNDING, atol=ROUNDING)


def test_input_and_weights_are_left_as_they_are() -> None:
    layer = nn.Conv2d(4, 6, 3)
    images = torch.randn(UNITS, 4, 8, 8)
    before = images.clone(), layer.weight.detach().clone()
    unit_gradients(layer, images, UNITS)
    assert torch.equal(images, before[0])
    assert torch.equal(layer.weight, before[1])
    assert layer.weight.grad is None


class _Reads(nn.Module):
    """A layer that hands its weight to a function of the test's choice."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4, 1, 1))
        self._function = function

    def forward(self, images: Tensor) -> Tensor:
        return self._function(images, self.weight)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda images, weight: images * weight.sum(), "sum"),
        (lambda images, weight: images + torch.cat([weight, weight])[:1, :, :1, :1], "cat"),
        (lambda images, weight: functional.conv2d(images, weight=weight.reshape(4, 4, 1, 1)), "reshape"),
        (lambda images, weight: functional.conv2d(images, weight, padding="same"), "same"),
        (
            lambda images, weight: functional.instance_norm(
                images, torch.zeros(4), torch.ones(4), weight[:, 0, 0, 0], use_input_stats=False
            ),
            "getitem",
        ),
    ],
)
def test_what_has_no_rule_is_refused(function: Callable[[Tensor, Tensor], Tensor], named: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=named):
        unit_gradients(_Reads(function), torch.randn(UNITS, 4, 8, 8), UNITS)


def test_running_statistics_have_no_rule() -> None:
    layer = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    with pytest.raises(UnsupportedLayerError, match="running statistics"):
        unit_gradients(layer, torch.randn(UNITS, 4, 8, 8), UNITS)


def test_reading_an_attribute_of_a_weight_is_no_use_of_it() -> None:
    layer = _Reads(lambda images, weight: functional.conv2d(images.to(weight.dtype), weight))
    gradients, _ = unit_gradients(layer, torch.randn(UNITS, 4, 8, 8), UNITS)
    assert float(gradients[0].norm()) > 0


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 4, 5, 6), (2, 1, 4, 5, 6)])
def test_channels_lie_last(shape: tuple[int, ...]) -> None:
    images = torch.randn(shape)
    found = channels_last(images)
    assert torch.equal(found, images)
    assert found.movedim(1, -1).is_contiguous()
    assert found.stride(1) == 1
