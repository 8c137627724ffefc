"""Averages of the global models over the rounds, in a stream: the last average and the newest model suffice.

Noise of different rounds is independent, so a mean over rounds holds less of it than any one model (Polyak
and Juditsky 1992; for private training De et al. 2022). It is made of released models alone and costs no
privacy. Training goes on from the models themselves; the average is what a run publishes.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from adpfl.config import FrozenModel
from adpfl.federated.chunk_ranges import checked_values
from adpfl.wire.chunks import FLOAT32, Manifest


class EmaAveraging(FrozenModel):
    """Exponential moving average: the model of j rounds ago weighs in proportion to decay^j."""

    method: Literal["ema"]
    decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9


class TailAveraging(FrozenModel):
    """Plain mean of the models after the last `rounds` rounds."""

    method: Literal["tail"]
    rounds: Annotated[int, Field(ge=2, le=100_000)]


Averaging = Annotated[EmaAveraging | TailAveraging, Field(discriminator="method")]


def newest_share(averaging: EmaAveraging | TailAveraging, round_number: int, *, rounds: int) -> float:
    """The weight s of a round's model in average <- average + s*(model - average); 1 starts the average anew.

    `ema` has s = (1 - decay) / (1 - decay^round), so that the weights of the rounds that were add up to one
    and the initial model has none (the bias correction of Kingma and Ba 2015).

    Args:
        averaging: the plan's.
        round_number: from 1.
        rounds: of the whole run.
    """
    if isinstance(averaging, EmaAveraging):
        return (1.0 - averaging.decay) / (1.0 - averaging.decay**round_number)
    return 1.0 / max(1, round_number - (rounds - averaging.rounds))


def average(
    previous: Manifest,
    model: Manifest,
    *,
    share: float,
    read: Callable[[str], bytes],
    write: Callable[[bytes], str],
) -> Manifest:
    """Move an average towards the newest model, chunk by chunk, in double precision rounded once.

    Args:
        previous: the average so far.
        model: the newest model, of the same tensors.
        share: the newest model's weight, in (0, 1].
        read: returns a chunk by its digest, verified.
        write: stores a chunk and returns its digest.

    Raises:
        ModelMismatchError: the tensors differ.
        IntegrityError: a chunk has the wrong size or a value that is not finite.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is {share}; must be above 0 and at most 1")
    model.check_same_tensors(previous)
    digests = []
    for index, (old, new) in enumerate(zip(previous.chunk_digests, model.chunk_digests, strict=True)):
        size = model.chunk_bytes(index)
        mean = checked_values(read(old), size, "a model", index).astype(np.float64)
        mean += share * (checked_values(read(new), size, "a model", index) - mean)
        digests.append(write(mean.astype(FLOAT32).tobytes()))
    return Manifest(tensors=model.tensors, chunk_size=model.chunk_size, chunk_digests=tuple(digests))
