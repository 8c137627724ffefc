"""What a call needs beside its gradients, on their device: tables, ranks and the keystream.

A copy from the host makes the host wait for the device. So everything is copied once and kept: tables for a
law and scale, ranks for a percentile, and a key for as long as it lives. A later call only queues work.
"""

import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

import torch
from torch import Tensor

from adpfl.kernels import operators
from adpfl.kernels.keystream import KEY_BYTES, KeystreamKey
from adpfl.kernels.lattice import Law
from adpfl.kernels.noise_tables import noise_tables

_SMALLEST_RANKS: Final = 1024
_resident_keys: "weakref.WeakKeyDictionary[KeystreamKey, dict[torch.device, Tensor]]" = (
    weakref.WeakKeyDictionary()
)


def tables_on(device: torch.device, law: Law, scale_bits: int) -> Tensor:
    """`noise_tables` of a law and scale. Shared, not to be written."""
    return noise_tables(law, scale_bits) if device.type == "cpu" else _tables(device, law, scale_bits)


def ranks_on(device: torch.device, percentile: float, most: int) -> Tensor:
    """`operators.percentile_ranks` for up to `most` norms. Shared, not to be written.

    A rank does not depend on `most`, so one table serves every batch and window below the next power of two.
    """
    capacity = max(_SMALLEST_RANKS, 1 << most.bit_length())
    return _ranks(device, percentile, capacity).narrow(0, 0, most + 1)


@contextmanager
def keystream_on(device: torch.device, key: KeystreamKey, step: int) -> Iterator[Tensor]:
    """The operators' keystream tensor for one release; zeroed afterwards.

    On a device it is a copy, made there, of the key that stays there until it is wiped. Both the copy and its
    zeroing are queued behind one another with the release.

    Raises:
        PrivacyError: the key was wiped.
    """
    key.require_alive()
    state = _uploaded(device, key) if device.type == "cpu" else _resident(device, key).clone()
    try:
        state.narrow(0, operators.STEP_WORD, 1).fill_(step)
        yield state
    finally:
        state.zero_()


@cache
def _tables(device: torch.device, law: Law, scale_bits: int) -> Tensor:
    return noise_tables(law, scale_bits).to(device)


@cache
def _ranks(device: torch.device, percentile: float, capacity: int) -> Tensor:
    return operators.percentile_ranks(percentile, capacity).to(device)


def _resident(device: torch.device, key: KeystreamKey) -> Tensor:
    places = _resident_keys.setdefault(key, {})
    if device not in places:
        places[device] = _uploaded(device, key)
        key.when_wiped(places[device].zero_)
    return places[device]


def _uploaded(device: torch.device, key: KeystreamKey) -> Tensor:
    """The key with step 0; nothing of it stays on the host."""
    material = bytearray(struct.calcsize(f"<{operators.KEYSTREAM_WORDS}q"))
    try:
        key.copy_into(memoryview(material)[:KEY_BYTES])
        return torch.frombuffer(material, dtype=torch.int64).to(device, copy=True)
    finally:
        material[:] = bytes(len(material))
