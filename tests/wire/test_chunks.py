"""Manifests, chunks and payload files: identity of content, limits, resumption."""

import hashlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adpfl.errors import IntegrityError, ModelMismatchError, ProtocolError
from adpfl.wire import limits
from adpfl.wire.chunks import (
    Manifest,
    TensorSpec,
    check_chunk,
    iter_chunks,
    manifest_of_arrays,
    read_chunk,
    sha256_hex,
    write_payload,
)

CHUNK = limits.CHUNK_SIZE_MIN


def arrays(seed=0, sizes=((300, 200), (7,), ())):
    generator = np.random.default_rng(seed)
    return {f"layer.{n}": generator.standard_normal(size).astype(np.float32) for n, size in enumerate(sizes)}


def payload_of(named):
    return b"".join(array.astype("<f4").tobytes() for array in named.values())


def test_chunks_are_the_payload_cut_at_the_chunk_size():
    named = arrays()
    chunks = list(iter_chunks(named, CHUNK))
    assert b"".join(chunks) == payload_of(named)
    assert {len(chunk) for chunk in chunks[:-1]} == {CHUNK}
    assert 0 < len(chunks[-1]) <= CHUNK


def test_the_manifest_names_every_chunk_by_its_sha256():
    named = arrays()
    manifest = manifest_of_arrays(named, chunk_size=CHUNK)
    payload = payload_of(named)
    cut = [payload[start : start + CHUNK] for start in range(0, len(payload), CHUNK)]
    assert list(manifest.chunk_digests) == [hashlib.sha256(chunk).hexdigest() for chunk in cut]
    assert manifest.payload_bytes == len(payload)
    assert [manifest.chunk_bytes(index) for index in range(len(cut))] == [len(chunk) for chunk in cut]


def test_the_digest_is_that_of_the_canonical_json_of_the_contract():
    manifest = manifest_of_arrays(
        {"b": np.zeros((2, 3), np.float32), "a": np.ones(1, np.float32)}, chunk_size=CHUNK
    )
    chunk = hashlib.sha256(b"\0" * 24 + np.float32(1).tobytes()).hexdigest()
    expected = (
        f'{{"chunk_size":{CHUNK},"chunks":["{chunk}"],'
        '"tensors":[{"dtype":"F32","name":"b","shape":[2,3]},{"dtype":"F32","name":"a","shape":[1]}]}'
    )
    assert manifest.canonical_json() == expected.encode()
    assert manifest.digest == hashlib.sha256(expected.encode()).hexdigest()


def test_a_manifest_is_read_back_only_in_canonical_form():
    manifest = manifest_of_arrays(arrays(), chunk_size=CHUNK)
    assert Manifest.from_canonical_json(manifest.canonical_json()) == manifest
    loose = json.dumps(json.loads(manifest.canonical_json()), indent=1).encode()
    for text in (loose, b"", b"[]", b'{"tensors": 3}', b"\xff"):
        with pytest.raises(IntegrityError, match="stored manifest"):
            Manifest.from_canonical_json(text)


def test_a_manifest_nested_without_end_is_refused():
    with pytest.raises(ProtocolError, match="nested too deeply"):
        Manifest.from_canonical_json(b"[" * 100_000)


def test_equal_chunks_share_one_digest():
    manifest = manifest_of_arrays({"w": np.zeros(3 * CHUNK // 4 + 5, np.float32)}, chunk_size=CHUNK)
    assert len(manifest.chunk_digests) == 4
    assert sorted(manifest.indices_of.values()) == [(0, 1, 2), (3,)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "tensors.name"),
        ({"name": "x" * 257}, "tensors.name"),
        ({"name": "wörter"}, "tensors.name"),
        ({"name": "a\nb"}, "tensors.name"),
        ({"dtype": "F16"}, "must be F32"),
        ({"shape": (1,) * 9}, "length 9"),
        ({"shape": (0,)}, "is 0"),
        ({"shape": (-1,)}, "is -1"),
    ],
)
def test_a_tensor_outside_the_limits_is_refused(changes, words):
    with pytest.raises(ProtocolError, match=words):
        TensorSpec(**({"name": "w", "shape": (2,), "dtype": "F32"} | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chunk_size": CHUNK // 2}, "chunk_size"),
        ({"chunk_size": 2 * limits.CHUNK_SIZE_MAX}, "chunk_size"),
        ({"chunk_size": CHUNK + 4}, "power of two"),
        ({"chunk_digests": ()}, "chunk_digests has length 0"),
        ({"chunk_digests": ("0" * 64, "1" * 64)}, "need 1"),
        ({"chunk_digests": ("G" * 64,)}, "SHA-256"),
        ({"tensors": ()}, "tensors has length 0"),
        ({"tensors": (TensorSpec("w", (2,)), TensorSpec("w", (2,)))}, "w twice"),
        ({"tensors": (TensorSpec("w", (2**40, 2**40)),)}, "need"),
        (
            {"tensors": tuple(TensorSpec(f"w{n}", (1,)) for n in range(limits.TENSORS_PER_OBJECT + 1))},
            "16385",
        ),
    ],
)
def test_a_manifest_outside_the_limits_is_refused(changes, words):
    good = {"tensors": (TensorSpec("w", (2,)),), "chunk_size": CHUNK, "chunk_digests": ("0" * 64,)}
    Manifest(**good)
    with pytest.raises(ProtocolError, match=words):
        Manifest(**(good | changes))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (((300, 200), (7,)), "2 tensors; the model has 3"),
        (((300, 200), (8,), ()), "layer.1"),
        (((200, 300), (7,), ()), "layer.0"),
    ],
)
def test_other_tensors_than_the_base_models_are_named(other, words):
    base = manifest_of_arrays(arrays(), chunk_size=CHUNK)
    with pytest.raises(ModelMismatchError, match=words):
        manifest_of_arrays(arrays(sizes=other), chunk_size=CHUNK).check_same_tensors(base)


def test_another_chunk_size_than_the_base_models_is_refused():
    base = manifest_of_arrays(arrays(), chunk_size=CHUNK)
    with pytest.raises(ModelMismatchError, match="chunk_size"):
        manifest_of_arrays(arrays(), chunk_size=2 * CHUNK).check_same_tensors(base)


def test_only_float32_travels():
    with pytest.raises(ModelMismatchError, match="float64"):
        manifest_of_arrays({"w": np.zeros(3)})


def test_a_payload_file_is_written_and_read(tmp_path):
    named = arrays()
    path = tmp_path / "payload"
    with path.open("wb") as file:
        manifest = write_payload(file, named, chunk_size=CHUNK)
    assert manifest == manifest_of_arrays(named, chunk_size=CHUNK)
    with path.open("rb") as file:
        assert b"".join(
            read_chunk(file, manifest, n) for n in range(len(manifest.chunk_digests))
        ) == payload_of(named)


def test_a_changed_or_cut_payload_file_is_found_out(tmp_path):
    path = tmp_path / "payload"
    with path.open("wb") as file:
        manifest = write_payload(file, arrays(), chunk_size=CHUNK)
    data = bytearray(path.read_bytes())
    data[CHUNK + 1] ^= 1
    with pytest.raises(IntegrityError, match="do not match"):
        read_chunk(io.BytesIO(bytes(data)), manifest, 1)
    last = len(manifest.chunk_digests) - 1
    with pytest.raises(IntegrityError, match="do not match"):
        read_chunk(io.BytesIO(bytes(data[:-1])), manifest, last)


def test_a_chunk_under_another_name_is_refused():
    check_chunk(sha256_hex(b"abc"), b"abc")
    with pytest.raises(IntegrityError, match="do not match"):
        check_chunk(sha256_hex(b"abc"), b"abd")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 40), max_size=3), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_manifest_and_chunks_agree_for_all_shapes(shapes, seed):
    named = arrays(seed, [tuple(shape) for shape in shapes])
    manifest = manifest_of_arrays(named, chunk_size=CHUNK)
    chunks = list(iter_chunks(named, CHUNK))
    assert b"".join(chunks) == payload_of(named)
    assert [sha256_hex(chunk) for chunk in chunks] == list(manifest.chunk_digests)
    assert Manifest.from_canonical_json(manifest.canonical_json()).digest == manifest.digest


@pytest.mark.parametrize("odd", [1.0, True, "1", None])
def test_sizes_that_are_no_whole_numbers_are_refused(odd):
    good = json.loads(manifest_of_arrays({"w": np.zeros(1, np.float32)}, chunk_size=CHUNK).canonical_json())
    for spoil in (
        lambda document: document["tensors"][0].update(shape=[odd]),
        lambda document: document.update(chunk_size=odd if odd in ("1", None) else type(odd)(CHUNK)),
    ):
        document = json.loads(json.dumps(good))
        spoil(document)
        text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        with pytest.raises((IntegrityError, ProtocolError)):
            Manifest.from_canonical_json(text)
