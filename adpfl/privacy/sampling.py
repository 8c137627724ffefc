"""Which units a step sees, and how often a unit is seen: both from the same few definitions.

Draws come from the site's secret keystream. A seed that the server knew would void the amplification by
sampling, and a sample whose size leaked would need another analysis; so the sample and its size stay at the
site.
"""

from fractions import Fraction
from math import floor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from adpfl.kernels.keystream import Domain, KeystreamKey, nonce, words
from adpfl.privacy.plan import Sampling

Indices = NDArray[np.int64]

_DRAW_BITS: Final = 63


def exact_probability(sampling: Sampling) -> Fraction:
    """The sampling probability as the decimal that was written: 0.1 is 1/10, not the double nearest to it."""
    return Fraction(repr(float(sampling.probability)))


def expected_units(sampling: Sampling, unit_count: int) -> float:
    """q*n: the public divisor that turns a noised sum into a mean."""
    return float(exact_probability(sampling) * unit_count)


def steps_per_epoch(sampling: Sampling) -> int:
    """floor(1/q): steps of one shuffled epoch, in which each unit is seen at most once."""
    return floor(1 / exact_probability(sampling))


def releases_seen(sampling: Sampling, *, first_step: int, steps: int, repeated: bool = False) -> int:
    """How many of these steps one unit can take part in, for composition.

    Under `poisson` and `full` every step counts. Under `partition` an epoch counts where it begins, so that
    windows that follow one another add up to ceil(S / floor(1/q)) epochs for S steps. A window that repeats
    steps already charged (a crashed attempt) counts each epoch that it touches: its units may have been
    seen before.

    Args:
        sampling: how units are chosen.
        first_step: steps that the run took before these, in the state from which these start.
        steps: number of steps.
        repeated: whether any of these steps was charged before.
    """
    if sampling.mode != "partition" or steps == 0:
        return steps
    epoch = steps_per_epoch(sampling)
    end = -(-(first_step + steps) // epoch)
    begun = first_step // epoch if repeated else -(-first_step // epoch)
    return end - begun


def poisson_sample(key: KeystreamKey, *, step: int, unit_count: int, probability: float) -> Indices:
    """Units whose 63-bit draw lies under floor(q * 2^63): each joins independently of all others.

    Unit i owns words 2i and 2i + 1 of the step's sampling stream.

    Returns:
        int64 (B,), ascending; B is random and may be 0.
    """
    bound = floor(Fraction(probability) * (1 << _DRAW_BITS))
    drawn = _draws(key, step=step, unit_count=unit_count) < np.uint64(bound)
    return np.flatnonzero(drawn).astype(np.int64)


def shuffled_order(key: KeystreamKey, *, step: int, unit_count: int) -> Indices:
    """A secret order of all units for one epoch, from the stream of the step that begins it."""
    return np.argsort(_draws(key, step=step, unit_count=unit_count), kind="stable").astype(np.int64)


def partition_batch(sampling: Sampling, order: Indices, *, position: int) -> Indices:
    """Batch number `position` of an epoch, ascending: about q*n units, disjoint from the epoch's others.

    Args:
        sampling: mode `partition`.
        order: the epoch's order of all n units.
        position: 0 to floor(1/q) - 1.
    """
    size = exact_probability(sampling) * len(order)
    start = floor(position * size + Fraction(1, 2))
    stop = floor((position + 1) * size + Fraction(1, 2))
    return np.sort(order[start:stop])


def _draws(key: KeystreamKey, *, step: int, unit_count: int) -> NDArray[np.uint64]:
    stream = words(key, nonce(Domain.SAMPLING, step=step), 0, 2 * unit_count).astype(np.uint64)
    return (stream[0::2] | (stream[1::2] << np.uint64(32))) >> np.uint64(1)
