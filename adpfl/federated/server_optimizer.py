"""FedAdam and FedYogi: the server's adaptive step along the mean update, over spooled chunks.

With d the mean update of round t (from 1) and moments that start at zero (Reddi et al. 2021, algorithm 2):

    m <- beta1*m + (1 - beta1)*d
    v <- beta2*v + (1 - beta2)*d^2                      FedAdam
    v <- v - (1 - beta2)*d^2*sign(v - d^2)              FedYogi
    model <- model + rate*m / (sqrt(v) + tau)

rate is the server's learning rate. FedAdam's is corrected for the moments' start at zero (Kingma and Ba 2015,
section 2): rate * sqrt(1 - beta2^t) / (1 - beta1^t).

Where v holds little but noise, m / sqrt(v) has the size of a step whatever the update says; a tau of no less
than the noise's deviation keeps such coordinates slow. The moments are post-processing of noised updates and
cost no privacy. They are objects as models are: float32, of the update's tensors, stored with the round's
result, so that a server which was killed goes on from the very bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adpfl.federated.aggregation_plan import OptimizerName
from adpfl.federated.chunk_ranges import Doubles, RangeWriter, read_range
from adpfl.wire.chunks import Manifest

FIRST = "the first moment"
SECOND = "the second moment"


@dataclass(frozen=True, slots=True)
class StepRule:
    """One round's step, but for the moments."""

    optimizer: OptimizerName
    learning_rate: float
    beta1: float
    beta2: float
    tau: float
    round: int

    @property
    def corrected_rate(self) -> float:
        """What m / (sqrt(v) + tau) is multiplied by."""
        if self.optimizer == "fedyogi":
            return self.learning_rate
        return float(
            self.learning_rate * np.sqrt(1.0 - self.beta2**self.round) / (1.0 - self.beta1**self.round)
        )


class MomentStream:
    """Turns the mean update into the server's step, stretch after stretch, and writes the new moments."""

    def __init__(
        self,
        rule: StepRule,
        update: Manifest,
        previous: tuple[Manifest, Manifest] | None,
        *,
        read: Callable[[str], bytes],
        write: Callable[[bytes], str],
    ) -> None:
        """Begin at the first coordinate.

        Args:
            rule: the round's step.
            update: a manifest of the updates' tensors.
            previous: the first and the second moment so far; None where they are zero.
            read: returns a chunk by its digest, verified.
            write: stores a chunk and returns its digest.

        Raises:
            ModelMismatchError: the moments are of other tensors.
        """
        for moment in previous or ():
            moment.check_same_tensors(update)
        self._rule = rule
        self._previous = previous
        self._read = read
        self._position = 0
        self._first = RangeWriter(update.tensors, update.chunk_size, write, FIRST)
        self._second = RangeWriter(update.tensors, update.chunk_size, write, SECOND)

    def step(self, mean: Doubles) -> Doubles:
        """The step of the next coordinates, whose mean update is given.

        Raises:
            IntegrityError: a moment is damaged, or leaves the range of float32.
        """
        rule = self._rule
        first, second = self._moments(mean.size)
        squares = mean * mean
        first = rule.beta1 * first + (1.0 - rule.beta1) * mean
        if rule.optimizer == "fedadam":
            second = rule.beta2 * second + (1.0 - rule.beta2) * squares
        else:
            second = second - (1.0 - rule.beta2) * squares * np.sign(second - squares)
        self._first.add(first)
        self._second.add(second)
        self._position += mean.size
        return rule.corrected_rate * first / (np.sqrt(second) + rule.tau)

    def close(self) -> tuple[Manifest, Manifest]:
        """The new moments, once every coordinate has gone through."""
        return self._first.close(), self._second.close()

    def _moments(self, size: int) -> tuple[Doubles, Doubles]:
        if self._previous is None:
            return np.zeros(size), np.zeros(size)
        start, end = self._position, self._position + size
        first, second = self._previous
        return (
            read_range(first, FIRST, start, end, self._read).astype(np.float64),
            read_range(second, SECOND, start, end, self._read).astype(np.float64),
        )
