"""JPEG and PNG files as arrays, with one clear `DataError` for whatever is wrong with a file.

Only the JPEG and PNG decoders are offered a file, whatever its name says.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from adpfl.data.case import Case
from adpfl.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
"""Of image files, lower case."""

_MASK_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
_CHECK_THREADS = 4


def read_rgb(path: Path, at_least: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """An image as uint8 (height, width, 3).

    Args:
        path: a JPEG or PNG file.
        at_least: (height, width); a JPEG larger than this may be decoded at a half, a quarter or an eighth of
            its size, never below `at_least`, which is many times faster. None decodes every pixel.

    Raises:
        DataError: the file cannot be read as JPEG or PNG.
    """
    with _opened(path) as image:
        if at_least is not None:
            height, width = at_least
            image.draft("RGB", (width, height))
        return np.asarray(image.convert("RGB"))


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A mask as uint8 (height, width) in {0, 1}.

    Raises:
        DataError: the file cannot be read as JPEG or PNG, or holds other values than {0, 255} or {0, 1}.
    """
    with _opened(path) as image:
        if image.mode not in _MASK_MODES:
            raise DataError(f"{path.name} has pixels of kind {image.mode}; a mask must have 8 bits or 1")
        levels = np.asarray(image.convert("L"))
    present = np.flatnonzero(np.bincount(levels.ravel(), minlength=256)).tolist()
    if not (set(present) <= {0, 255} or set(present) <= {0, 1}):
        shown = ", ".join(map(str, present[:6])) + (", ..." if len(present) > 6 else "")
        raise DataError(f"{path.name} holds the values {shown}; a mask must hold only 0 and 255, or 0 and 1")
    return (levels > 0).astype(np.uint8)


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) from the file's header.

    Raises:
        DataError: the file cannot be read as JPEG or PNG.
    """
    with _opened(path) as image:
        return image.height, image.width


def write_mask(mask: NDArray[np.uint8], path: Path) -> None:
    """Write a (height, width) mask in {0, 1} as a PNG of 0 and 255."""
    Image.fromarray(mask * np.uint8(255)).save(path, format="PNG")


def check_files(cases: Sequence[Case]) -> list[str]:
    """Decode every image and mask of these cases and say what is wrong, in the order of the cases.

    Found are files that cannot be decoded, masks of another size than their image, and masks with other
    values than {0, 255} or {0, 1}.
    """
    with ThreadPoolExecutor(max_workers=_CHECK_THREADS) as pool:
        return [problem for found in pool.map(check_photograph, cases) for problem in found]


def check_photograph(case: Case) -> list[str]:
    """Decode the image and mask of one case and say what is wrong; see `check_files`."""
    problems: list[str] = []
    image_size: tuple[int, int] | None = None
    try:
        image_size = read_size(case.image)
        read_rgb(case.image, at_least=(1, 1))
    except DataError as error:
        problems.append(str(error))
    if case.mask is None:
        return problems
    try:
        mask = read_mask(case.mask)
    except DataError as error:
        return [*problems, str(error)]
    if image_size is not None and mask.shape != image_size:
        problems.append(
            f"the mask of {case.case} is {_by(mask.shape)}; must be {_by(image_size)}, as its image is"
        )
    return problems


def _by(size: Sequence[int]) -> str:
    height, width = size
    return f"{width}x{height}"


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            yield image
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path.name} is neither a JPEG nor a PNG image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path.name} cannot be decoded: {error}") from error
