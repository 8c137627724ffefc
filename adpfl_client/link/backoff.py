"""How long to wait before a lost link is tried again."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Exponential backoff with full jitter.

    The wait before attempt n is uniform in [0, min(ceiling, first * factor**n)]: sites that lost the server
    together do not come back together.

    Attributes:
        first_seconds: upper bound of the first wait.
        ceiling_seconds: upper bound of every wait.
        factor: growth of the bound from one wait to the next.
        uniform: draws from [low, high]; tests put their own here.
    """

    first_seconds: float = 0.5
    ceiling_seconds: float = 30.0
    factor: float = 2.0
    uniform: Callable[[float, float], float] = field(default=random.uniform, repr=False)
    attempts: int = field(default=0, init=False)

    def next_wait_seconds(self) -> float:
        """Draw the next wait and count the attempt."""
        # The exponent is bounded because a site may retry for months and a float overflows after 1024
        # doublings.
        bound = min(self.ceiling_seconds, self.first_seconds * self.factor ** min(self.attempts, 64))
        self.attempts += 1
        return self.uniform(0.0, bound)

    def reset(self) -> None:
        """Forget the failures: the link works again."""
        self.attempts = 0
