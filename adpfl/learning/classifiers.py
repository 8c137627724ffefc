"""Networks that answer with one logit a structure: the encoders of the segmentation networks, pooled.

MONAI's own classifiers end in a linear layer over every pixel of one fixed size, with more weights than all
the rest; pooling needs none and takes any size.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from monai.networks.blocks import ResidualUnit
from monai.networks.nets import SegResNet
from torch import Tensor, nn

_NEGATIVE_SLOPE: Final = 0.1
_GROUPS: Final = 4
"""Of each normalisation. Normalised channel by channel, an image could not say that a channel is bright
anywhere at all."""


class ResidualEncoder(nn.Module):
    """MONAI's residual units, each halving the image but the first; the way down of its UNet."""

    def __init__(self, *, spatial_dims: int, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = channels[-1]
        widths = (in_channels, *channels)
        self.units = nn.Sequential(
            *(
                ResidualUnit(
                    spatial_dims,
                    before,
                    after,
                    strides=1 if place == 0 else 2,
                    act=("LEAKYRELU", {"negative_slope": _NEGATIVE_SLOPE}),
                    norm=("GROUP", {"num_groups": _GROUPS}),
                )
                for place, (before, after) in enumerate(pairwise(widths))
            )
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, in_channels, *size) to features (B, out_channels, *smaller)."""
        features: Tensor = self.units(image)
        return features


class SegResNetEncoder(nn.Module):
    """The way down of MONAI's SegResNet; the weights of the way up are left out."""

    def __init__(self, whole: SegResNet) -> None:
        super().__init__()
        self.out_channels = whole.init_filters * 2 ** (len(whole.blocks_down) - 1)
        self.first = whole.convInit
        self.down = whole.down_layers

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, in_channels, *size) to features (B, out_channels, *smaller)."""
        features: Tensor = self.first(image)
        for layer in self.down:
            features = layer(features)
        return features


class PresenceNetwork(nn.Module):
    """An encoder, its features' mean and maximum over the image, and a logit for each structure."""

    def __init__(
        self, encoder: ResidualEncoder | SegResNetEncoder, *, spatial_dims: int, out_channels: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        # The encoders' shortcuts are not normalised; pooled as they are, their size would set the step's.
        self.normalise = nn.Sequential(nn.GroupNorm(1, encoder.out_channels), nn.LeakyReLU(_NEGATIVE_SLOPE))
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        # A convolution over a single pixel: a linear layer that per-unit gradients already know.
        self.head = convolution(2 * encoder.out_channels, out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, in_channels, *size) to logits (B, out_channels)."""
        features: Tensor = self.normalise(self.encoder(image))
        pixels = tuple(range(2, features.ndim))
        pooled = (features.mean(dim=pixels, keepdim=True), features.amax(dim=pixels, keepdim=True))
        logits: Tensor = self.head(torch.cat(pooled, dim=1))
        return logits.flatten(1)
