"""The tables against an independent computation: `decimal` exponentials at 120 digits."""

from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import pairwise

import numpy as np
import pytest

from adpfl.kernels.digit_tables import (
    ACCEPTANCE_WIDTHS,
    AcceptanceTable,
    DigitTable,
    acceptance_tables,
    digit_table,
)

WIDE = Context(prec=120, rounding=ROUND_HALF_EVEN)
ONE = 1 << 126
DIGITS = [(scale_bits, position) for scale_bits in (10, 20, 30) for position in range(scale_bits // 10 + 1)]


def exp_minus(numerator: int, exponent_bits: int) -> Decimal:
    return WIDE.exp(WIDE.divide(Decimal(-numerator), Decimal(1 << exponent_bits)))


def rounded(value: Decimal) -> int:
    return int(WIDE.multiply(value, Decimal(ONE)).to_integral_value(context=WIDE))


def no_tail(position: int) -> int:
    pytest.fail(f"position {position} does not tie and needs no tail")


@pytest.mark.parametrize(("scale_bits", "position"), DIGITS)
def test_digit_thresholds_are_the_rounded_cumulative_law(scale_bits, position):
    thresholds = digit_table(scale_bits, position).thresholds
    shift = scale_bits - 10 * position
    mass = WIDE.subtract(Decimal(1), exp_minus(1024, shift))
    assert len(thresholds) == 1023
    assert all(low <= high for low, high in pairwise(thresholds))
    for digit in [*range(0, 1023, 41), 1021, 1022]:
        reached = WIDE.subtract(Decimal(1), exp_minus(digit + 1, shift))
        assert thresholds[digit] == rounded(WIDE.divide(reached, mass)), digit


@pytest.mark.parametrize("scale_bits", [10, 20])
def test_acceptance_thresholds_are_the_rounded_exponentials(scale_bits):
    position = 0
    for width, table in zip(ACCEPTANCE_WIDTHS[scale_bits], acceptance_tables(scale_bits), strict=True):
        assert len(table.thresholds) == 1 << width
        assert table.thresholds[0] == ONE
        for piece in [*range(1, 1 << width, 1 + (1 << width) // 40), (1 << width) - 1]:
            assert table.thresholds[piece] == rounded(exp_minus(piece, 2 * scale_bits + 3 - position)), piece
        position += width


@pytest.mark.parametrize(("scale_bits", "position"), DIGITS)
def test_guided_lookup_counts_thresholds(scale_bits, position):
    table = digit_table(scale_bits, position)
    # On both sides of each threshold and of each bucket of the guide, never on a threshold.
    near = {u + move for u in table.leading.tolist() for move in (-1, 1)} | set(range(0, 1 << 31, 1 << 24))
    chosen = sorted({u for u in near if 0 <= u < 1 << 31} - set(table.leading.tolist()))
    digits = table.digits(np.array(chosen, dtype=np.uint32), no_tail)
    counted = [sum(threshold <= u << 95 for threshold in table.thresholds) for u in chosen]
    assert digits.tolist() == counted


def test_a_digit_tie_is_settled_by_the_tail():
    # Three thresholds share the leading bits 9; the tail decides between them, and equality counts.
    table = DigitTable.from_thresholds((5 << 95, 9 << 95 | 10, 9 << 95 | 20, 9 << 95 | 20, 1 << 126))
    tails = [0, 9, 10, 19, 20, (1 << 95) - 1]
    digits = table.digits(np.full(len(tails), 9, dtype=np.uint32), tails.__getitem__)
    assert digits.tolist() == [1, 1, 2, 2, 4, 4]
    assert table.digits(np.array([4, 6, 8, 10, (1 << 31) - 1], dtype=np.uint32), no_tail).tolist() == [
        0,
        1,
        1,
        4,
        4,
    ]


def test_an_acceptance_tie_is_settled_by_the_tail():
    table = AcceptanceTable.from_thresholds((1 << 126, 7 << 95 | 3))
    pieces = np.ones(5, dtype=np.int64)
    uniforms = np.array([7, 7, 7, 6, 8], dtype=np.uint32)
    tails = {0: 2, 1: 3, 2: 4}
    assert table.accepts(pieces, uniforms, tails.__getitem__).tolist() == [True, False, False, True, False]
    assert table.accepts(0 * pieces, np.full(5, (1 << 31) - 1, dtype=np.uint32), no_tail).all()
