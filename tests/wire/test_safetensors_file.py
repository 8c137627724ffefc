"""Weights files as both daemons write and read them, held against the format's own library."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adpfl.errors import IntegrityError, ModelMismatchError
from adpfl.wire.chunks import iter_chunks, manifest_of_arrays
from adpfl.wire.safetensors_file import METADATA_KEY, header_bytes, read_header

CHUNK_SIZE = 65_536
ARRAYS = {
    "late.name.first": np.arange(30_000, dtype=np.float32).reshape(3, 10_000),
    "bias": np.full((), 0.5, dtype=np.float32),
}


def write(path, arrays=ARRAYS, **description):
    manifest = manifest_of_arrays(arrays, chunk_size=CHUNK_SIZE)
    path.write_bytes(header_bytes(manifest, description) + b"".join(iter_chunks(arrays, CHUNK_SIZE)))
    return manifest


def test_what_is_written_is_read_by_the_library_and_by_us(tmp_path):
    path = tmp_path / "model.safetensors"
    manifest = write(path, round=3)
    found = load_file(path)
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
    header = read_header(path)
    assert header.tensors == manifest.tensors
    assert header.description == {"round": 3}
    assert header.payload_offset % 8 == 0


def test_a_file_of_the_library_is_read_and_says_nothing_of_itself(tmp_path):
    save_file(ARRAYS, tmp_path / "model.safetensors")
    header = read_header(tmp_path / "model.safetensors")
    assert {tensor.name: tensor.shape for tensor in header.tensors} == {
        "late.name.first": (3, 10_000),
        "bias": (),
    }
    assert header.description is None


@pytest.mark.parametrize("cut", [0, 7, 20, -1])
def test_a_file_that_was_cut_short_is_refused(tmp_path, cut):
    path = tmp_path / "model.safetensors"
    write(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        read_header(path)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        json.dumps({"__metadata__": {METADATA_KEY: "[" * 100_000}}).encode(),
        json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": []}}).encode(),
    ],
)
def test_a_header_that_was_made_to_harm_is_refused(tmp_path, text):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(IntegrityError, match="is no safetensors file"):
        read_header(path)


def test_another_number_format_is_refused_by_name(tmp_path):
    save_file({"w": np.zeros(4, dtype=np.float64)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelMismatchError, match="F64"):
        read_header(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [False, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "more": 1},
    ],
)
def test_a_header_of_numbers_that_only_look_whole_is_refused(tmp_path, entry):
    path = tmp_path / "model.safetensors"
    text = json.dumps({"w": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises((IntegrityError, ModelMismatchError)):
        read_header(path)


@pytest.mark.parametrize("description", ["[]", "3", '"text"', "null"])
def test_a_description_that_is_no_object_is_refused(tmp_path, description):
    path = tmp_path / "model.safetensors"
    header = {
        "__metadata__": {METADATA_KEY: description},
        "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(IntegrityError, match="is no safetensors file"):
        read_header(path)
