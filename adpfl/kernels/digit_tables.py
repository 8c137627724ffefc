"""Exact threshold tables that turn uniform words into the digits of a Laplace draw and into acceptances.

Every uniform is U.V: 31 leading bits U from the main stream and, only when U ties with the leading bits of a
threshold, 95 more bits V from the refinement stream. Together they are an integer below 2^126, and every
probability is an integer threshold out of 2^126, rounded to nearest.

**Digits.** |y| = K + 1/2 has P(K) proportional to exp(-K/S), S = 2^s. Write K = sum of d_m * 1024^m; then
exp(-K/S) is a product over m of exp(-d_m * 2^(10m-s)), so the digits are independent, and digit m has the
cumulative law F(d) = (1 - r^(d+1)) / (1 - r^1024), r = exp(-2^(10m-s)), once it is normalised over its 1024
values. The digits above m = s/10 are left out: together they differ from zero with probability exp(-1024).

**Acceptance.** exp(-N * 2^-q) is the product over the binary pieces of N of exp(-d * 2^(pos-q)), d a piece at
bit `pos`; each factor is one comparison, so no exponential is ever computed on a secret.

**Arithmetic.** exp(-2^-k) is its Taylor series in integers with 320 fraction bits; the powers r^d follow by
repeated multiplication, each cut down by less than one unit. Their error is below 2^-298, and division by
1 - r^1024, at least 2^-21, leaves it below 2^-276: 2^-150 of a threshold's unit. `_round_quotient` asserts
that no quotient lies so near to a half that this could turn its rounding: every table is the exact one.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final, Self

import numpy as np
import numpy.typing as npt

DIGIT_BITS: Final = 10
DIGIT_VALUES: Final = 1 << DIGIT_BITS
LEADING_BITS: Final = 31
TAIL_BITS: Final = 95
THRESHOLD_BITS: Final = LEADING_BITS + TAIL_BITS

ACCEPTANCE_WIDTHS: Final = {10: (8, 7, 7, 7), 20: (12, 12, 12, 13)}
"""Widths in bits, low to high, of the pieces of N at each scale; N beyond them is rejected outright."""

_GUIDE_BITS: Final = 16
_FRACTION_BITS: Final = 320
_GUARD_BITS: Final = 64

Leading = npt.NDArray[np.uint32]
Tail = Callable[[int], int]
"""Gives the 95 tail bits V for the position of a tied uniform in the array at hand."""


@dataclass(frozen=True, eq=False)
class DigitTable:
    """The cumulative law of one digit as rising thresholds T_d: the digit is the count of T_d <= U.V."""

    thresholds: tuple[int, ...]
    leading: Leading
    """The top 31 bits of each threshold; 2^31 where the threshold is 2^126."""
    guide: npt.NDArray[np.int16]
    """By the top 16 bits of U: the digit, or -1 where a threshold's leading bits share them."""

    @classmethod
    def from_thresholds(cls, thresholds: tuple[int, ...]) -> Self:
        """Build the lookup arrays; `thresholds` must rise and lie within 0 to 2^126."""
        leading = np.array([threshold >> TAIL_BITS for threshold in thresholds], dtype=np.uint32)
        edges = np.arange((1 << _GUIDE_BITS) + 1, dtype=np.uint32) << np.uint32(LEADING_BITS - _GUIDE_BITS)
        below = np.searchsorted(leading, edges, side="left")
        guide = np.where(below[:-1] == below[1:], below[:-1], -1).astype(np.int16)
        return cls(thresholds, leading, guide)

    def digits(self, uniforms: Leading, tail: Tail) -> npt.NDArray[np.int16]:
        """One digit for each U.

        Args:
            uniforms: U, uint32 (n,), below 2^31.
            tail: asked only for the positions whose U ties.

        Returns:
            int16 (n,), 0 to the number of thresholds.
        """
        digits = self.guide.take(uniforms >> np.uint32(LEADING_BITS - _GUIDE_BITS))
        unsettled = np.flatnonzero(digits < 0)
        candidates = uniforms[unsettled]
        lowest = np.searchsorted(self.leading, candidates, side="left")
        highest = np.searchsorted(self.leading, candidates, side="right")
        digits[unsettled] = lowest
        for position in unsettled[lowest != highest].tolist():
            exact = int(uniforms[position]) << TAIL_BITS | tail(position)
            digits[position] = bisect_right(self.thresholds, exact)
        return digits


@dataclass(frozen=True, eq=False)
class AcceptanceTable:
    """Acceptance probabilities of one piece of N: piece d passes where U.V < T_d. T_0 is 2^126: always."""

    thresholds: tuple[int, ...]
    leading: Leading

    @classmethod
    def from_thresholds(cls, thresholds: tuple[int, ...]) -> Self:
        """Build the lookup array; each threshold must lie within 0 to 2^126."""
        return cls(
            thresholds, np.array([threshold >> TAIL_BITS for threshold in thresholds], dtype=np.uint32)
        )

    def accepts(self, pieces: npt.NDArray[np.int64], uniforms: Leading, tail: Tail) -> npt.NDArray[np.bool_]:
        """Whether each piece passes.

        Args:
            pieces: d, int64 (n,), below the number of thresholds.
            uniforms: U, uint32 (n,), below 2^31.
            tail: asked only for the positions whose U ties.

        Returns:
            bool (n,).
        """
        leading = self.leading[pieces]
        accepted = uniforms < leading
        for position in np.flatnonzero(uniforms == leading).tolist():
            exact = int(uniforms[position]) << TAIL_BITS | tail(position)
            accepted[position] = exact < self.thresholds[pieces[position]]
        return accepted


@cache
def digit_table(scale_bits: int, position: int) -> DigitTable:
    """The table of digit m = `position` for Laplace noise of scale 2^scale_bits; computed once a process."""
    powers = _powers(scale_bits - DIGIT_BITS * position, DIGIT_VALUES + 1)
    one = powers[0]
    mass = one - powers[DIGIT_VALUES]
    return DigitTable.from_thresholds(
        tuple(_round_quotient(one - powers[digit + 1], mass) for digit in range(DIGIT_VALUES - 1))
    )


@cache
def acceptance_tables(scale_bits: int) -> tuple[AcceptanceTable, ...]:
    """The tables for exp(-N / 2^(2 s + 3)), s = `scale_bits`, one a piece of N from low to high."""
    tables = []
    position = 0
    for width in ACCEPTANCE_WIDTHS[scale_bits]:
        powers = _powers(2 * scale_bits + 3 - position, 1 << width)
        one = powers[0]
        tables.append(AcceptanceTable.from_thresholds(tuple(_round_quotient(power, one) for power in powers)))
        position += width
    return tuple(tables)


def _powers(exponent_bits: int, count: int) -> list[int]:
    """exp(-d * 2^-exponent_bits) for d = 0 .. count - 1, with 320 fraction bits."""
    one = 1 << _FRACTION_BITS
    ratio, term, order = 0, one, 0
    while term:
        ratio += -term if order % 2 else term
        order += 1
        term = (term >> exponent_bits) // order
    powers = [one]
    for _ in range(count - 1):
        powers.append(powers[-1] * ratio >> _FRACTION_BITS)
    return powers


def _round_quotient(numerator: int, denominator: int) -> int:
    """The integer nearest to 2^126 * numerator / denominator, with proof that rounding was unambiguous."""
    scaled = (numerator << (THRESHOLD_BITS + _GUARD_BITS)) // denominator
    half = 1 << (_GUARD_BITS - 1)
    distance = abs((scaled & ((1 << _GUARD_BITS) - 1)) - half)
    assert distance > 1, "320 fraction bits do not settle the rounding of a threshold"
    return (scaled + half) >> _GUARD_BITS
