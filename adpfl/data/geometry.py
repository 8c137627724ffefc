"""Whether the volumes of one case lie over one another: same size, same place, same orientation.

And whether the cases of a data set are stored alike.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adpfl.data.volumes import Header, by, read_header, shown
from adpfl.errors import DataError

TOLERANCE = 0.1
"""Of the least voxel side: how far apart the same corner of two volumes may lie."""


def check_geometry(paths: Sequence[Path], *, dimensions: int = 3) -> list[str]:
    """What is wrong with the headers of volumes that must lie over one another, empty where nothing is.

    Args:
        paths: the first is what the others are held against; a four-dimensional file counts by its first
            three.
        dimensions: that the first volume must have; the others have 3.
    """
    problems: list[str] = []
    first: tuple[Path, Header] | None = None
    for place, path in enumerate(paths):
        try:
            header = read_header(path)
        except DataError as error:
            problems.append(str(error))
            continue
        wanted = dimensions if place == 0 else 3
        if len(header.shape) != wanted:
            problems.append(f"{shown(path)} has {len(header.shape)} dimensions; must have {wanted}")
        elif first is None:
            first = path, header
        else:
            problems += _differences(*first, path, header)
    return problems


def check_orientations(orientations: Mapping[Path, str], *, usual: str, masks: bool) -> list[str]:
    """A problem for each image that is stored in another orientation than most, in the order given.

    An affine that is wrong in an image and its mask alike cannot be told from the two; that most cases of the
    data set are stored otherwise gives it away.

    Args:
        orientations: by image; one data set's.
        usual: which goes first where as many images have one as another.
        masks: whether the images have masks, stored as they are.
    """
    counts = Counter(orientations.values())
    common = max(counts, key=lambda codes: (counts[codes], codes == usual, codes), default=usual)
    who = " and its mask are" if masks else " is"
    return [
        f"{shown(path)}{who} oriented {codes}; must be {common}, as most cases are"
        for path, codes in orientations.items()
        if codes != common
    ]


def _differences(one: Path, first: Header, other: Path, second: Header) -> list[str]:
    shape = first.shape[:3]
    if second.shape != shape:
        return [f"{shown(other)} is {by(second.shape)}; must be {by(shape)}, as {one.name} is"]
    if second.orientation != first.orientation:
        return [
            f"{shown(other)} is oriented {second.orientation}; must be {first.orientation}, as {one.name} is"
        ]
    least = float(np.linalg.norm(first.affine[:3, :3], axis=0).min())
    apart = float(
        np.linalg.norm(_corners(first.affine, shape) - _corners(second.affine, shape), axis=1).max()
    )
    if apart > TOLERANCE * least:
        return [f"{shown(other)} lies up to {apart:.3g} mm away from {one.name}; their affines must agree"]
    return []


def _corners(affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """Where the eight corner voxels lie, (8, 3) in mm."""
    corners = np.array([(*corner, 1) for corner in product(*((0, length - 1) for length in shape))])
    places: NDArray[np.float64] = (corners @ affine.T)[:, :3]
    return places
