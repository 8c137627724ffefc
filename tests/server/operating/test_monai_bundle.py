"""An exported bundle is our network to MONAI alone: same tensors, same logits, without adpfl."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from safetensors.torch import save_file

from adpfl.errors import ModelMismatchError, StateError
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.networks import build, weights_of
from adpfl.learning.plan import NetworkPlan
from adpfl.tasks import volume_task
from adpfl_server.operating import monai_bundle
from adpfl_server.operating.monai_bundle import WEIGHTS_FILE, inference_config, write_bundle
from adpfl_server.storage.blobs import BlobFolder
from adpfl_server.storage.weights import import_weights, read_header

KINDS = list(itertools.product(("unet", "segresnet"), (2, 3)))
WITHOUT_US = """
import sys
for name in ("adpfl", "adpfl_server", "adpfl_client"):
    sys.modules[name] = None
import numpy, torch
from monai.bundle import ConfigParser
for folder in sys.argv[1:]:
    parser = ConfigParser()
    parser.read_config(f"{folder}/configs/inference.json")
    parser.read_meta(f"{folder}/configs/metadata.json")
    parser["bundle_root"] = folder
    parser["device"] = "$torch.device('cpu')"
    network, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("inferer")
    after = parser.get_parsed_content("postprocessing")
    image = torch.from_numpy(numpy.load(f"{folder}/../image.npy"))
    with torch.inference_mode():
        numpy.save(f"{folder}/../logits.npy", network(image).numpy())
        whole = inferer(image, network)
    assert set(after({"pred": whole[0]})["pred"].unique().tolist()) <= {0.0, 1.0}
    assert parser.get("_meta_")["network_data_format"]["inputs"]["image"]["num_channels"] == image.shape[1]
"""


def plan_of(consortium, architecture, dimensions, size="tiny"):
    document = consortium.plan(
        network={"architecture": architecture, "size": size}, image_size=[16] * dimensions
    )
    return RunPlan.model_validate(document)


def stored(folder, plan, seed=5):
    dimensions = len(plan.image_size)
    model = build(plan.network, spatial_dims=dimensions, in_channels=3, out_channels=2, seed=seed).eval()
    save_file(weights_of(model), folder / "weights.safetensors")
    blobs = BlobFolder(folder / "blobs")
    return model, import_weights(folder / "weights.safetensors", blobs), blobs


def test_a_bundle_predicts_our_logits_without_adpfl(tmp_path, consortium):
    ours = {}
    for architecture, dimensions in KINDS:
        folder = tmp_path / f"{architecture}{dimensions}"
        folder.mkdir()
        plan = plan_of(consortium, architecture, dimensions)
        model, manifest, blobs = stored(folder, plan)
        write_bundle(folder / "bundle", manifest, blobs, plan=plan, round_number=2, averaged=False)
        image = torch.randn(1, 3, *plan.image_size, generator=torch.Generator().manual_seed(1))
        np.save(folder / "image.npy", image.numpy())
        with torch.inference_mode():
            ours[folder] = model(image).numpy()
    folders = [str(folder / "bundle") for folder in ours]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_US, *folders], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    for folder, logits in ours.items():
        np.testing.assert_array_equal(np.load(folder / "logits.npy"), logits)


@pytest.mark.parametrize(("architecture", "dimensions"), KINDS)
@pytest.mark.parametrize("size", ["tiny", "small", "full"])
def test_every_network_is_described_tensor_by_tensor(consortium, architecture, dimensions, size):
    plan = plan_of(consortium, architecture, dimensions, size)
    with torch.device("meta"):
        theirs = ConfigParser(inference_config(plan, 4, 3)).get_parsed_content("network_def").state_dict()
        ours = build(
            NetworkPlan(architecture=architecture, size=size),
            spatial_dims=dimensions,
            in_channels=4,
            out_channels=3,
            seed=0,
        ).state_dict()
    assert {name: tensor.shape for name, tensor in theirs.items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }


def test_a_bundle_has_the_layout_and_says_what_the_model_is(tmp_path, consortium):
    plan = plan_of(consortium, "unet", 2)
    _, manifest, blobs = stored(tmp_path, plan)
    folder = tmp_path / "bundle"
    write_bundle(folder, manifest, blobs, plan=plan, round_number=2, averaged=True)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"configs/inference.json", "configs/metadata.json", "docs/README.md", WEIGHTS_FILE}
    about = json.loads((folder / "configs/metadata.json").read_text())
    assert about["adpfl"]["plan_digest"] == plan.digest()
    assert (about["adpfl"]["round"], about["adpfl"]["averaged"]) == (2, True)
    assert "no finite guarantee" in about["adpfl"]["guarantee"]
    for key in ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description"):
        assert about[key], key
    assert "average of the models up to round 2 of 2" in (folder / "docs/README.md").read_text()
    assert read_header(folder / WEIGHTS_FILE).tensors == manifest.tensors
    with pytest.raises(StateError, match="exists already"):
        write_bundle(folder, manifest, blobs, plan=plan, round_number=2, averaged=True)


def test_a_bundle_is_whole_or_absent(tmp_path, consortium, monkeypatch):
    plan = plan_of(consortium, "unet", 2)
    _, manifest, blobs = stored(tmp_path, plan)

    def full(path, document):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(monai_bundle, "_write_json", full)
    before = set(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space left"):
        write_bundle(tmp_path / "bundle", manifest, blobs, plan=plan, round_number=1, averaged=False)
    assert set(tmp_path.iterdir()) == before


def test_a_model_of_another_network_makes_no_bundle(tmp_path, consortium):
    _, manifest, blobs = stored(tmp_path, plan_of(consortium, "unet", 2))
    other = plan_of(consortium, "segresnet", 2)
    with pytest.raises(ModelMismatchError, match=r"has no tensor convInit.conv.weight"):
        write_bundle(tmp_path / "bundle", manifest, blobs, plan=other, round_number=1, averaged=False)


def test_volumes_are_predicted_in_the_windows_of_our_tasks():
    assert monai_bundle.WINDOW_OVERLAP == volume_task._WINDOW_OVERLAP
