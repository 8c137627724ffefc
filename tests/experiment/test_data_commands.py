"""`adpfl data`: what it prints, and how it ends."""

import io
import json

import nibabel
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from adpfl.data.case import Case
from adpfl.errors import ConfigError, DataError
from adpfl.experiment import data_commands
from adpfl.experiment.cli import app


def run(*arguments):
    result = CliRunner().invoke(app, ["data", *map(str, arguments)], catch_exceptions=True)
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    error = None if isinstance(result.exception, SystemExit) else result.exception
    return lines, error, result.stdout


def write(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def kidneys(tmp_path):
    """Three sound cases."""
    folder = tmp_path / "kits"
    mask = np.zeros((5, 6, 7), np.uint8)
    mask[1:3] = 1
    mask[2, :2] = 2
    for number in range(3):
        image = np.random.default_rng(number).integers(-100, 200, mask.shape).astype(np.int16)
        write(folder / f"case_0000{number}" / "imaging.nii.gz", image)
        write(folder / f"case_0000{number}" / "segmentation.nii.gz", mask)
    return folder


def test_a_sound_folder_ends_well(kidneys, tmp_path):
    (tmp_path / "sites.json").write_text(
        json.dumps([{"case": f"case_0000{n}", "silo": n % 2} for n in range(3)])
    )
    lines, error, _ = run(
        *("check", kidneys, "--task", "kidney_tumor", "--partition", tmp_path / "sites.json"),
        *("--site-column", "silo"),
    )
    assert error is None
    assert [line["event"] for line in lines] == ["case", "case", "case", "summary"]
    assert lines[0]["structures"] == {"kidney": 0.07, "tumor": 0.014, "cyst": 0.0}
    assert lines[0]["source"] == "silo-0"
    assert lines[-1]["sites"] == {"silo-0": 2, "silo-1": 1}
    assert lines[-1]["problems"] == 0


def test_all_problems_are_listed_before_it_fails(kidneys):
    (kidneys / "case_00000" / "segmentation.nii.gz").unlink()
    write(kidneys / "case_00001" / "segmentation.nii.gz", np.full((5, 6, 7), 8, np.uint8))
    path = kidneys / "case_00002" / "imaging.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])
    lines, error, _ = run("check", kidneys, "--task", "kidney_tumor")
    told = [line["problem"] for line in lines if line["event"] == "problem"]
    assert [problem.split("/")[0].split(":")[0] for problem in told] == [
        "case_00000",
        "case_00001",
        "case_00002",
    ]
    assert [line["event"] for line in lines] == ["case"] * 3 + ["problem"] * 3 + ["summary"]
    assert isinstance(error, DataError)
    assert str(error) == f"{kidneys}: 3 problems"
    assert error.exit_code == 1


def test_a_folder_in_place_of_an_image_hides_nothing(kidneys):
    (kidneys / "case_00000" / "imaging.nii.gz").unlink()
    (kidneys / "case_00000" / "imaging.nii.gz").mkdir()
    (kidneys / "case_00002" / "segmentation.nii.gz").unlink()
    lines, error, _ = run("check", kidneys, "--task", "kidney_tumor")
    assert [line["event"] for line in lines] == ["case"] * 3 + ["problem"] * 2 + ["summary"]
    assert lines[3]["problem"].startswith("case_00000/imaging.nii.gz cannot be read: ")
    assert lines[4]["problem"] == "case_00002/segmentation.nii.gz does not exist"
    assert str(error) == f"{kidneys}: 2 problems"
    assert error.exit_code == 1


def test_a_case_at_two_sites_hides_nothing(kidneys, tmp_path):
    table = tmp_path / "sites.csv"
    table.write_text("case,site\ncase_00000,north\ncase_00001,north\ncase_00000,south\ncase_00002,\n")
    (kidneys / "case_00002" / "segmentation.nii.gz").unlink()
    lines, error, _ = run("check", kidneys, "--task", "kidney_tumor", "--partition", table)
    assert [line["problem"] for line in lines if line["event"] == "problem"] == [
        "case_00002/segmentation.nii.gz does not exist",
        "sites.csv: case_00000 stands twice, with sites 'north' and 'south'",
    ]
    assert str(error) == f"{kidneys}: 2 problems"
    assert error.exit_code == 1


def test_images_alone_need_no_masks(kidneys):
    for place in kidneys.iterdir():
        (place / "segmentation.nii.gz").unlink()
    lines, error, _ = run("check", kidneys, "--task", "kidney_tumor", "--no-masks")
    assert error is None
    assert lines[0]["structures"] is None


def test_photographs(tmp_path):
    folder = tmp_path / "isic"
    for name in ("ISIC_1", "ISIC_2"):
        pixels = np.random.default_rng(len(name)).integers(0, 255, (20, 30, 3)).astype(np.uint8)
        image = folder / "ISIC-2017_Training_Data" / f"{name}.png"
        mask = folder / "ISIC-2017_Training_Part1_GroundTruth" / f"{name}_segmentation.png"
        for path, array in ((image, pixels), (mask, pixels[..., 0] // 128 * 255)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    lines, error, _ = run("check", folder, "--task", "skin_lesion")
    assert str(error) == f"{folder}: 1 problem"
    assert lines[2]["problem"] == "ISIC_2 is the same image as ISIC_1 under another patient"
    assert lines[-1]["least_size"] == [20, 30]


def test_a_terminal_gets_a_table(kidneys, monkeypatch):
    (kidneys / "case_00001" / "segmentation.nii.gz").unlink()
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr("rich.console.Console", lambda: terminal)
    _, error, stdout = run("check", kidneys, "--task", "kidney_tumor")
    assert isinstance(error, DataError)
    assert stdout == ""
    for words in (
        "case_00000  7x6x5",
        "kidney 0.1 ml, tumor 0.0 ml",
        "kits23 (3)",
        "wrong: case_00001/segmentation.nii.gz does not exist",
    ):
        assert words in shown.getvalue()


def test_json_is_given_on_a_terminal_where_asked(kidneys, monkeypatch):
    monkeypatch.setattr("rich.console.Console", lambda: pytest.fail("no table was wanted"))
    lines, _, _ = run("check", kidneys, "--task", "kidney_tumor", "--json")
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("check", "x", "--task", "liver"),
            "--task is 'liver'; must be one of brain_tumor, brain_tumor_presence, ",
        ),
        (
            ("check", "x", "--task", "skin_lesion", "--site-column", "silo"),
            "--site-column is 'silo'; goes with --partition",
        ),
    ],
)
def test_a_message_names_what_was_typed(arguments, told):
    _, error, _ = run(*arguments)
    assert isinstance(error, ConfigError)
    assert told in str(error)


def test_a_task_of_another_package_reads_for_itself(tmp_path, monkeypatch):
    class Retina:
        def read(self, folder, *, with_masks):
            if not with_masks:
                raise DataError(f"{folder}: left.dcm has no mask")
            return [Case("left", "anna", folder / "left.dcm", folder / "left.seg", "north")]

    monkeypatch.setattr("adpfl.tasks.registry.known_tasks", lambda: ("retina",))
    monkeypatch.setattr("adpfl.tasks.registry.get_task", lambda _: Retina())
    lines, error, _ = run("check", tmp_path, "--task", "retina")
    assert error is None
    assert (lines[0]["case"], lines[0]["size"], lines[1]["sites"]) == ("left", None, {"north": 1})
    _, error, _ = run("check", tmp_path, "--task", "retina", "--no-masks")
    assert str(error) == f"{tmp_path}: left.dcm has no mask"


def test_an_absent_folder_is_named(tmp_path):
    _, error, _ = run("check", tmp_path / "gone", "--task", "brain_tumor")
    assert isinstance(error, DataError)
    assert "gone: is no folder" in str(error)


def test_examples_name_the_commands():
    assert data_commands.CHECK_EXAMPLE.startswith("Example: adpfl data check ")
    assert data_commands.GENERATE_EXAMPLE.startswith("Example: adpfl data generate ")


@pytest.mark.parametrize("task", ["kidney_tumor", "brain_tumor"])
def test_generated_volumes_pass_the_check(tmp_path, task):
    folder = tmp_path / "hospital"
    result = CliRunner().invoke(
        app, ["data", "generate", str(folder), "--task", task, "--profile", "C", "--cases", "2"]
    )
    assert f"{folder}: 2 images of 2 patients, profile C, seed 0" in result.stdout
    checked = CliRunner().invoke(app, ["data", "check", str(folder), "--task", task, "--json"])
    assert checked.exit_code == 0
    assert json.loads(checked.stdout.splitlines()[-1])["sites"] == {"site-C": 2}


def test_masks_are_painted_with_their_hospitals(tmp_path):
    labels = np.zeros((12, 12, 40), dtype=np.uint8)
    labels[2:10, 2:10, 2:12] = 1
    labels[2:10, 2:10, 28:38] = 1
    labels[4:8, 4:8, 30:36] = 2
    np.savez(tmp_path / "masks.npz", case_00000=labels, case_00001=labels)
    records = [{"case": f"case_0000{index}", "site": 13 + index, "sz": 3.0} for index in range(2)]
    (tmp_path / "masks.json").write_text(json.dumps(records))
    command = ["data", "generate", str(tmp_path / "ct"), "--task", "kidney_tumor", "--masks"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "masks.npz")])
    assert "2 images on real masks of 2 hospitals" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profile", "Z"], "--profile is 'Z'; must be one of A, B, C, D"),
        (["--task", "lung"], "'lung'; must be one of brain_tumor, brain_tumor_presence, "),
        (["--masks", "m.npz"], "--masks goes with --task kidney_tumor"),
        (["--masks", "m.npz", "--task", "kidney_tumor", "--profile", "A"], "without --profile"),
    ],
)
def test_generate_refuses_what_does_not_fit(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, ["data", "generate", str(tmp_path / "x"), *options], catch_exceptions=False)
    assert not (tmp_path / "x").exists()
