"""Pictures of a slice with several structures: the reference on the left, the prediction on the right."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

STRUCTURE_COLORS: Final = ((86, 180, 233), (240, 228, 66), (255, 106, 40), (204, 121, 240))
"""RGB by a structure's place: sky blue, yellow, orange, violet. Told apart on grey by every common kind of
colour vision (after Okabe and Ito)."""
PANEL_PIXELS: Final = 288
"""Longest side of one panel."""
_LINE_PIXELS: Final = 20
_MARGIN_PIXELS: Final = 4
_SWATCH_PIXELS: Final = 14
_GAP_PIXELS: Final = 18
_BLACK: Final = 0.02
_INK: Final = (235, 235, 235)


def write_panels(
    images: Mapping[str, NDArray[np.float32]],
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    path: Path,
    *,
    structures: Sequence[str],
    pixel_mm: tuple[float, float],
) -> None:
    """Write a PNG: a row of two panels for each image, contours in each structure's own colour, and a legend.

    Panels show the part of the slice that is not black, and all of both masks.

    Args:
        images: by the name that its row carries; (rows, columns) in [0, 1], all of one shape.
        reference: (structures, rows, columns), non-zero inside; structures may be empty.
        prediction: as `reference`.
        path: the PNG to write.
        structures: names for the legend, at most as many as there are colours.
        pixel_mm: size of a pixel along rows and columns; panels keep the shape of the body.

    Raises:
        ValueError: the shapes disagree, or there are more structures than colours.
    """
    Image.fromarray(
        draw_panels(images, reference, prediction, structures=structures, pixel_mm=pixel_mm)
    ).save(path, format="PNG", optimize=True)


def draw_panels(
    images: Mapping[str, NDArray[np.float32]],
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    *,
    structures: Sequence[str],
    pixel_mm: tuple[float, float],
) -> NDArray[np.uint8]:
    """The picture that `write_panels` writes, as uint8 (height, width, 3)."""
    if len(structures) > len(STRUCTURE_COLORS):
        raise ValueError(
            f"there are {len(structures)} structures; at most {len(STRUCTURE_COLORS)} have colours"
        )
    for image in images.values():
        for name, masks in (("reference", reference), ("prediction", prediction)):
            if masks.shape != (len(structures), *image.shape):
                raise ValueError(f"{name} is {masks.shape}; must be {(len(structures), *image.shape)}")
    window = _visible(images, reference, prediction)
    images = {name: image[window] for name, image in images.items()}
    reference, prediction = reference[:, *window], prediction[:, *window]
    rows, columns = (extent * size for extent, size in zip(reference.shape[1:], pixel_mm, strict=True))
    scale = PANEL_PIXELS / max(rows, columns)
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    legend = _legend(structures, width=2 * width)
    picture = Image.new(
        "RGB", (2 * width, len(images) * (height + _LINE_PIXELS) + len(legend) * _LINE_PIXELS)
    )
    ink = ImageDraw.Draw(picture)
    for row, (name, image) in enumerate(images.items()):
        top = row * (height + _LINE_PIXELS)
        for column, (what, masks) in enumerate((("reference", reference), ("prediction", prediction))):
            left = column * width
            ink.text((left + 4, top + 4), f"{name}, {what}", fill=_INK)
            picture.paste(Image.fromarray(_panel(image, masks, (width, height))), (left, top + _LINE_PIXELS))
    for line, entries in enumerate(legend):
        top = picture.height - (len(legend) - line) * _LINE_PIXELS
        for left, name, color in entries:
            ink.rectangle((left, top + 6, left + 8, top + 14), fill=color)
            ink.text((left + _SWATCH_PIXELS, top + 4), name, fill=_INK)
    return np.array(picture)


def _visible(images: Mapping[str, NDArray[np.float32]], *masks: NDArray[np.uint8]) -> tuple[slice, slice]:
    shown = np.any([image > _BLACK for image in images.values()], axis=0)
    shown |= np.any([one != 0 for mask in masks for one in mask], axis=0)
    if not shown.any():
        return slice(None), slice(None)
    ((rows, columns),) = ndimage.find_objects(shown.astype(np.uint8))
    return rows, columns


def _panel(image: NDArray[np.float32], masks: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    grey = Image.fromarray((np.clip(image, 0.0, 1.0) * 255).astype(np.uint8))
    panel = np.array(grey.resize(size, Image.Resampling.BICUBIC).convert("RGB"))
    for mask, color in zip(masks, STRUCTURE_COLORS, strict=False):
        levels = Image.fromarray((mask != 0).astype(np.uint8) * np.uint8(255))
        inside = np.asarray(levels.resize(size, Image.Resampling.BILINEAR)) >= 128
        panel[inside & ~ndimage.binary_erosion(inside)] = color
    return panel


def _legend(structures: Sequence[str], *, width: int) -> list[list[tuple[int, str, tuple[int, int, int]]]]:
    """Lines of (left edge, name, colour); a line breaks before the name that would be cut."""
    font = ImageFont.load_default()
    lines: list[list[tuple[int, str, tuple[int, int, int]]]] = [[]]
    left = _MARGIN_PIXELS
    for structure, color in zip(structures, STRUCTURE_COLORS, strict=False):
        name = structure.replace("_", " ")
        needed = _SWATCH_PIXELS + math.ceil(font.getlength(name))
        if lines[-1] and left + needed > width:
            lines.append([])
            left = _MARGIN_PIXELS
        lines[-1].append((left, name, color))
        left += needed + _GAP_PIXELS
    return lines
