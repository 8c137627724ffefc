"""Pictures of a segmentation: the image, the contour of the reference and the contour of the prediction."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

REFERENCE_COLOR = (0, 230, 120)
"""RGB of the reference contour: green."""
PREDICTION_COLOR = (255, 40, 200)
"""RGB of the prediction contour: magenta, told from green by every common kind of colour vision."""
LONGEST_SIDE = 384
"""Larger images are reduced to this many pixels, which is what a report shows."""
CONTOUR_PIXELS = 2
"""Thickness of a contour; one pixel is lost where a report shows the picture small."""


def write_overlay(
    image: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    path: Path,
    *,
    longest_side: int = LONGEST_SIDE,
) -> None:
    """Write a PNG with both contours drawn into the image; where they coincide the prediction is on top.

    Args:
        image: uint8 (height, width, 3).
        reference: (height, width), non-zero inside; may be empty.
        prediction: (height, width), non-zero inside; may be empty.
        path: the PNG to write.
        longest_side: of the picture, in pixels; smaller images keep their size.

    Raises:
        ValueError: the shapes disagree.
    """
    picture = draw_contours(image, reference, prediction, longest_side=longest_side)
    Image.fromarray(picture).save(path, format="PNG", optimize=True)


def draw_contours(
    image: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    *,
    longest_side: int = LONGEST_SIDE,
) -> NDArray[np.uint8]:
    """The picture that `write_overlay` writes, as uint8 (height, width, 3)."""
    for name, mask in (("reference", reference), ("prediction", prediction)):
        if mask.shape != image.shape[:2]:
            raise ValueError(f"{name} is {mask.shape} and the image {image.shape[:2]}; shapes must be equal")
    height, width = image.shape[:2]
    scale = min(1.0, longest_side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    for mask, color in ((reference, REFERENCE_COLOR), (prediction, PREDICTION_COLOR)):
        picture[_contour(_resized(mask, size))] = color
    return picture


def _resized(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.bool_]:
    levels = Image.fromarray((mask != 0).astype(np.uint8) * np.uint8(255))
    return np.asarray(levels.resize(size, Image.Resampling.BILINEAR)) >= 128


def _contour(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask's own outermost pixels; an edge of the frame counts as an edge of the mask."""
    edge: NDArray[np.bool_] = mask & ~ndimage.binary_erosion(mask, iterations=CONTOUR_PIXELS)
    return edge
