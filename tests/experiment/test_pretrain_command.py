"""`adpfl pretrain`: a file that a server takes, that says what trained it; real images only by statement."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from adpfl.data.case import Case
from adpfl.data.site_folder import write_site_folder
from adpfl.data.synthetic.dermoscopy import write_clinic
from adpfl.errors import ConfigError, DataError
from adpfl.experiment.pretrain_command import pretrain
from adpfl.wire.safetensors_file import read_header, read_warm_start
from adpfl_server.config import RunEntry
from adpfl_server.storage.weights import plan_of

SMALL = ["--steps", "2", "--image-size", "32,32", "--seed", "3"]
STATEMENT = "ISIC 2017, CC0, says the author of this test"


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(pretrain)
    result = CliRunner().invoke(app, [*SMALL, *arguments], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def real_folder(tmp_path: Path) -> Path:
    """Images that do not say that they were generated."""
    made = write_clinic(tmp_path / "made", "A", images=10, seed=0, size=(32, 32))
    renamed = [
        Case(f"ISIC_{number:07d}", case.patient, case.image, case.mask) for number, case in enumerate(made)
    ]
    write_site_folder(renamed, tmp_path / "real")
    return tmp_path / "real"


def test_generated_images_give_a_file_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "warm.safetensors"
    told = run("--output", str(path), "--cases", "8", "--profiles", "B,D")
    words = "2 steps on 8 generated images that show no person, profiles B, D, seed 3"
    assert f"{path}: {words}" in told
    assert "Dice 0." in told
    start = read_warm_start(path)
    assert (start.trained_on, start.words) == ("generated", words)
    description = read_header(path).description
    assert description is not None
    assert description["pretrained"]["image_size"] == [32, 32]
    entry = RunEntry.model_validate(
        {
            "run": "warm",
            "task": "skin_lesion",
            "image_size": [64, 64],
            "rounds": 1,
            "local": {"steps": 1, "learning_rate": 0.1},
            "cohort": {"sites": ["a"], "quorum": 1},
            "privacy": {"mode": "none", "sampling": {"mode": "full"}},
            "initial_model": path,
        }
    )
    assert plan_of(entry).warm_start == start


def test_the_same_options_give_the_same_bytes(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    for path, steps in ((first, "2"), (second, "2"), (other, "3")):
        run("--output", str(path), "--cases", "8", "--profiles", "A", "--steps", steps)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()


def test_real_images_need_a_persons_statement(tmp_path: Path, real_folder: Path) -> None:
    path = tmp_path / "warm.safetensors"
    with pytest.raises(ConfigError, match=r"10 images that adpfl did not generate; .* needs --public-data"):
        run("--output", str(path), "--data", str(real_folder))
    assert not path.exists()
    run("--output", str(path), "--data", str(real_folder), "--public-data", STATEMENT)
    start = read_warm_start(path)
    assert start.trained_on == "stated_public"
    assert start.words == f"2 steps on 10 images WITHOUT PROTECTION, stated to be public: {STATEMENT}"


def test_one_real_image_among_generated_ones_is_found(tmp_path: Path, real_folder: Path) -> None:
    generated = write_clinic(tmp_path / "clinic", "B", images=9, seed=1, size=(32, 32))
    one = Case(
        "ISIC_0000000",
        "real",
        real_folder / "ISIC-2017_Training_Data" / "ISIC_0000000.jpg",
        real_folder / "ISIC-2017_Training_Part1_GroundTruth" / "ISIC_0000000_segmentation.png",
    )
    write_site_folder([*generated, one], tmp_path / "mixed")
    with pytest.raises(ConfigError, match="with 1 images that adpfl did not generate"):
        run("--output", str(tmp_path / "warm"), "--data", str(tmp_path / "mixed"))


def test_a_folder_of_generated_images_needs_no_statement(tmp_path: Path) -> None:
    write_clinic(tmp_path / "clinic", "B", images=10, seed=1, size=(32, 32))
    run("--output", str(tmp_path / "warm"), "--data", str(tmp_path / "clinic"))
    assert read_warm_start(tmp_path / "warm").trained_on == "generated"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--profiles", "A,Z"], "--profiles is 'A,Z'; must name each once, of: A, B, C, D"),
        (["--profiles", "A,A"], "--profiles is 'A,A'"),
        (["--task", "no_such"], "--task is 'no_such'"),
        (["--image-size", "32,x"], "--image-size is '32,x'; must be numbers"),
        (["--image-size", "32"], "image_size"),
        (["--network", "unet"], "--network: size is ''"),
        (["--public-data", STATEMENT], "--public-data goes with --data"),
        (["--data", ".", "--public-data", "yes"], "--public-data is 'yes'; must say in 10 to 300 characters"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, options: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run("--output", str(tmp_path / "warm"), *options)
    assert not (tmp_path / "warm").exists()


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "warm").write_text("precious")
    with pytest.raises(DataError, match="exists already"):
        run("--output", str(tmp_path / "warm"), "--cases", "8")
    assert (tmp_path / "warm").read_text() == "precious"


def test_volumes_are_generated_too(tmp_path: Path) -> None:
    path = tmp_path / "warm"
    options = ["--task", "brain_tumor", "--cases", "8", "--profiles", "A", "--steps", "1"]
    run("--output", str(path), *options, "--image-size", "16,16,16", "--spacing-mm", "8,8,8")
    assert read_warm_start(path).trained_on == "generated"
    description = read_header(path).description
    assert description is not None
    assert description["task"] == "brain_tumor"
    assert description["pretrained"]["spacing_mm"] == [8.0, 8.0, 8.0]
