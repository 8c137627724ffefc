"""Overlap and boundary distance of one segmented structure.

Empty masks: both empty is a perfect answer, Dice 1 and no HD95 (there is no boundary to measure); one empty
is a complete miss, Dice 0 and no HD95. HD95 alone therefore hides complete misses: read it beside Dice.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from monai.metrics import compute_hausdorff_distance
from torch import Tensor


@dataclass(frozen=True, slots=True)
class StructureScore:
    """Scores of one structure in one case.

    Attributes:
        structure: its name in the task.
        dice: in [0, 1].
        hd95: in the unit of the spacing it was measured with; None where either mask is empty.
        assd: average symmetric surface distance, as `hd95`; None also where it was not measured.
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

    The larger of the two directed 95th percentiles, by MONAI's `compute_hausdorff_distance`.

    Args:
        prediction: non-zero where the structure is predicted.
        reference: non-zero where it is drawn.
        spacing: size of a pixel or voxel along each axis; None means 1, so that the answer is in pixels.

    Returns:
        The distance, or None where either mask is empty.

    Raises:
        ValueError: the shapes differ, or spacing does not have one entry an axis.
    """
    predicted, referred = _booleans(prediction, reference)
    if spacing is not None and len(spacing) != predicted.ndim:
        raise ValueError(
            f"spacing has {len(spacing)} entries; must have one for each of {predicted.ndim} axes"
        )
    if not predicted.any() or not referred.any():
        return None
    with warnings.catch_warnings():
        # MONAI 1.5 and later warn of an argument that MONAI itself passes.
        warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
        distance = compute_hausdorff_distance(
            predicted[None, None],
            referred[None, None],
            include_background=True,
            percentile=95.0,
            spacing=None if spacing is None else [float(size) for size in spacing],
        )
    return float(distance.item())


def score_structures(
    prediction: Tensor,
    reference: Tensor,
    structures: Sequence[str],
    spacing: Sequence[float] | None = None,
) -> tuple[StructureScore, ...]:
    """Dice and HD95 of every structure, in the order of `structures`.

    Args:
        prediction: (structures, *S), non-zero inside.
        reference: (structures, *S), non-zero inside.
        structures: their names.
        spacing: see `hd95`.

    Raises:
        ValueError: the shapes differ, or do not have one channel a structure.
    """
    if prediction.shape[0] != len(structures):
        raise ValueError(
            f"prediction has {prediction.shape[0]} channels; must have {len(structures)}, one a structure"
        )
    _booleans(prediction, reference)
    return tuple(
        StructureScore(name, dice(predicted, referred), hd95(predicted, referred, spacing))
        for name, predicted, referred in zip(structures, prediction, reference, strict=True)
    )


def _booleans(prediction: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction is {tuple(prediction.shape)}; must be {tuple(reference.shape)}, as the reference is"
        )
    return prediction != 0, reference != 0
