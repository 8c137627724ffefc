import copy
import os
import pickle
import weakref

import numpy as np
import pytest
import torch

from adpfl.errors import KeystreamExhaustedError, PrivacyError
from adpfl.kernels import keystream, placement
from adpfl.kernels.keystream import Domain, KeystreamKey, nonce, words

# RFC 8439, section 2.3.2: key 00..1f, block counter 1.
RFC_NONCE = bytes.fromhex("000000090000004a00000000")
RFC_BLOCK = bytes.fromhex(
    "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
    "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
)


def test_words_are_those_of_the_rfc(key):
    block = words(key, RFC_NONCE, first_word=16, count=16)
    assert block.dtype == np.uint32
    assert block.astype("<u4").tobytes() == RFC_BLOCK


@pytest.mark.parametrize(("first", "count"), [(0, 0), (0, 1), (15, 2), (16, 16), (17, 31), (5, 40)])
def test_any_range_is_a_cut_of_the_stream(key, first, count):
    stream = nonce(Domain.SAMPLING, step=3)
    whole = words(key, stream, 0, 64)
    assert np.array_equal(words(key, stream, first, count), whole[first : first + count])


def test_the_last_block_of_a_nonce_is_served_and_the_next_refused(key):
    stream = nonce(Domain.LAPLACE, step=0)
    last = (1 << 36) - 16
    end = words(key, stream, last, 16)
    assert end.size == 16
    assert not np.array_equal(end, words(key, stream, 0, 16))
    with pytest.raises(KeystreamExhaustedError, match=r"must be 0 to 2\^36"):
        words(key, stream, last, 17)
    with pytest.raises(KeystreamExhaustedError):
        words(key, stream, -1, 1)
    with pytest.raises(KeystreamExhaustedError):
        words(key, stream, 0, -1)


def test_nonce_layout():
    made = nonce(
        Domain.GAUSSIAN_ACCEPTANCE, step=0x01020304, segment=0x0A0B0C0D, attempt=7, digit=2, refinement=True
    )
    assert made == bytes([0x83, 7, 2, 0, 0x0D, 0x0C, 0x0B, 0x0A, 0x04, 0x03, 0x02, 0x01])
    assert nonce(Domain.LAPLACE, step=0) == bytes([1]) + bytes(11)


@pytest.mark.parametrize(
    ("field", "value"),
    [("step", 1 << 32), ("step", -1), ("segment", 1 << 32), ("attempt", 256), ("digit", 256), ("digit", -1)],
)
def test_nonce_refuses_a_field_that_does_not_fit(field, value):
    with pytest.raises(KeystreamExhaustedError, match=rf"{field} is {value}; must be"):
        nonce(Domain.LAPLACE, **{"step": 0, field: value})


def test_domains_and_steps_give_unrelated_words(key):
    streams = [nonce(domain, step=step) for domain in Domain for step in (0, 1)]
    blocks = {words(key, stream, 0, 16).tobytes() for stream in streams}
    assert len(blocks) == len(streams)


def test_a_nonce_of_another_length_is_refused(key):
    with pytest.raises(PrivacyError, match="nonce has 8 bytes; must have 12"):
        words(key, bytes(8), 0, 1)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(size):
    with pytest.raises(PrivacyError, match=f"key has {size} bytes; must have 32"):
        KeystreamKey.from_bytes(bytes(size))


def test_fresh_keys_differ():
    stream = nonce(Domain.LAPLACE, step=0)
    assert (
        words(KeystreamKey.fresh(), stream, 0, 4).tobytes()
        != words(KeystreamKey.fresh(), stream, 0, 4).tobytes()
    )


def test_the_caller_s_bytes_are_copied(key):
    material = bytearray(range(32))
    copied = KeystreamKey.from_bytes(material)
    material[:] = bytes(32)
    stream = nonce(Domain.LAPLACE, step=0)
    assert np.array_equal(words(copied, stream, 0, 16), words(key, stream, 0, 16))


def test_wipe_zeroes_the_bytes_and_ends_the_key():
    key = KeystreamKey.fresh()
    material = key._material
    assert any(material)
    key.wipe()
    key.wipe()
    assert material == bytes(32)
    assert key.is_wiped
    with pytest.raises(PrivacyError, match="wiped"):
        words(key, nonce(Domain.LAPLACE, step=0), 0, 1)
    with pytest.raises(PrivacyError, match="wiped"):
        key.claim_step(0)


def test_leaving_a_with_block_or_dying_wipes():
    with KeystreamKey.fresh() as key:
        inside = key._material
    assert inside == bytes(32)
    dying = KeystreamKey.fresh()
    material, watch = dying._material, weakref.ref(dying)
    del dying
    assert watch() is None
    assert material == bytes(32)


def test_a_key_shows_nothing(key):
    for shown in (repr(key), str(key), f"{key}", f"{key!r}", f"{[key]}"):
        assert "redacted" in shown
        assert "0102" not in shown
        assert "x01" not in shown
    assert not hasattr(key, "__dict__")
    key.wipe()
    assert repr(key) == "<KeystreamKey wiped>"


@pytest.mark.parametrize(
    "take",
    [
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
        lambda key: pickle.dumps(key, protocol=0),
        lambda key: key.__reduce_ex__(4),
    ],
)
def test_a_key_is_neither_copied_nor_pickled(key, take):
    with pytest.raises(TypeError, match="KeystreamKey cannot be"):
        take(key)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_holds_no_key(key):
    material = key._material
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing but a byte down the pipe may happen here: the child shares pytest's state.
        os.write(writer, bytes([key.is_wiped and not any(material)]))
        os._exit(0)
    os.close(writer)
    answer = os.read(reader, 1)
    os.close(reader)
    os.waitpid(child, 0)
    assert answer == b"\x01"
    assert not key.is_wiped
    assert any(material)


def test_a_step_is_claimed_once_and_in_order(key):
    key.claim_step(0)
    key.claim_step(4)
    for step in (4, 3, 0):
        with pytest.raises(PrivacyError, match=f"step is {step}; must be above 4"):
            key.claim_step(step)
    for step in (-1, 1 << 32):
        with pytest.raises(KeystreamExhaustedError, match=f"step is {step}"):
            key.claim_step(step)
    key.claim_step((1 << 32) - 1)


def test_import_needs_no_torch():
    assert not hasattr(keystream, "torch")


def test_a_kernel_gets_a_copy_of_the_bytes(key):
    place = bytearray(40)
    key.copy_into(memoryview(place)[4:36])
    assert bytes(place) == bytes(4) + bytes(range(32)) + bytes(4)
    with pytest.raises(ValueError, match="different structures"):
        key.copy_into(memoryview(place))
    key.wipe()
    assert bytes(place[4:36]) == bytes(range(32))
    with pytest.raises(PrivacyError, match="key was wiped"):
        key.copy_into(memoryview(place)[4:36])


def test_a_release_leaves_no_copy_of_the_key(key):
    seen = []
    with placement.keystream_on(torch.device("cpu"), key, 7) as state:
        seen.append(state)
        assert state.tolist()[4] == 7
        assert state[:4].numpy().tobytes() == bytes(range(32))
    assert not seen[0].any()
