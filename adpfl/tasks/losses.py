"""Losses on one unit's records, written so that `torch.func.vmap` and `grad` can pass through them.

MONAI's `DiceCELoss` reduces over the batch, which leaves no room for padding records, and takes a softmax
over structures that here may overlap; for one structure and no padding the loss below equals it, and a test
says so.
"""

import torch
from torch import Tensor
from torch.nn import functional

_SMOOTH = 1e-5
"""Keeps the Dice term defined where reference and prediction are both empty."""


def cross_entropy(logits: Tensor, answer: Tensor, present: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of one answer an image, averaged over structures and present records.

    Args:
        logits: (k, structures).
        answer: (k, structures) in {0, 1}, of any dtype.
        present: (k,); 1 or True for real records, 0 or False for padding. None means all.

    Returns:
        A scalar; 0 with zero gradient where no record is present. Logits of padding must be finite.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, answer.to(logits.dtype), reduction="none")
    return _mean_over_present(entropy.mean(dim=1), present)


def dice_cross_entropy(logits: Tensor, mask: Tensor, present: Tensor | None = None) -> Tensor:
    """Soft Dice loss plus binary cross-entropy, averaged over structures and present records.

    For a record and structure with probabilities p and reference r, both over pixels:
    1 - (2 sum(p r) + s) / (sum(p) + sum(r) + s) + mean(cross-entropy), s = 1e-5 (Milletari et al. 2016 with
    plain, not squared, sums).

    Args:
        logits: (k, structures, *S).
        mask: (k, structures, *S) in {0, 1}, of any dtype.
        present: (k,); 1 or True for real records, 0 or False for padding. None means all.

    Returns:
        A scalar; 0 with zero gradient where no record is present. Logits of padding must be finite.
    """
    target = mask.to(logits.dtype)
    pixels = tuple(range(2, logits.ndim))
    probability = torch.sigmoid(logits)
    overlap = (probability * target).sum(dim=pixels)
    total = probability.sum(dim=pixels) + target.sum(dim=pixels)
    dice_loss = 1.0 - (2.0 * overlap + _SMOOTH) / (total + _SMOOTH)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=pixels)
    return _mean_over_present((dice_loss + entropy).mean(dim=1), present)


def _mean_over_present(per_record: Tensor, present: Tensor | None) -> Tensor:
    if present is None:
        return per_record.mean()
    weight = present.to(per_record.dtype)
    return (per_record * weight).sum() / weight.sum().clamp(min=1.0)
