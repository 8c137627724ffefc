"""Exact noise on the half-integer lattice, and the scale that ties gradients to it.

All noise is integer. A draw is an odd integer 2y, y = K + 1/2 with either sign, and what is released is an
exact integer sum times one public factor: no floating-point grid can show where the noise ended and the
gradient began (Mironov 2012; Haney et al. 2022; Casacuberta et al. 2022).

Coordinates of all tensors share one index space j. Coordinate j is number i = j mod 2^26 of segment j >> 26,
and owns the words W*i .. W*i + W - 1 of the segment's streams, so a draw depends on (key, step, j) alone and
never on how the work was cut into pieces. W is 2 for the Laplace law at s = 10 and 4 for every other stream.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import isfinite, sqrt
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt

from adpfl.errors import KeystreamExhaustedError, PrivacyError
from adpfl.kernels.digit_tables import ACCEPTANCE_WIDTHS, DIGIT_BITS, acceptance_tables, digit_table
from adpfl.kernels.keystream import Domain, KeystreamKey, Words, nonce, words

Law = Literal["laplace", "gaussian"]
NormOrder = Literal[1, 2]
Draws = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]

SCALE_BITS: Final = {"laplace": (30, 20, 10), "gaussian": (20, 10)}
"""The scales s of each law, finest first."""

MAX_SENSITIVITY: Final = {1: 1 << 40, 2: 1 << 31}
"""Largest A by the order of the clip norm: keeps int64 sums far from overflow."""

SEGMENT_BITS: Final = 26
MAX_COORDINATES: Final = 1 << (32 + SEGMENT_BITS)
"""Coordinates of one step: the nonce's segment has 32 bits."""

_PIECE: Final = 1 << 16  # coordinates drawn at a time: a mebibyte of keystream stays in cache
_SPARSE_SPAN: Final = 1024  # coordinates' words that cost as much as one more call of the cipher


@dataclass(frozen=True)
class LatticeScale:
    """How a release meets the lattice: a clipped unit has norm A at most, the noise scale S = 2^s.

    One lattice unit is C/A. The noise multiplier that is really drawn is 2^s / A.

    Attributes:
        scale_bits: s; 10, 20 or 30.
        sensitivity: A, the clip norm in lattice units; at least 1.
    """

    scale_bits: int
    sensitivity: int

    def __post_init__(self) -> None:
        if self.scale_bits not in SCALE_BITS["laplace"]:
            raise PrivacyError(f"lattice scale_bits is {self.scale_bits!r}; must be 10, 20 or 30")
        if not isinstance(self.sensitivity, int) or not 1 <= self.sensitivity <= MAX_SENSITIVITY[1]:
            raise PrivacyError(f"lattice sensitivity is {self.sensitivity!r}; must be an integer, 1 to 2^40")

    @classmethod
    def for_noise_multiplier(cls, noise_multiplier: float, *, law: Law, order: NormOrder = 2) -> Self:
        """The finest lattice that carries noise of scale `noise_multiplier` * C.

        A = floor(2^s / z) in exact arithmetic, so the drawn noise is never below the one asked for.

        Args:
            noise_multiplier: z; b/C for the Laplace law, sigma/C for the Gaussian.
            law: the noise; the Gaussian has s <= 20 only.
            order: the norm that is clipped, 2 or 1; the Gaussian needs 2.

        Raises:
            PrivacyError: z is not a positive finite number, no lattice carries it, or the law does not go
                with the norm.
        """
        check_law(law)
        if order not in MAX_SENSITIVITY:
            raise PrivacyError(f"order is {order!r}; must be 1 or 2")
        if law == "gaussian" and order != 2:
            raise PrivacyError(f"order is {order}; must be 2 where the law is gaussian")
        z = float(noise_multiplier)
        if not isfinite(z) or z <= 0:
            raise PrivacyError(f"noise_multiplier is {z}; must be a finite number above 0")
        scales, limit = SCALE_BITS[law], MAX_SENSITIVITY[order]
        for scale_bits in scales:
            sensitivity = (1 << scale_bits) // Fraction(z)
            if 1 <= sensitivity <= limit:
                return cls(scale_bits, sensitivity)
        smallest = float(Fraction(1 << scales[-1], limit))
        raise PrivacyError(
            f"noise_multiplier is {z}; must be {smallest:g} to {float(1 << scales[0]):g} "
            f"for {law} noise on an L{order} clip"
        )

    @property
    def inverse_noise_multiplier(self) -> Fraction:
        """T = A / 2^s exactly: C/b, or C/sigma, of what is really drawn. Accounting uses this alone."""
        return Fraction(self.sensitivity, 1 << self.scale_bits)

    def truncation_loss(self, dimension: int, *, order: NormOrder = 2) -> float:
        """Largest share of a unit of norm C or more that truncation can lose.

        sqrt(d)/A for an L2 clip and d/A for an L1 clip; C/norm times that for a unit of a smaller norm.
        """
        length = sqrt(dimension) if order == 2 else float(dimension)
        return length / self.sensitivity


@dataclass(frozen=True)
class _Source:
    """The streams of one domain, step, segment and attempt."""

    key: KeystreamKey
    domain: Domain
    step: int
    segment: int
    attempt: int = 0

    def words(self, indices: Indices, width: int) -> Words:
        """The words of rising coordinates `indices` (n,) of the segment: uint32 (n, width)."""
        stream = nonce(self.domain, step=self.step, segment=self.segment, attempt=self.attempt)
        first, span = int(indices[0]), int(indices[-1] - indices[0]) + 1
        if span > _SPARSE_SPAN * indices.size:
            return np.stack([words(self.key, stream, width * index, width) for index in indices.tolist()])
        block = words(self.key, stream, width * first, width * span).reshape(span, width)
        return block if span == indices.size else block[indices - first]

    def tail(self, indices: Indices, digit: int, position: int) -> int:
        """The 95 bits V of coordinate `indices[position]` for the word `digit` that tied."""
        stream = nonce(
            self.domain,
            step=self.step,
            segment=self.segment,
            attempt=self.attempt,
            digit=digit,
            refinement=True,
        )
        high, middle, low = (int(word) for word in words(self.key, stream, 4 * int(indices[position]), 3))
        return (high << 64 | middle << 32 | low) >> 1


def laplace_draws(key: KeystreamKey, *, scale_bits: int, step: int, first_index: int, count: int) -> Draws:
    """Laplace noise of scale 2^scale_bits on the half-integer lattice: P(y) proportional to exp(-|y| / 2^s).

    Total variation from that law is at most 1e-34 a draw. The number of words read is fixed.

    Args:
        key: the secret key.
        scale_bits: s; 10, 20 or 30.
        step: the step within the key's life.
        first_index: the first coordinate j of the global index space.
        count: how many coordinates.

    Returns:
        int64 (count,): the odd integers 2y.

    Raises:
        PrivacyError: the scale is not one of the law's, or the key was wiped.
        KeystreamExhaustedError: a coordinate is negative or beyond 2^58, or the step beyond 32 bits.
    """
    check_scale("laplace", scale_bits)
    out = np.empty(_checked_count(first_index, count), dtype=np.int64)
    for segment, indices, place in _pieces(first_index, count):
        out[place] = _laplace_at(_Source(key, Domain.LAPLACE, step, segment), indices, scale_bits)
    return out


def gaussian_draws(key: KeystreamKey, *, scale_bits: int, step: int, first_index: int, count: int) -> Draws:
    """Gaussian noise of deviation 2^scale_bits: P(y) proportional to exp(-y^2 / 2^(2s+1)), y half-integer.

    Rejection from the Laplace law of scale S = 2^s (Canonne, Kamath, Steinke 2020, Algorithm 3, t = S): a
    proposal |y| = K + 1/2 passes with probability exp(-(|y| - S)^2 / (2 S^2)), which is
    exp(-(2K + 1 - 2S)^2 / 2^(2s+3)). About 0.76 of them pass; a coordinate that fails tries again with the
    next attempt number in its nonce.

    Args:
        key: the secret key.
        scale_bits: s; 10 or 20.
        step: the step within the key's life.
        first_index: the first coordinate j of the global index space.
        count: how many coordinates.

    Returns:
        int64 (count,): the odd integers 2y.

    Raises:
        PrivacyError: the scale is not one of the law's, or the key was wiped.
        KeystreamExhaustedError: as `laplace_draws`; or a coordinate failed 256 times (probability 1e-158).
    """
    check_scale("gaussian", scale_bits)
    out = np.empty(_checked_count(first_index, count), dtype=np.int64)
    for segment, indices, place in _pieces(first_index, count):
        out[place] = _gaussian_at(key, step, segment, indices, scale_bits)
    return out


def threshold_draw(key: KeystreamKey, *, scale_bits: int, step: int) -> int:
    """One Gaussian draw of deviation 2^scale_bits for a private threshold, from a domain of its own.

    The law and the algorithm of `gaussian_draws`. The domain has two streams, told apart by the nonce's
    segment: 0 proposes, 1 accepts.

    Args:
        key: the secret key.
        scale_bits: s; 10 or 20.
        step: the step within the key's life; one draw each.

    Returns:
        The odd integer 2y.

    Raises:
        PrivacyError: the scale is not one of the law's, or the key was wiped.
        KeystreamExhaustedError: as `gaussian_draws`.
    """
    check_scale("gaussian", scale_bits)
    first = np.zeros(1, dtype=np.int64)
    attempt = 0
    while True:
        proposal = _laplace_at(_Source(key, Domain.THRESHOLD, step, 0, attempt), first, scale_bits)
        if _accepted(_Source(key, Domain.THRESHOLD, step, 1, attempt), first, proposal, scale_bits)[0]:
            return int(proposal[0])
        attempt += 1


def check_law(law: str) -> None:
    """Refuse a law of another name (`PrivacyError`)."""
    if law not in SCALE_BITS:
        raise PrivacyError(f"law is {law!r}; must be laplace or gaussian")


def check_scale(law: Law, scale_bits: int) -> None:
    """Refuse a scale at which the law is not sampled (`PrivacyError`)."""
    check_law(law)
    if scale_bits not in SCALE_BITS[law]:
        allowed = ", ".join(map(str, sorted(SCALE_BITS[law])))
        raise PrivacyError(f"scale_bits is {scale_bits!r}; must be one of {allowed} for {law} noise")


def _laplace_at(source: _Source, indices: Indices, scale_bits: int) -> Draws:
    """Draws of the coordinates `indices` from one source."""
    block = source.words(indices, 2 if source.domain is Domain.LAPLACE and scale_bits == 10 else 4)
    magnitude = np.zeros(indices.size, dtype=np.int64)
    for position in range(scale_bits // DIGIT_BITS + 1):
        table = digit_table(scale_bits, position)
        digits = table.digits(block[:, position] >> np.uint32(1), partial(source.tail, indices, position))
        magnitude += digits.astype(np.int64) << DIGIT_BITS * position
    odd = 2 * magnitude + 1
    return np.where(block[:, 0] & np.uint32(1), -odd, odd)


def _gaussian_at(key: KeystreamKey, step: int, segment: int, indices: Indices, scale_bits: int) -> Draws:
    """Draws of the coordinates `indices` of one segment, attempt after attempt."""
    out = np.empty(indices.size, dtype=np.int64)
    waiting = np.arange(indices.size)
    attempt = 0
    while waiting.size:
        here = indices[waiting]
        proposals = _laplace_at(
            _Source(key, Domain.GAUSSIAN_PROPOSAL, step, segment, attempt), here, scale_bits
        )
        accepted = _accepted(
            _Source(key, Domain.GAUSSIAN_ACCEPTANCE, step, segment, attempt), here, proposals, scale_bits
        )
        out[waiting[accepted]] = proposals[accepted]
        waiting = waiting[~accepted]
        attempt += 1
    return out


def _accepted(source: _Source, indices: Indices, proposals: Draws, scale_bits: int) -> npt.NDArray[np.bool_]:
    """Whether each proposal 2y passes, with one word for each piece of N = (|2y| - 2S)^2."""
    block = source.words(indices, 4)
    remaining = np.square(np.abs(proposals) - (2 << scale_bits))
    accepted = np.ones(indices.size, dtype=np.bool_)
    tables = acceptance_tables(scale_bits)
    for digit, (width, table) in enumerate(zip(ACCEPTANCE_WIDTHS[scale_bits], tables, strict=True)):
        pieces = remaining & ((1 << width) - 1)
        accepted &= table.accepts(
            pieces, block[:, digit] >> np.uint32(1), partial(source.tail, indices, digit)
        )
        remaining >>= width
    accepted &= remaining == 0
    return accepted


def _pieces(first_index: int, count: int) -> Iterator[tuple[int, Indices, slice]]:
    """Cut coordinates into pieces within one segment: (segment, indices within it, place in the output)."""
    end = first_index + count
    start = first_index
    while start < end:
        segment, index = divmod(start, 1 << SEGMENT_BITS)
        size = min(_PIECE, end - start, (1 << SEGMENT_BITS) - index)
        yield segment, np.arange(index, index + size), slice(start - first_index, start - first_index + size)
        start += size


def _checked_count(first_index: int, count: int) -> int:
    if first_index < 0 or count < 0 or first_index + count > MAX_COORDINATES:
        raise KeystreamExhaustedError(
            f"coordinates {first_index} to {first_index + count} were asked for; must lie within 0 to 2^58"
        )
    return count
