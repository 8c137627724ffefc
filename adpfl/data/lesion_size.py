"""How large a case's lesion is in its reference mask: what sites may be made to differ in."""

import numpy as np

from adpfl.data.case import Case
from adpfl.data.images import read_mask
from adpfl.data.labels import lesion_labels
from adpfl.data.volumes import read_label_volume
from adpfl.errors import DataError


def lesion_size(case: Case) -> float:
    """The tumour and its cysts, or the whole brain tumour, in ml; in a photograph the lesion's share.

    Raises:
        DataError: the case has no mask, or it cannot be read.
    """
    if case.mask is None:
        raise DataError(f"{case.case} has no mask; the size of its lesion is not known")
    if case.labels is None:
        return float(read_mask(case.mask).mean())
    volume = read_label_volume(case.mask)
    voxels = np.isin(volume.array, sorted(lesion_labels(case.labels))).sum()
    return float(voxels * np.prod(volume.spacing_mm) / 1000.0)
