"""ChaCha20 keystream words: the only source of randomness for noise, sampling and private thresholds.

The cipher is that of RFC 8439 (section 2.4): a 256-bit key, a 96-bit nonce and a 32-bit block counter from 0.
A block is 64 bytes, read as sixteen little-endian 32-bit words. The nonce says what a word is for, so that no
two purposes ever share one:

| byte | 0 | 1 | 2 | 3 | 4-7 | 8-11 |
| --- | --- | --- | --- | --- | --- | --- |
| holds | domain | attempt | digit | 0 | segment, little-endian | step, little-endian |

The key belongs to one process and one budget reservation. It is never stored, sent, logged, pickled
or copied.
"""

import os
import struct
import weakref
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType
from typing import Final, NoReturn, Self

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from adpfl.errors import KeystreamExhaustedError, PrivacyError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
WORDS_PER_BLOCK: Final = 16
BLOCK_BYTES: Final = 64
MAX_BLOCKS: Final = 1 << 32
"""Blocks of one nonce: the counter has 32 bits (RFC 8439, section 2.3)."""

REFINEMENT: Final = 0x80
"""Set in the domain byte for the stream that settles ties of the domain's own draws."""

Words = npt.NDArray[np.uint32]


class Domain(IntEnum):
    """What a stream of words is for: byte 0 of the nonce."""

    LAPLACE = 1
    GAUSSIAN_PROPOSAL = 2
    GAUSSIAN_ACCEPTANCE = 3
    SAMPLING = 4
    THRESHOLD = 5


_live_keys: "weakref.WeakSet[KeystreamKey]" = weakref.WeakSet()


class KeystreamKey:
    """Thirty-two secret bytes with one owner: this object, in this process.

    The bytes are zeroed by `wipe`, on leaving a `with` block, when the object dies, and in every forked
    child. The object shows nothing of them, and refuses to be copied or pickled. What cannot be reached from
    Python, the bytes object that the operating system's generator filled, is freed at once and not zeroed.
    """

    __slots__ = ("__weakref__", "_erasers", "_last_released_step", "_material")

    def __init__(self, material: bytes | bytearray) -> None:
        if len(material) != KEY_BYTES:
            raise PrivacyError(f"keystream key has {len(material)} bytes; must have {KEY_BYTES}")
        self._material: bytearray | None = bytearray(material)
        self._last_released_step = -1
        self._erasers: list[Callable[[], object]] = []
        _live_keys.add(self)

    @classmethod
    def fresh(cls) -> Self:
        """A new key from the operating system's generator: the only kind that production may use."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def from_bytes(cls, material: bytes | bytearray) -> Self:
        """A key with known bytes, for published test vectors and reproducible tests.

        Args:
            material: exactly 32 bytes; copied.

        Raises:
            PrivacyError: `material` has another length.
        """
        return cls(material)

    @property
    def is_wiped(self) -> bool:
        """Whether the bytes are gone; a wiped key makes no more words."""
        return self._material is None

    def wipe(self) -> None:
        """Zero the bytes in place, and every registered copy. Safe to call more than once."""
        if self._material is not None:
            self._material[:] = bytes(KEY_BYTES)
            self._material = None
        while self._erasers:
            self._erasers.pop()()

    def when_wiped(self, erase: Callable[[], object]) -> None:
        """Register how a copy that outlives its call, such as one on a device, is zeroed with the key.

        Not called in a forked child, which cannot reach a device's memory.

        Raises:
            PrivacyError: the key was wiped.
        """
        self.require_alive()
        self._erasers.append(erase)

    def claim_step(self, step: int) -> None:
        """Mark `step` as released under this key: each step serves one release, in rising order.

        Two releases that share their noise reveal the difference of their sums exactly.

        Raises:
            PrivacyError: the key has released this step or a later one, or was wiped; nothing is changed.
            KeystreamExhaustedError: the step is negative or has more than 32 bits.
        """
        self.require_alive()
        if step >> 32:
            raise KeystreamExhaustedError(f"keystream step is {step}; must be 0 to 2^32 - 1")
        if step <= self._last_released_step:
            last = self._last_released_step
            raise PrivacyError(f"step is {step}; must be above {last}, the last step released under this key")
        self._last_released_step = step

    def blocks(self, nonce_bytes: bytes, first_block: int, block_count: int) -> Words:
        """Keystream blocks as words; `words` is the call with checked limits.

        Returns:
            uint32 array of shape (16 * block_count,).
        """
        counter = struct.pack("<I", first_block)
        cipher = Cipher(algorithms.ChaCha20(self._live_material(), counter + nonce_bytes), mode=None)
        out = bytearray(block_count * BLOCK_BYTES)
        cipher.encryptor().update_into(bytes(len(out)), out)
        return np.frombuffer(out, dtype="<u4")

    def copy_into(self, destination: memoryview) -> None:
        """Copy the bytes to where a kernel reads them; who asks for it zeroes them after use.

        Args:
            destination: writable, of bytes, exactly 32 long.

        Raises:
            PrivacyError: the key was wiped.
        """
        destination[:] = self._live_material()

    def require_alive(self) -> None:
        """Refuse a wiped key (`PrivacyError`)."""
        self._live_material()

    def _live_material(self) -> bytearray:
        if self._material is None:
            raise PrivacyError("keystream key was wiped; a release needs a fresh key")
        return self._material

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __del__(self) -> None:
        if hasattr(self, "_material"):
            self.wipe()

    def __repr__(self) -> str:
        return f"<KeystreamKey {'wiped' if self.is_wiped else 'redacted'}>"

    def __copy__(self) -> NoReturn:
        raise TypeError("a KeystreamKey cannot be copied: it has one owner")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a KeystreamKey cannot be copied: it has one owner")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a KeystreamKey cannot be pickled: it never leaves its process")


def _wipe_live_keys() -> None:
    """In a forked child: the parent goes on using these keys, and a child would draw the same noise."""
    for key in list(_live_keys):
        key._erasers.clear()  # noqa: SLF001 - the parent's copies are the parent's
        key.wipe()


os.register_at_fork(after_in_child=_wipe_live_keys)


def nonce(
    domain: Domain, *, step: int, segment: int = 0, attempt: int = 0, digit: int = 0, refinement: bool = False
) -> bytes:
    """The 12-byte nonce of one stream (layout in the module's docstring).

    Args:
        domain: what the stream is for.
        step: the step within the key's life; 32 bits.
        segment: the coordinate's index divided by 2^26; 32 bits.
        attempt: the attempt of a rejection sampler; 8 bits.
        digit: the digit that a refinement stream settles; 8 bits.
        refinement: whether this is the domain's refinement stream.

    Raises:
        KeystreamExhaustedError: a field is negative or too large for its place.
    """
    fields = (("step", step, 32), ("segment", segment, 32), ("attempt", attempt, 8), ("digit", digit, 8))
    for name, value, bits in fields:
        if not 0 <= value < 1 << bits:
            raise KeystreamExhaustedError(f"keystream {name} is {value}; must be 0 to 2^{bits} - 1")
    head = Domain(domain) | (REFINEMENT if refinement else 0)
    return struct.pack("<BBBBII", head, attempt, digit, 0, segment, step)


def words(key: KeystreamKey, nonce_bytes: bytes, first_word: int, count: int) -> Words:
    """Words `first_word` to `first_word + count - 1` of one stream, counted from word 0 of block 0.

    Args:
        key: the secret key.
        nonce_bytes: 12 bytes, as `nonce` makes them.
        first_word: index of the first word; need not start a block.
        count: number of words.

    Returns:
        uint32 array of shape (count,).

    Raises:
        KeystreamExhaustedError: the range is negative or passes the 2^32 blocks of one nonce.
        PrivacyError: the key was wiped, or the nonce has another length.
    """
    if len(nonce_bytes) != NONCE_BYTES:
        raise PrivacyError(f"keystream nonce has {len(nonce_bytes)} bytes; must have {NONCE_BYTES}")
    end = first_word + count
    if first_word < 0 or count < 0 or end > MAX_BLOCKS * WORDS_PER_BLOCK:
        raise KeystreamExhaustedError(f"keystream words {first_word} to {end} are wanted; must be 0 to 2^36")
    first_block, skipped = divmod(first_word, WORDS_PER_BLOCK)
    block_count = -(-(skipped + count) // WORDS_PER_BLOCK) if count else 0
    return key.blocks(nonce_bytes, first_block, block_count)[skipped : skipped + count]
