"""Published vectors, an independent oracle in Python integers, forced ties, exact-bin statistics, and the
scale."""

import hashlib
import struct
from bisect import bisect_right
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy import special, stats

from adpfl.errors import KeystreamExhaustedError, PrivacyError
from adpfl.kernels import lattice
from adpfl.kernels.digit_tables import (
    ACCEPTANCE_WIDTHS,
    AcceptanceTable,
    DigitTable,
    acceptance_tables,
    digit_table,
)
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale, gaussian_draws, laplace_draws

SECRET = bytes(range(32))
DRAWS = {"laplace": laplace_draws, "gaussian": gaussian_draws}
VECTORS = [
    ("laplace", 10, [51, 2399, -5825, -331, 1711, 213], "bd9306aa101a2b28b731644a319022d7"),
    (
        "laplace",
        20,
        [323663, -1853239, 177963, -5959793, 6524787, -347847],
        "4d8236b71dfb08aaa6f9ca931c62f5e7",
    ),
    ("laplace", 30, [2514960463, -347975479, 222566187, -4114403441], "3a95a975209c5ec97780e3a990134376"),
    ("gaussian", 10, [3131, -1987, 2067, -719, -217, -2367], "1080812f100b09bd6681f2c10c24dabf"),
    ("gaussian", 20, [-1688887, 660391, 1508359, -953279, -301383], "6f26d8f4c3b394c4276c830963feae9c"),
]
LAWS = [(law, scale_bits) for law, scale_bits, _, _ in VECTORS]


@pytest.mark.parametrize(("law", "scale_bits", "first", "digest"), VECTORS)
def test_published_vectors(key, law, scale_bits, first, digest):
    draws = DRAWS[law](key, scale_bits=scale_bits, step=0, first_index=0, count=1_000_000)
    assert draws.dtype == np.int64
    assert draws[: len(first)].tolist() == first
    assert hashlib.sha256(draws.astype("<i8").tobytes()).hexdigest()[:32] == digest


# An oracle that shares nothing with the product but the cipher: one coordinate at a time, Python integers.


def oracle_words(
    domain: int, attempt: int, digit: int, segment: int, step: int, first: int, count: int
) -> list[int]:
    nonce = struct.pack("<IBBBBII", 0, domain, attempt, digit, 0, segment, step)
    stream = (
        Cipher(algorithms.ChaCha20(SECRET, nonce), mode=None).encryptor().update(bytes(4 * (first + count)))
    )
    return list(struct.unpack_from(f"<{count}I", stream, 4 * first))


def oracle_uniform(domain: int, attempt: int, digit: int, segment: int, step: int, i: int, width: int) -> int:
    """U.V of one word, the tail always read."""
    word = oracle_words(domain, attempt, 0, segment, step, width * i, width)[digit]
    a, b, c = oracle_words(domain | 0x80, attempt, digit, segment, step, 4 * i, 3)
    return (word >> 1) << 95 | (a << 64 | b << 32 | c) >> 1


def oracle_laplace(tables, scale_bits, *, domain, attempt, segment, step, i, width) -> int:
    magnitude = 0
    for position in range(scale_bits // 10 + 1):
        uniform = oracle_uniform(domain, attempt, position, segment, step, i, width)
        magnitude += bisect_right(tables[position], uniform) * 1024**position
    sign = oracle_words(domain, attempt, 0, segment, step, width * i, 1)[0] & 1
    return -(2 * magnitude + 1) if sign else 2 * magnitude + 1


def oracle_gaussian(digit_thresholds, acceptance_thresholds, scale_bits, *, segment, step, i) -> int:
    for attempt in range(256):
        where = {"attempt": attempt, "segment": segment, "step": step, "i": i}
        proposal = oracle_laplace(digit_thresholds, scale_bits, domain=2, width=4, **where)
        rest = (abs(proposal) - 2 * 2**scale_bits) ** 2
        passes = True
        for digit, width in enumerate(ACCEPTANCE_WIDTHS[scale_bits]):
            rest, piece = divmod(rest, 2**width)
            uniform = oracle_uniform(3, attempt, digit, segment, step, i, 4)
            passes = passes and (piece == 0 or uniform < acceptance_thresholds[digit][piece])
        if passes and rest == 0:
            return proposal
    raise AssertionError("256 rejections")


def digit_thresholds(scale_bits: int) -> list[tuple[int, ...]]:
    return [digit_table(scale_bits, position).thresholds for position in range(scale_bits // 10 + 1)]


@pytest.mark.parametrize("scale_bits", [10, 20, 30])
def test_laplace_is_the_oracle_s_across_a_segment_border(key, scale_bits):
    border = 1 << 26
    draws = laplace_draws(key, scale_bits=scale_bits, step=9, first_index=3 * border, count=40)
    expected = [
        oracle_laplace(
            digit_thresholds(scale_bits),
            scale_bits,
            domain=1,
            attempt=0,
            segment=3,
            step=9,
            i=i,
            width=2 if scale_bits == 10 else 4,
        )
        for i in range(40)
    ]
    assert draws.tolist() == expected
    across = laplace_draws(key, scale_bits=scale_bits, step=9, first_index=3 * border - 5, count=15)
    assert across[5:].tolist() == expected[:10]


@pytest.mark.parametrize("scale_bits", [10, 20])
def test_gaussian_is_the_oracle_s(key, scale_bits):
    draws = gaussian_draws(key, scale_bits=scale_bits, step=2, first_index=1 << 26, count=40)
    acceptance = [table.thresholds for table in acceptance_tables(scale_bits)]
    for i, draw in enumerate(draws.tolist()):
        expected = oracle_gaussian(
            digit_thresholds(scale_bits), acceptance, scale_bits, segment=1, step=2, i=i
        )
        assert draw == expected


@pytest.mark.parametrize("scale_bits", [10, 20, 30])
@pytest.mark.parametrize("above", [0, 1])
def test_laplace_ties_are_settled_by_the_refinement_stream(key, monkeypatch, scale_bits, above):
    # Thresholds exactly at the draws' own 126 bits (counted) or one above them (not counted): every U ties.
    count, width = 24, 2 if scale_bits == 10 else 4
    tables = [
        tuple(sorted(oracle_uniform(1, 0, position, 0, 5, i, width) + above for i in range(count)))
        for position in range(scale_bits // 10 + 1)
    ]
    monkeypatch.setattr(
        lattice, "digit_table", lambda _, position: DigitTable.from_thresholds(tables[position])
    )
    draws = laplace_draws(key, scale_bits=scale_bits, step=5, first_index=0, count=count)
    for i, draw in enumerate(draws.tolist()):
        assert draw == oracle_laplace(
            tables, scale_bits, domain=1, attempt=0, segment=0, step=5, i=i, width=width
        )


@pytest.mark.parametrize("scale_bits", [10, 20])
@pytest.mark.parametrize("above", [0, 1])
@pytest.mark.parametrize("digit", [0, 1, 2, 3])
def test_acceptance_ties_are_settled_by_the_refinement_stream(key, monkeypatch, scale_bits, above, digit):
    # Every other piece passes. For `digit`, the threshold of a coordinate's piece is that coordinate's own
    # uniform, which fails, or one above, which passes; where two share a piece, the later one sets it.
    count, ties = 24, 0
    digits = digit_thresholds(scale_bits)
    widths = ACCEPTANCE_WIDTHS[scale_bits]
    tables = [[1 << 126] * (1 << width) for width in widths]
    for i in range(count):
        proposal = oracle_laplace(digits, scale_bits, domain=2, attempt=0, segment=0, step=1, i=i, width=4)
        rest = (abs(proposal) - 2 * 2**scale_bits) ** 2
        piece = rest >> sum(widths[:digit]) & (1 << widths[digit]) - 1
        if piece:
            tables[digit][piece] = oracle_uniform(3, 0, digit, 0, 1, i, 4) + above
            ties += 1
    assert ties
    patched = tuple(AcceptanceTable.from_thresholds(tuple(table)) for table in tables)
    monkeypatch.setattr(lattice, "acceptance_tables", lambda _: patched)
    draws = gaussian_draws(key, scale_bits=scale_bits, step=1, first_index=0, count=count)
    expected = [oracle_gaussian(digits, tables, scale_bits, segment=0, step=1, i=i) for i in range(count)]
    assert draws.tolist() == expected


@pytest.mark.parametrize(("law", "scale_bits"), LAWS)
def test_a_draw_depends_on_its_index_alone(key, law, scale_bits):
    draw = DRAWS[law]
    whole = draw(key, scale_bits=scale_bits, step=0, first_index=0, count=140_000)
    cuts = [0, 1, 2, 17, 1000, 65_535, 65_537, 140_000]
    pieces = [
        draw(key, scale_bits=scale_bits, step=0, first_index=low, count=high - low)
        for low, high in pairwise(cuts)
    ]
    assert np.array_equal(np.concatenate(pieces), whole)
    assert (whole % 2 == 1).all()
    assert not np.array_equal(
        draw(key, scale_bits=scale_bits, step=1, first_index=0, count=1000), whole[:1000]
    )
    assert draw(key, scale_bits=scale_bits, step=0, first_index=7, count=0).size == 0


@pytest.mark.parametrize(("law", "scale_bits"), LAWS)
def test_the_index_space_ends(key, law, scale_bits):
    draw = DRAWS[law]
    end = 1 << 58
    assert draw(key, scale_bits=scale_bits, step=0, first_index=end - 2, count=2).size == 2
    for first, count in ((end - 2, 3), (-1, 2), (0, -1)):
        with pytest.raises(KeystreamExhaustedError, match="must lie within"):
            draw(key, scale_bits=scale_bits, step=0, first_index=first, count=count)
    with pytest.raises(KeystreamExhaustedError, match="step is 4294967296"):
        draw(key, scale_bits=scale_bits, step=1 << 32, first_index=0, count=1)


def test_gaussian_gives_up_after_the_last_attempt(key, monkeypatch):
    never = tuple(AcceptanceTable.from_thresholds((0,) * (1 << width)) for width in ACCEPTANCE_WIDTHS[10])
    monkeypatch.setattr(lattice, "acceptance_tables", lambda _: never)
    with pytest.raises(KeystreamExhaustedError, match="attempt is 256"):
        gaussian_draws(key, scale_bits=10, step=0, first_index=0, count=1)


@pytest.mark.parametrize("scale_bits", [10, 20])
def test_a_proposal_beyond_the_pieces_is_rejected(key, monkeypatch, scale_bits):
    # |2y| - 2S = 32 S + 1: N has one bit too many, and the pieces below it all but surely pass.
    always = {digit: DigitTable.from_thresholds((0,) * digit + (1 << 126,)) for digit in (0, 17)}
    top = scale_bits // 10
    monkeypatch.setattr(lattice, "digit_table", lambda _, position: always[17 if position == top else 0])
    assert laplace_draws(key, scale_bits=scale_bits, step=0, first_index=0, count=1).tolist() == [
        34 * 2**scale_bits + 1
    ]
    with pytest.raises(KeystreamExhaustedError, match="attempt is 256"):
        gaussian_draws(key, scale_bits=scale_bits, step=0, first_index=0, count=1)


@pytest.mark.parametrize(
    ("law", "scale_bits"), [("laplace", 0), ("laplace", 15), ("gaussian", 30), ("gaussian", "20")]
)
def test_a_scale_that_is_not_the_law_s_is_refused(key, law, scale_bits):
    with pytest.raises(PrivacyError, match=rf"scale_bits is {scale_bits!r}; must be"):
        DRAWS[law](key, scale_bits=scale_bits, step=0, first_index=0, count=1)


# Statistics, on bins whose edges are lattice integers and whose probabilities are the lattice law's own.

SAMPLES = 1 << 19
BINS = 64


def magnitude_below(law: str, scale: float, edges: np.ndarray) -> np.ndarray:
    """P(K < edge) for |y| = K + 1/2."""
    if law == "laplace":
        return -np.expm1(-edges / scale)
    if scale < 1 << 12:
        weights = np.exp(-((np.arange(16 * int(scale)) + 0.5) ** 2) / (2 * scale**2))
        cumulative = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()
        return cumulative[edges.astype(np.int64)]
    # The midpoint rule over a unit cell errs by 1 / (24 scale^2): below 1e-13 here.
    return special.erf(edges / (np.sqrt(2) * scale))


def p_value(draws: np.ndarray, law: str, scale: float) -> float:
    """Chi-square of signed draws against the lattice law of another scale."""
    quantiles = np.arange(1, BINS) / BINS
    ideal = -np.log1p(-quantiles) if law == "laplace" else np.sqrt(2) * special.erfinv(quantiles)
    edges = np.floor(scale * ideal)
    masses = np.diff(np.concatenate([[0.0], magnitude_below(law, scale, edges), [1.0]]))
    bins = np.searchsorted(edges, (np.abs(draws) - 1) // 2, side="right") + BINS * (draws < 0)
    counts = np.bincount(bins, minlength=2 * BINS)
    return float(stats.chisquare(counts, draws.size * np.concatenate([masses, masses]) / 2).pvalue)


@pytest.mark.parametrize(("law", "scale_bits"), LAWS)
def test_the_law_is_right_and_a_scale_two_percent_off_is_not(key, law, scale_bits):
    draws = DRAWS[law](key, scale_bits=scale_bits, step=11, first_index=0, count=SAMPLES)
    scale = float(1 << scale_bits)
    assert p_value(draws, law, scale) > 1e-3
    for wrong in (0.98, 1.02):
        assert p_value(draws, law, wrong * scale) < 1e-9
    other = "gaussian" if law == "laplace" else "laplace"
    assert p_value(draws, other, scale) < 1e-9


@pytest.mark.parametrize(("law", "scale_bits"), LAWS)
def test_neighbouring_coordinates_and_steps_are_uncorrelated(key, law, scale_bits):
    first, second = (
        DRAWS[law](key, scale_bits=scale_bits, step=step, first_index=0, count=1 << 17) for step in (0, 1)
    )
    for left, right in ((first, second), (first[:-1], first[1:]), (first[:-8], first[8:])):
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / np.sqrt(left.size)


# The scale.


@pytest.mark.parametrize(
    ("noise_multiplier", "law", "order", "scale_bits"),
    [
        (0.5, "laplace", 2, 30),
        (1000.0, "laplace", 2, 30),
        (0.499, "laplace", 2, 20),
        (2.0**-11, "laplace", 2, 20),
        (0.001, "laplace", 2, 20),
        (2.0**-11 * 0.999, "laplace", 2, 10),
        (2.0**-21, "laplace", 2, 10),
        (2.0**-10, "laplace", 1, 30),
        (2.0**-10 * 0.999, "laplace", 1, 20),
        (2.0**-30, "laplace", 1, 10),
        (0.5, "gaussian", 2, 20),
        (2.0**20, "gaussian", 2, 20),
        (2.0**-12, "gaussian", 2, 10),
    ],
)
def test_the_finest_lattice_is_chosen(noise_multiplier, law, order, scale_bits):
    chosen = LatticeScale.for_noise_multiplier(noise_multiplier, law=law, order=order)
    assert chosen.scale_bits == scale_bits
    assert chosen.sensitivity == Fraction(2**scale_bits) // Fraction(noise_multiplier)
    # Rounding goes one way: never less noise than was asked for.
    assert chosen.inverse_noise_multiplier <= 1 / Fraction(noise_multiplier)


@pytest.mark.parametrize(
    ("noise_multiplier", "law", "order"),
    [
        (2.0**-21 * 0.999, "laplace", 2),
        (2.0**30 * 1.001, "laplace", 2),
        (2.0**-30 * 0.999, "laplace", 1),
        (2.0**20 * 1.001, "gaussian", 2),
        (0.0, "laplace", 2),
        (-1.0, "laplace", 2),
        (float("nan"), "laplace", 2),
        (float("inf"), "gaussian", 2),
    ],
)
def test_a_multiplier_that_no_lattice_carries_is_refused(noise_multiplier, law, order):
    with pytest.raises(PrivacyError, match=f"^noise_multiplier is {noise_multiplier}; must be"):
        LatticeScale.for_noise_multiplier(noise_multiplier, law=law, order=order)


def test_a_law_or_norm_that_does_not_exist_or_go_together_is_refused():
    with pytest.raises(PrivacyError, match="law is 'cauchy'; must be laplace or gaussian"):
        LatticeScale.for_noise_multiplier(1.0, law="cauchy")
    with pytest.raises(PrivacyError, match="order is 3; must be 1 or 2"):
        LatticeScale.for_noise_multiplier(1.0, law="laplace", order=3)
    with pytest.raises(PrivacyError, match="order is 1; must be 2 where the law is gaussian"):
        LatticeScale.for_noise_multiplier(1.0, law="gaussian", order=1)


@pytest.mark.parametrize(
    ("scale_bits", "sensitivity"), [(15, 1), (20, 0), (20, -3), (20, (1 << 40) + 1), (20, 1.5)]
)
def test_a_lattice_out_of_range_is_refused(scale_bits, sensitivity):
    with pytest.raises(PrivacyError, match=r"^lattice \w+ is"):
        LatticeScale(scale_bits, sensitivity)


def test_truncation_loss():
    scale = LatticeScale(30, 1_000_000)
    assert scale.truncation_loss(1_000_000) == pytest.approx(1e-3)
    assert scale.truncation_loss(1_000, order=1) == pytest.approx(1e-3)


def test_a_wiped_key_draws_nothing():
    wiped = KeystreamKey.fresh()
    wiped.wipe()
    with pytest.raises(PrivacyError, match="wiped"):
        laplace_draws(wiped, scale_bits=20, step=0, first_index=0, count=1)
