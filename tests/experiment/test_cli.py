"""The command `adpfl`: help that answers at once, figures, reports, one line on an error."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from adpfl.errors import ConfigError, StateError
from adpfl.experiment.cli import app
from adpfl.experiment.report.record import write_record

COMMANDS = [[], ["demo"], ["report"], ["kernels"], ["epsilon"], ["data"], ["data", "generate"]]
EPSILON = [
    "epsilon", "--mechanism", "laplace_l2", "--noise-multiplier", "10", "--dimension", "1000000",
    "--sampling", "poisson", "--sampling-probability", "0.1", "--steps", "1000", "--delta", "1e-5",
]  # fmt: skip


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


def test_help_brings_neither_torch_nor_matplotlib():
    program = (
        "import sys; sys.argv = ['adpfl', 'demo', '--help']\n"
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


def test_epsilon_as_json_and_in_words():
    document = json.loads(run(*EPSILON, "--json").stdout)
    assert 1.0 < document["epsilon"] < 2.0
    assert {"accountant", "unit", "neighboring_relation", "sampling", "steps", "mechanism"} <= document.keys()
    words = run(*EPSILON).stdout
    for part in (
        "delta 1e-05",
        "laplace_l2",
        "poisson, probability 0.1",
        "1000 steps",
        "zero-out",
        "unit patient",
    ):
        assert part in words


def test_epsilon_amplifies_a_poisson_sample_only():
    by_mode = {}
    for mode in ("poisson", "partition"):
        arguments = [mode if value == "poisson" else value for value in EPSILON]
        by_mode[mode] = json.loads(run(*arguments, "--json").stdout)["epsilon"]
    assert by_mode["poisson"] < by_mode["partition"]


def test_a_contradiction_is_one_line():
    arguments = ["full" if value == "poisson" else value for value in EPSILON]
    with pytest.raises(ConfigError, match="mode full takes every unit"):
        run(*arguments)


def test_kernels_say_which_backend():
    backend = json.loads(run("kernels", "--json").stdout)["backend"]
    assert backend in run("kernels").stdout


def test_data_generate(tmp_path):
    assert (
        "8 images"
        in run("data", "generate", str(tmp_path / "clinic"), "--profile", "B", "--images", "8").stdout
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


def test_demo_refuses_a_folder_that_it_did_not_make(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(ConfigError, match="did not make"):
        run("demo", "--output", str(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "years"
