"""The C allocator's settings for a process that moves megabytes.

By default glibc takes each large block fresh from the kernel and gives it back at once: every chunk would
then cost page faults, several times over, and each thread would keep a heap of its own. Two heaps that keep
what a few chunks need are faster and smaller. Does nothing where there is no glibc.
"""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

ARENAS: Final = 2
FROM_HEAP_BYTES: Final = 32 * 2**20
"""Blocks below this come from a heap; glibc allows no more."""
KEPT_BYTES: Final = 32 * 2**20
"""Free memory at the end of a heap that is not given back."""


def settle_allocator() -> None:
    """Set this process's allocator; call it before threads start."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_ARENA_MAX, ARENAS)
    mallopt(_M_MMAP_THRESHOLD, FROM_HEAP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
