"""Overlap and boundary distance of one segmented structure.

Empty masks: both empty is a perfect answer, Dice and surface Dice 1, and no distance (there is no boundary to
measure); one empty is a complete miss, Dice and surface Dice 0, and no distance. Distances alone therefore
hide complete misses: read them beside Dice.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_surface_dice
from monai.metrics.utils import get_edge_surface_distance
from torch import Tensor

from adpfl.evaluation.boxes import bounding_box


@dataclass(frozen=True, slots=True)
class StructureScore:
    """Scores of one structure in one case.

    Attributes:
        structure: its name in the task.
        dice: in [0, 1].
        hd95: in the unit of the spacing it was measured with; None where either mask is empty.
        assd: average symmetric surface distance, in the unit of `hd95`; None where either mask is empty, or
            where it was not measured.
        surface_dice: in [0, 1]; None where it was not measured.
    """

    structure: str
    dice: float
    hd95: float | None
    assd: float | None = None
    surface_dice: float | None = None


def dice(prediction: Tensor, reference: Tensor) -> float:
    """Dice coefficient 2|P & R| / (|P| + |R|) of two masks of equal shape (*S); 1 where both are empty.

    Raises:
        ValueError: the shapes differ.
    """
    predicted, referred = _booleans(prediction, reference)
    total = int(predicted.sum()) + int(referred.sum())
    if total == 0:
        return 1.0
    return 2.0 * int((predicted & referred).sum()) / total


def hd95(prediction: Tensor, reference: Tensor, spacing: Sequence[float] | None = None) -> float | None:
    """95th percentile Hausdorff distance between the boundaries of two masks of equal shape (*S).

    The larger of the two directed 95th percentiles. A mask's boundary is its own outermost pixels or voxels.

    Args:
        prediction: non-zero where the structure is predicted.
        reference: non-zero where it is drawn.
        spacing: size of a pixel or voxel along each axis; None means 1, so that the answer is in pixels.

    Returns:
        The distance, or None where either mask is empty.

    Raises:
        ValueError: the shapes differ, or spacing does not have one entry an axis.
    """
    return _distances(prediction, reference, spacing)[0]


def assd(prediction: Tensor, reference: Tensor, spacing: Sequence[float] | None = None) -> float | None:
    """Average symmetric surface distance: the mean over both boundaries of the distance to the other one.

    Every boundary pixel or voxel of either mask counts once. Arguments, answer and errors are those of
    `hd95`.
    """
    return _distances(prediction, reference, spacing)[1]


def surface_dice(
    prediction: Tensor, reference: Tensor, tolerance: float, spacing: Sequence[float] | None = None
) -> float:
    """Share of both boundaries that lies within a tolerance of the other one (Nikolov et al. 2018).

    Boundaries run between pixels and count by their length, or by their area in three dimensions, as in the
    challenges' own `surface-distance`; by MONAI's `compute_surface_dice`.

    Args:
        prediction: non-zero where the structure is predicted.
        reference: non-zero where it is drawn.
        tolerance: in the unit of `spacing`; at least 0.
        spacing: see `hd95`.

    Returns:
        In [0, 1]; 1 where both masks are empty, 0 where one is.

    Raises:
        ValueError: the shapes differ, spacing does not have one entry an axis, or the tolerance is negative.
    """
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance is {tolerance}; must be >= 0")
    predicted, referred, sizes = _cropped(prediction, reference, spacing)
    if not predicted.any() or not referred.any():
        return 0.0 if predicted.any() or referred.any() else 1.0
    with _quiet():
        share = compute_surface_dice(
            predicted[None, None],
            referred[None, None],
            class_thresholds=[float(tolerance)],
            include_background=True,
            spacing=sizes,
            use_subvoxels=True,
        )
    return float(share.item())


def score_structures(
    prediction: Tensor,
    reference: Tensor,
    structures: Sequence[str],
    spacing: Sequence[float] | None = None,
    *,
    tolerances: Sequence[float],
) -> tuple[StructureScore, ...]:
    """Every score of every structure, in the order of `structures`.

    Args:
        prediction: (structures, *S), non-zero inside.
        reference: (structures, *S), non-zero inside.
        structures: their names.
        spacing: see `hd95`.
        tolerances: of the surface Dice, one a structure.

    Raises:
        ValueError: the shapes differ, or do not have one channel and one tolerance a structure.
    """
    if not prediction.shape[0] == len(structures) == len(tolerances):
        raise ValueError(
            f"prediction has {prediction.shape[0]} channels and tolerances {len(tolerances)} entries; "
            f"must have {len(structures)} each, one a structure"
        )
    _require_one_shape(prediction, reference)
    scores = []
    for name, predicted, referred, tolerance in zip(
        structures, prediction, reference, tolerances, strict=True
    ):
        percentile, average = _distances(predicted, referred, spacing)
        scores.append(
            StructureScore(
                structure=name,
                dice=dice(predicted, referred),
                hd95=percentile,
                assd=average,
                surface_dice=surface_dice(predicted, referred, tolerance, spacing),
            )
        )
    return tuple(scores)


def _distances(
    prediction: Tensor, reference: Tensor, spacing: Sequence[float] | None
) -> tuple[float, float] | tuple[None, None]:
    """HD95 and ASSD from the same two sets of distances, which are what takes the time."""
    predicted, referred, sizes = _cropped(prediction, reference, spacing)
    if not predicted.any() or not referred.any():
        return None, None
    with _quiet():
        _, (there, back), _ = get_edge_surface_distance(predicted, referred, spacing=sizes, symmetric=True)
    percentile = max(float(np.percentile(directed.numpy(), 95.0)) for directed in (there, back))
    return percentile, float(torch.cat((there, back)).double().mean())


def _require_one_shape(prediction: Tensor, reference: Tensor) -> None:
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction is {tuple(prediction.shape)}; must be {tuple(reference.shape)}, as the reference is"
        )


def _booleans(prediction: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    _require_one_shape(prediction, reference)
    return prediction != 0, reference != 0


def _cropped(
    prediction: Tensor, reference: Tensor, spacing: Sequence[float] | None
) -> tuple[Tensor, Tensor, list[float]]:
    """Both masks as booleans within the box that holds them, and the spacing as MONAI takes it.

    Boundaries depend on nothing outside the box, and a tumour fills little of a volume.
    """
    predicted, referred = _booleans(prediction, reference)
    axes = predicted.ndim
    if spacing is not None and len(spacing) != axes:
        raise ValueError(f"spacing has {len(spacing)} entries; must have one for each of {axes} axes")
    sizes = [1.0] * axes if spacing is None else [float(size) for size in spacing]
    box = bounding_box(predicted | referred)
    return predicted[box], referred[box], sizes


@contextmanager
def _quiet() -> Iterator[None]:
    """MONAI 1.5 and later warn of an argument that MONAI itself passes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
        yield
