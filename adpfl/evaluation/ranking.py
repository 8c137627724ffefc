"""How well probabilities rank what shows a structure before what does not."""

import torch
from monai.metrics import compute_roc_auc
from torch import Tensor


def auroc(probabilities: Tensor, shown: Tensor) -> float | None:
    """Area under the receiver operating characteristic, by MONAI's `compute_roc_auc`.

    The share of pairs, one that shows the structure and one that does not, in which the first has the larger
    probability; ties count half.

    Args:
        probabilities: (n,), or any score that grows with them.
        shown: (n,), non-zero where the structure is shown.

    Returns:
        In [0, 1], 0.5 for chance; None where all or none show it: there is nothing to rank.

    Raises:
        ValueError: the shapes differ, or a probability is NaN.
    """
    if probabilities.shape != shown.shape or probabilities.ndim != 1:
        raise ValueError(
            f"probabilities are {tuple(probabilities.shape)} and labels {tuple(shown.shape)}; "
            "must be of one length"
        )
    if bool(probabilities.isnan().any()):
        raise ValueError("a probability is NaN; all must be numbers")
    present = shown != 0
    if bool(present.all()) or not bool(present.any()):
        return None
    return float(compute_roc_auc(probabilities.double(), present.to(torch.float64)))
