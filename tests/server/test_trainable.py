"""A run that trains some tensors, through a real daemon: what it takes, and what never changes."""

import grpc
import numpy as np
import pytest

from adpfl.errors import ConfigError
from adpfl.wire.chunks import FLOAT32

SITES = ("hospital1", "hospital2", "hospital3")
TRAINED = ("conv.bias", "scale")


def arrays(caller, digest):
    manifest, chunks = caller.fetch(digest)
    flat = np.frombuffer(b"".join(chunks[name] for name in manifest.chunk_digests), FLOAT32)
    pieces = np.split(flat, np.cumsum([tensor.elements for tensor in manifest.tensors])[:-1])
    return {
        tensor.name: piece.reshape(tensor.shape)
        for tensor, piece in zip(manifest.tensors, pieces, strict=True)
    }


@pytest.fixture
def callers(consortium):
    consortium.start(consortium.plan(network={"trainable": list(TRAINED)}))
    found = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(found):
        caller.enter(str(number))
    return found


def part_of(consortium, seed, names=TRAINED):
    return {name: array for name, array in consortium.weights(seed).items() if name in names}


def test_updates_of_the_trained_tensors_move_these_alone(consortium, callers):
    base = callers[0].next_task().base_digest
    before = arrays(callers[0], base)
    updates = [part_of(consortium, seed) for seed in (1, 2, 3)]
    for caller, update in zip(callers, updates, strict=True):
        caller.send(1, base, consortium.update_of(update))
    task = callers[0].next_task(10)
    assert task.round == 2
    after = arrays(callers[0], task.base_digest)
    assert set(after) == set(before)
    np.testing.assert_array_equal(after["conv.weight"], before["conv.weight"])
    for name in TRAINED:
        expected = before[name] + np.mean([update[name] for update in updates], axis=0)
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=1e-6)


WHOLE = ("conv.weight", "conv.bias", "scale")


@pytest.mark.parametrize("names", [WHOLE, ("scale",), ("conv.weight", "scale")])
def test_an_update_of_other_tensors_is_refused_before_a_byte_is_sent(consortium, callers, names):
    base = callers[0].next_task().base_digest
    with pytest.raises(grpc.RpcError) as error:
        callers[0].offer(1, base, consortium.update_of(part_of(consortium, 1, names)))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the model has" in error.value.details()


def test_what_fits_no_tensor_stops_the_start(consortium):
    with pytest.raises(ConfigError, match=r"network\.trainable names 'decoder', which fits no tensor"):
        consortium.start(consortium.plan(network={"trainable": ["decoder"]}))
