"""The L2 norm of a whole update, from its chunks: the plan may bound what one site can move the model by."""

import math
from collections.abc import Callable

import numpy as np

from adpfl.federated.chunk_ranges import checked_values
from adpfl.wire.chunks import Manifest


def update_norm(update: Manifest, read: Callable[[str], bytes]) -> float:
    """The L2 norm over all coordinates of all tensors, in double precision.

    Squares of finite float32 values are at most 1.2e77 and an object has at most 2**36 of them, so the sum is
    finite. One chunk is in memory at a time; one that stands at several places is read once.

    Args:
        update: the update's manifest; every chunk of it is stored.
        read: returns a chunk by its digest, verified.

    Raises:
        IntegrityError: a chunk has the wrong size or a value that is not finite.
    """
    total = 0.0
    for digest, places in update.indices_of.items():
        chunk = read(digest)
        for index in places:
            values = checked_values(chunk, update.chunk_bytes(index), "the update", index)
        doubles = values.astype(np.float64)
        total += len(places) * float(np.dot(doubles, doubles))
    return math.sqrt(total)
