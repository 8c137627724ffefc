"""`adpfl compare` and `adpfl sweep` as a person types them: through, refused, killed, gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adpfl.experiment.comparison.folder import ComparisonFolder, load_comparison
from adpfl.experiment.comparison.plan import ComparisonPlan
from adpfl.experiment.report.record import read_record

ROOT = Path(__file__).parents[3]
SMALL = ("--sites", "2", "--cases", "8", "--image-size", "16,16", "--steps", "2", "--no-curves")
PATIENCE_SECONDS = 240.0

pytestmark = pytest.mark.timeout(900)  # several processes that each bring torch, on a busy machine too


def start(command: str, *arguments: str, output: Path) -> subprocess.Popen[str]:
    python_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "adpfl.experiment", command, *arguments, "--output", str(output)],
        cwd=output.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, object]], str]:
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, [json.loads(line) for line in output.splitlines() if line[:1] == "{"], errors


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} never appeared"
        time.sleep(0.02)


def alive_in_session(session: int) -> list[int]:
    """Processes of a session that have not ended, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.process
def test_killed_in_the_middle_it_goes_on_and_plays_no_finished_cell_again(tmp_path):
    output = tmp_path / "out"
    arguments = (*SMALL, "--arms", "fl,adp-fl", "--seeds", "1", "--rounds", "20", "--workers", "1")
    folder = ComparisonFolder(output)
    killed = start("compare", *arguments, output=output)
    wait_for(folder.cell("adp-fl-seed0").checkpoint, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=PATIENCE_SECONDS)

    first = folder.cell("fl-seed0").record.stat()
    assert folder.cell("fl-seed0").is_over
    assert not folder.cell("adp-fl-seed0").is_over
    code, lines, errors = finish(start("compare", *arguments, output=output))
    assert (code, errors) == (0, "")
    assert lines[0]["over_before"] == 1
    assert folder.cell("fl-seed0").record.stat().st_mtime_ns == first.st_mtime_ns
    comparison = load_comparison(output)
    assert comparison.unfinished == ()
    assert comparison.timings["adp-fl-seed0"].starts == 2
    rounds = comparison.runs["adp-fl-seed0"].record.server.rounds
    assert [one.round for one in rounds] == list(range(1, 21))
    assert len(comparison.runs["adp-fl-seed0"].record.sites[0].steps) == 40


@pytest.mark.process
def test_workers_of_a_killed_command_end_and_their_cells_go_on(tmp_path):
    output = tmp_path / "out"
    arguments = (*SMALL, "--arms", "fl,adp-fl", "--seeds", "1", "--rounds", "20", "--workers", "2")
    folder = ComparisonFolder(output)
    killed = start("compare", *arguments, output=output)
    wait_for(folder.cell("fl-seed0").checkpoint, killed)
    os.kill(killed.pid, signal.SIGKILL)  # the parent alone: its workers must notice
    code, _, errors = finish(start("compare", *arguments, output=output))
    killed.communicate(timeout=PATIENCE_SECONDS)
    assert (code, errors) == (0, "")
    assert load_comparison(output).unfinished == ()


@pytest.mark.process
def test_an_interrupt_is_one_line_and_leaves_no_process(tmp_path):
    output = tmp_path / "out"
    arguments = (*SMALL, "--arms", "fl,dp-fl", "--seeds", "1", "--rounds", "100000", "--workers", "2")
    process = start("compare", *arguments, output=output)
    wait_for(ComparisonFolder(output).cell("fl-seed0").checkpoint, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    code, _, errors = finish(process)
    assert code == 130
    assert errors == f"interrupted; the same command goes on in {output}\n"
    deadline = time.monotonic() + 20.0
    while alive_in_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive_in_session(process.pid) == []


@pytest.mark.process
def test_another_comparison_in_the_same_folder_is_refused_naming_what_differs(tmp_path):
    output = tmp_path / "out"
    arguments = (*SMALL, "--arms", "fl", "--seeds", "1", "--rounds", "1", "--workers", "1")
    code, lines, errors = finish(start("compare", *arguments, output=output))
    assert (code, errors) == (0, "")
    assert lines[-1]["event"] == "ended"
    code, _, errors = finish(start("compare", *arguments, "--data-seed", "3", output=output))
    assert code == 2
    assert "data_seed is 3, was 0" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.process
def test_a_failed_cell_fails_the_command_and_not_the_others(tmp_path):
    output = tmp_path / "out"
    # Which patients a step has is drawn in secret, and it may have none: with so many steps,
    # one meets weights that another has made too large.
    arguments = (
        "--seeds",
        "2",
        "--rounds",
        "1",
        "--workers",
        "1",
        "--steps",
        "40",
        "--learning-rate",
        "3e38",
    )
    small = SMALL[: SMALL.index("--steps")]
    code, lines, _ = finish(
        start("compare", *small, "--no-curves", "--arms", "fl", *arguments, output=output)
    )
    assert code == 1
    assert {line["cell"]: line["status"] for line in lines if line["event"] == "cell_ended"} == {
        "fl-seed0": "failed",
        "fl-seed1": "failed",
    }


@pytest.mark.process
def test_a_sweep_plans_the_points_of_every_axis(tmp_path):
    output = tmp_path / "out"
    arguments = (
        "--over",
        "clip-norm,budget",
        "--clip-norms",
        "0.5",
        "--target-epsilons",
        "50",
        "--arms",
        "fl",
    )
    small = [one for one in SMALL if one != "--no-curves"]
    code, _, errors = finish(
        start("sweep", *small, *arguments, "--rounds", "1", "--workers", "1", output=output)
    )
    assert (code, errors) == (0, "")
    plan = read_record(output / "comparison.json", ComparisonPlan)
    assert [cell.cell for cell in plan.cells] == [
        "fl-seed0",
        "dp-fl-clip-norm-0p5-seed0",
        "rigorous-budget-50-seed0",
    ]
    assert plan.command.startswith("adpfl sweep --sites 2")
    run = load_comparison(output).runs["rigorous-budget-50-seed0"]
    assert all(site.guarantee.epsilon <= 50.0 for site in run.record.sites)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--arms", "fl,sgd"), "arms.1"),
        (("--arms", "fl,fl"), "arms names fl twice"),
        (("--task", "teeth"), "--task is 'teeth'"),
        (("--image-size", "big"), "--image-size is 'big'"),
        (("--percentile", "101"), "percentile is 101"),
        (("--image-size", "20,20"), "image_size is [20, 20]; each entry must be a multiple of 8"),
        (("--partition", "source"), "partition is source; goes with data"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(tmp_path, arguments, message):
    code, _, errors = finish(start("compare", *arguments, output=tmp_path / "out"))
    assert code == 2
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_data_that_cannot_be_read_fail_the_command_before_anything_is_written(tmp_path):
    code, _, errors = finish(start("compare", "--data", "absent", output=tmp_path / "out"))
    assert code == 1
    assert errors.startswith("error: --data: absent")
    assert not (tmp_path / "out").exists()


def test_an_unknown_axis_is_named(tmp_path):
    code, _, errors = finish(start("sweep", "--over", "noise,colour", output=tmp_path / "out"))
    assert code == 2
    assert "--over names 'colour'" in errors
