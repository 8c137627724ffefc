"""The main job on volumes: two hospitals train on CT over real daemons, and read masks out of the model."""

import nibabel
import numpy as np
import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]


def test_two_hospitals_train_on_ct_and_predict_masks(kidney_federation):
    federation = kidney_federation
    federation.prepare(federation.plan())
    checked = federation.command("adpfl_client", "check", "--site", "hospital1").stdout
    assert "3 patients (3 images) to train on, 1 (1 images) held out" in checked
    for site in federation.sites:
        federation.start_agent(site)
    for site in federation.sites:
        assert federation.finish(site) == 0, federation.log(site)
    assert federation.terminate("server") == 0, federation.log("server")
    assert federation.server_record()["status"] == "finished"

    record = federation.site_record("hospital1")
    assert [one["round"] for one in record["evaluations"]] == [0, 1, 2]
    (overlay,) = record["overlays"]
    pictures = federation.root / "state" / "hospital1" / "runs" / record["run"]
    assert (pictures / overlay).read_bytes().startswith(b"\x89PNG")
    for score in record["evaluations"][-1]["scores"]:
        assert score["structure"] in {"kidney_and_masses", "masses", "tumor"}
        assert score["hd95_unit"] == "mm"
        assert 0.0 <= score["surface_dice"] <= 1.0
        assert (score["assd"] is None) == (score["hd95"] is None)

    models = federation.root / "state" / "hospital1" / "models" / record["run"]
    federation.command(
        "adpfl_client",
        "predict",
        str(models / "round-0002.safetensors"),
        str(federation.root / "data" / "hospital1"),
        "--output",
        "masks",
    )
    masks = sorted((federation.root / "masks").iterdir())
    scans = sorted((federation.root / "data" / "hospital1").glob("*/imaging.nii.gz"))
    assert [mask.name for mask in masks] == [f"{scan.parent.name}.nii.gz" for scan in scans]
    assert len(masks) == 4
    for mask, scan in zip(masks, scans, strict=True):
        predicted, image = nibabel.load(mask), nibabel.load(scan)
        assert predicted.shape == image.shape
        assert np.allclose(predicted.affine, image.affine)
        assert set(np.unique(np.asarray(predicted.dataobj)).tolist()) <= {0, 1, 2, 3}

    report = federation.root / "report.html"
    folders = [str(federation.root / "state" / site) for site in federation.sites]
    federation.command(
        "adpfl.experiment", "report", str(federation.root / "server"), *folders, "--output", str(report)
    )
    page = report.read_text(encoding="utf-8")
    assert "in millimetres" in page
    assert "kidney_and_masses" in page or "kidney and masses" in page
