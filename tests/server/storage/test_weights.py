"""Weights files without torch: what is read, what is refused, and that an export reads back."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adpfl.errors import ConfigError, IntegrityError, ModelMismatchError
from adpfl.federated.run_plan import RunPlan
from adpfl_server.config import RunEntry
from adpfl_server.storage.blobs import BlobFolder
from adpfl_server.storage.weights import (
    METADATA_KEY,
    check_description,
    export_weights,
    import_weights,
    plan_of,
    read_header,
)


@pytest.fixture
def blobs(tmp_path):
    return BlobFolder(tmp_path / "blobs")


def described(**content):
    return {METADATA_KEY: json.dumps(content)}


def test_an_import_then_an_export_gives_the_same_tensors(tmp_path, blobs, consortium):
    weights = consortium.weights(3) | {"large": np.arange(400_000, dtype=np.float32)}
    save_file(weights, tmp_path / "in.safetensors")
    manifest = import_weights(tmp_path / "in.safetensors", blobs)
    assert len(manifest.chunk_digests) > 1
    plan = RunPlan.model_validate(consortium.plan())
    export_weights(tmp_path / "out.safetensors", manifest, blobs, plan=plan, round_number=7)
    found = load_file(tmp_path / "out.safetensors")
    assert set(found) == set(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name], array)
    header = read_header(tmp_path / "out.safetensors")
    assert header.tensors == manifest.tensors
    assert header.description["round"] == 7
    assert header.description["object_digest"] == manifest.digest
    check_description(tmp_path / "out.safetensors", header, plan)


def raw(path, header, payload=b"\0" * 16):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)


GOOD = {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}


@pytest.mark.parametrize(
    ("header", "payload", "error", "words"),
    [
        (b"not json", b"", IntegrityError, "no safetensors file"),
        (b"[]", b"", IntegrityError, "no safetensors file"),
        (b"[" * 100_000, b"", IntegrityError, "no safetensors file"),
        ({"w": {"dtype": "F32"}}, b"", IntegrityError, "no safetensors file"),
        (
            {"w": {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}},
            b"\0" * 16,
            ModelMismatchError,
            "BF16",
        ),
        (
            {"w": {"dtype": "F32", "shape": [4], "data_offsets": [4, 20]}},
            b"\0" * 20,
            IntegrityError,
            "must stand at",
        ),
        (GOOD, b"\0" * 15, IntegrityError, "must have"),
        (GOOD, b"\0" * 17, IntegrityError, "must have"),
        (GOOD, np.array([1, 2, np.inf, 4], np.float32).tobytes(), IntegrityError, "not finite"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, blobs, header, payload, error, words):
    path = tmp_path / "weights.safetensors"
    raw(path, header, payload)
    with pytest.raises(error, match=words) as refusal:
        import_weights(path, blobs)
    assert str(path) in str(refusal.value)


def test_an_absent_or_cut_file_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_header(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0")
    with pytest.raises(IntegrityError, match="no safetensors file"):
        read_header(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({}, None), ({"task": "brain_tumor"}, "task is 'brain_tumor'"), ({"size": "full"}, "size is 'full'")],
)
def test_weights_of_another_plan_are_refused(tmp_path, consortium, changes, words):
    path = tmp_path / "weights.safetensors"
    content = {"task": "skin_lesion", "architecture": "unet", "size": "tiny", "seed": 0} | changes
    consortium.write_safetensors(path, consortium.weights(0), described(**content))
    plan = RunPlan.model_validate(consortium.plan())
    if words is None:
        check_description(path, read_header(path), plan)
    else:
        with pytest.raises(ModelMismatchError, match=words):
            check_description(path, read_header(path), plan)


@pytest.fixture
def entry_of(tmp_path, consortium):
    """An entry whose initial model says that it was trained on generated images."""
    path = tmp_path / "warm.safetensors"
    pretrained = {"trained_on": "generated", "words": "600 steps"}
    content = {"task": "skin_lesion", "architecture": "unet", "size": "tiny", "pretrained": pretrained}
    consortium.write_safetensors(path, consortium.weights(0), described(**content))

    def make(**keys):
        return RunEntry.model_validate(consortium.plan() | {"initial_model": path} | keys)

    return make


def test_the_plan_says_which_weights_a_run_starts_from(entry_of, tmp_path):
    entry = entry_of()
    plan = plan_of(entry)
    imported = import_weights(entry.initial_model, BlobFolder(tmp_path / "blobs"))
    assert plan.warm_start.model_digest == imported.digest, "else no site would find what it approved"
    assert (plan.warm_start.trained_on, plan.warm_start.words) == ("generated", "600 steps")
    assert plan.digest() != entry.plan.digest()
    assert RunPlan.model_validate_json(plan.canonical_json()) == plan


def test_a_warm_start_that_is_written_down_must_be_the_files(entry_of):
    found = plan_of(entry_of()).warm_start.model_dump()
    assert plan_of(entry_of(warm_start=found)).warm_start.words == "600 steps"
    with pytest.raises(ConfigError, match="warm_start of run demo describes another file"):
        plan_of(entry_of(warm_start=found | {"model_digest": "0" * 64}))
    with pytest.raises(ConfigError, match="warm_start of run demo needs initial_model"):
        plan_of(entry_of(warm_start=found, initial_model=None))


def test_random_weights_are_no_warm_start(consortium):
    assert plan_of(RunEntry.model_validate(consortium.plan())).warm_start is None
