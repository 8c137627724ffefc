"""The command `adpfl`: help that answers at once, figures, reports, one line on an error."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import adpfl
from adpfl.errors import ConfigError, DataError, StateError
from adpfl.experiment.cli import app
from adpfl.experiment.demo.folder import claimed
from adpfl.experiment.report.record import write_record

COMMANDS = [
    [],
    ["demo"],
    ["report"],
    ["kernels"],
    ["compare"],
    ["sweep"],
    ["epsilon"],
    ["calibrate"],
    ["audit"],
    ["pretrain"],
    ["utility"],
    ["data"],
    ["data", "generate"],
    ["data", "check"],
]


def run(*arguments):
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_helps(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    if command not in ([], ["data"]):
        assert "Example: adpfl" in result.stdout


@pytest.mark.parametrize("command", ["demo", "compare", "sweep", "epsilon", "calibrate", "audit", "pretrain"])
def test_help_brings_neither_torch_nor_matplotlib(command):
    program = (
        f"import sys; sys.argv = ['adpfl', '{command}', '--help']\n"
        "from adpfl.experiment.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'matplotlib', 'scipy', 'monai', 'grpc'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.endswith("heavy: []\n")


def test_kernels_say_which_backend():
    backend = json.loads(run("kernels", "--json").stdout)["backend"]
    assert backend in run("kernels").stdout


def test_data_generate(tmp_path):
    assert (
        "8 images"
        in run("data", "generate", str(tmp_path / "clinic"), "--profile", "B", "--cases", "8").stdout
    )
    with pytest.raises(ConfigError, match="must be one of A, B, C, D"):
        run("data", "generate", str(tmp_path / "other"), "--profile", "Z")


def test_report_from_folders(tmp_path, plan_of, server_of, site_of):
    plan = plan_of("adp-fl")
    write_record(tmp_path / "run.json", server_of(plan))
    site = tmp_path / "hospital1"
    site.mkdir()
    write_record(site / "site.json", site_of(plan, "hospital1"))
    page = tmp_path / "out.html"
    assert run("report", str(tmp_path), str(site), "--output", str(page)).exit_code == 0
    assert page.read_text().startswith("<!doctype html>")
    with pytest.raises(ConfigError, match="its folder does not exist"):
        run("report", str(tmp_path), "--output", str(tmp_path / "absent" / "out.html"))
    with pytest.raises(StateError, match=r"holds neither site\.json"):
        run("report", str(tmp_path), str(tmp_path))


def test_a_report_on_generated_images_says_so_where_asked(tmp_path, plan_of, server_of):
    write_record(tmp_path / "run.json", server_of(plan_of("adp-fl")))
    page = tmp_path / "out.html"
    for flags, told in (((), False), (("--synthetic",), True)):
        run("report", str(tmp_path), "--output", str(page), *flags)
        assert ("Synthetic images." in page.read_text()) is told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("report", "nosuch"), "FOLDER is nosuch; there is no such folder"),
        (("report", ".", "nosuch"), "SITE_FOLDERS is nosuch; there is no such folder"),
        (("data", "generate", "x", "--profile", "E"), "--profile is 'E'; must be one of"),
    ],
)
def test_a_message_names_what_was_typed(arguments, told):
    with pytest.raises(ConfigError, match=told):
        run(*arguments)


def test_version():
    assert run("--version").stdout == f"adpfl {adpfl.__version__}\n"


@pytest.mark.parametrize("content", [None, ()])
def test_bad_data_leaves_no_trace(tmp_path, content):
    data, output = tmp_path / "data", tmp_path / "demo"
    if content is not None:
        data.mkdir()
    with pytest.raises(DataError, match=r"^--data: "):
        run("demo", "--data", str(data), "--output", str(output))
    assert not output.exists()


def test_bad_data_spares_an_earlier_demonstration(tmp_path):
    with claimed(tmp_path / "demo") as folder:
        folder.report.write_text("earlier")
    with pytest.raises(DataError, match=r"^--data: "):
        run("demo", "--data", str(tmp_path / "absent"), "--output", str(tmp_path / "demo"))
    assert folder.report.read_text() == "earlier"


def test_demo_refuses_a_folder_that_it_did_not_make(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(ConfigError, match="did not make"):
        run("demo", "--output", str(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "years"
