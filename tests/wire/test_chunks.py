"""Manifests, chunks and payload files: identity of content, limits, resumption."""

import hashlib
import io
import json
import stat
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adpfl.errors import IntegrityError, ModelMismatchError, ProtocolError
from adpfl.wire import limits
from adpfl.wire.chunks import (
    Manifest,
    PartialPayload,
    TensorSpec,
    arrays_of_payload,
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


def test_a_payload_file_is_written_read_and_mapped(tmp_path):
    named = arrays()
    path = tmp_path / "payload"
    with path.open("wb") as file:
        manifest = write_payload(file, named, chunk_size=CHUNK)
    assert manifest == manifest_of_arrays(named, chunk_size=CHUNK)
    mapped = arrays_of_payload(path, manifest)
    assert list(mapped) == list(named)
    for name, array in named.items():
        np.testing.assert_array_equal(mapped[name], array)
        assert not mapped[name].flags.writeable
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
    path.write_bytes(data[:-1])
    with pytest.raises(IntegrityError, match="its manifest says"):
        arrays_of_payload(path, manifest)


def test_a_chunk_under_another_name_is_refused():
    check_chunk(sha256_hex(b"abc"), b"abc")
    with pytest.raises(IntegrityError, match="do not match"):
        check_chunk(sha256_hex(b"abc"), b"abd")


class TestPartialPayload:
    def chunks(self, named):
        return {sha256_hex(chunk): chunk for chunk in iter_chunks(named, CHUNK)}

    def test_chunks_in_any_order_make_the_payload(self, tmp_path):
        named = arrays()
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        partial = PartialPayload(tmp_path / "p", manifest)
        assert partial.missing == tuple(manifest.indices_of)
        for digest in reversed(partial.missing):
            partial.write(digest, chunks[digest])
        assert partial.missing == ()
        assert (tmp_path / "p").read_bytes() == payload_of(named)

    def test_it_goes_on_with_what_is_really_on_disk(self, tmp_path):
        named = arrays()
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        first, second, *_ = manifest.chunk_digests
        partial = PartialPayload(tmp_path / "p", manifest)
        partial.write(first, chunks[first])
        partial.write(second, chunks[second])
        with (tmp_path / "p").open("r+b") as file:  # a write that a power cut tore
            file.seek(CHUNK + 10)
            file.write(b"torn")
        again = PartialPayload(tmp_path / "p", manifest)
        assert first not in again.missing
        assert second in again.missing

    def test_a_file_of_another_size_is_begun_anew(self, tmp_path):
        (tmp_path / "p").write_bytes(b"something else")
        manifest = manifest_of_arrays(arrays(), chunk_size=CHUNK)
        assert PartialPayload(tmp_path / "p", manifest).missing == tuple(manifest.indices_of)

    def test_one_chunk_fills_all_its_places(self, tmp_path):
        named = {"w": np.full(3 * CHUNK // 4, 2.5, np.float32)}
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        partial = PartialPayload(tmp_path / "p", manifest)
        ((digest, data),) = chunks.items()
        partial.write(digest, data)
        assert partial.missing == ()
        assert (tmp_path / "p").read_bytes() == payload_of(named)

    def test_what_was_not_missing_or_does_not_match_is_refused(self, tmp_path):
        named = arrays()
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        partial = PartialPayload(tmp_path / "p", manifest)
        digest = partial.missing[0]
        with pytest.raises(IntegrityError):
            partial.write(digest, b"x" * CHUNK)
        assert digest in partial.missing
        partial.write(digest, chunks[digest])
        with pytest.raises(ProtocolError, match="not asked for"):
            partial.write(digest, chunks[digest])

    def test_it_stands_after_its_header_readable_by_the_owner_alone(self, tmp_path):
        named = arrays()
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        partial = PartialPayload(tmp_path / "p", manifest, header=b"the header")
        for digest in partial.missing:
            partial.write(digest, chunks[digest])
        assert (tmp_path / "p").read_bytes() == b"the header" + payload_of(named)
        assert stat.S_IMODE((tmp_path / "p").stat().st_mode) == 0o600

    def test_what_came_stays_under_another_header_of_the_same_length(self, tmp_path):
        named = arrays()
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        for digest in manifest.indices_of:
            PartialPayload(tmp_path / "p", manifest, header=b"round 1").write(digest, chunks[digest])
        assert PartialPayload(tmp_path / "p", manifest, header=b"round 2").missing == ()
        assert (tmp_path / "p").read_bytes() == b"round 2" + payload_of(named)
        longer = PartialPayload(tmp_path / "p", manifest, header=b"round 10")
        assert longer.missing == tuple(manifest.indices_of)

    def test_a_chunk_that_is_longer_than_its_place_is_refused(self, tmp_path):
        """It matches its digest; a hostile manifest names it where it would run over what stands there."""
        named = {"w": np.arange(CHUNK // 4 + 25, dtype=np.float32)}
        honest, chunk = manifest_of_arrays(named, chunk_size=CHUNK), b"x" * CHUNK
        manifest = replace(honest, chunk_digests=(honest.chunk_digests[0], sha256_hex(chunk)))
        partial = PartialPayload(tmp_path / "p", manifest)
        with pytest.raises(IntegrityError, match="room for 100"):
            partial.write(sha256_hex(chunk), chunk)
        assert sha256_hex(chunk) in partial.missing
        assert (tmp_path / "p").stat().st_size == manifest.payload_bytes

    def test_a_chunk_that_the_disk_refused_is_still_missing(self, tmp_path):
        named = arrays()
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        partial = PartialPayload(tmp_path / "p", manifest)
        digest = partial.missing[0]
        (tmp_path / "p").rename(tmp_path / "q")
        with pytest.raises(FileNotFoundError):
            partial.write(digest, chunks[digest])
        (tmp_path / "q").rename(tmp_path / "p")
        partial.write(digest, chunks[digest])
        assert digest not in partial.missing


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
