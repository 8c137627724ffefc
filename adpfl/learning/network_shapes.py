"""Widths and depths of the networks in each size. Importable without torch: an export describes them too."""

from dataclasses import dataclass
from typing import Final, Literal

Size = Literal["tiny", "small", "full"]


@dataclass(frozen=True)
class SegResNetShape:
    """MONAI's SegResNet in one size."""

    filters: int
    groups: int
    blocks_down: tuple[int, ...]

    @property
    def blocks_up(self) -> tuple[int, ...]:
        """One block a level on the way up."""
        return (1,) * (len(self.blocks_down) - 1)


UNET_CHANNELS: Final[dict[tuple[int, Size], tuple[int, ...]]] = {
    (2, "tiny"): (8, 16, 32, 56),
    (2, "small"): (16, 32, 64, 128),
    (2, "full"): (16, 32, 64, 128, 256),
    (3, "tiny"): (8, 16, 32),
    (3, "small"): (16, 32, 64, 128),
    (3, "full"): (32, 64, 128, 256, 512),
}
"""By spatial dimensions and size."""
UNET_RESIDUAL_UNITS: Final = 2
UNET_NEGATIVE_SLOPE: Final = 0.1
SEGRESNET_SHAPES: Final[dict[tuple[int, Size], SegResNetShape]] = {
    (2, "tiny"): SegResNetShape(6, 2, (1, 1, 1, 1)),
    (2, "small"): SegResNetShape(8, 4, (1, 2, 2, 4)),
    (2, "full"): SegResNetShape(16, 8, (1, 2, 2, 4)),
    (3, "tiny"): SegResNetShape(6, 2, (1, 1, 2)),
    (3, "small"): SegResNetShape(8, 4, (1, 2, 2, 4)),
    (3, "full"): SegResNetShape(32, 8, (1, 2, 2, 4)),
}
"""By spatial dimensions and size."""
