"""The benchmarks run, on sizes too small to tell anything, and say what they left out."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PNG = b"\x89PNG"
PEERS = "benchmarks/peers-requirements.txt"

STEP = ["--dimensions", "2", "--sizes", "tiny", "--units-2d", "2", "--extent-2d", "32", "--no-memory"]
RELEASE = ["--units", "1", "3", "--coordinates", "1000", "400000000", "--parts", "--memory-gb", "1"]
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


def run(script: str, folder: Path, *options: str) -> tuple[str, str]:
    """What it printed and the tables it wrote; the plot is there as well."""
    tables, figure = folder / "tables.md", folder / "figure.png"
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / script),
            *options,
            *("--repeats", "2", "--threads", "1", "--markdown", str(tables), "--plot", str(figure)),
        ],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert figure.read_bytes().startswith(PNG)
    return done.stdout, tables.read_text(encoding="utf-8")


def test_dp_step(tmp_path: Path) -> None:
    printed, tables = run("dp_step.py", tmp_path, *STEP)
    for architecture in ("unet", "segresnet"):
        assert f"### {architecture} 2D tiny: 32 x 32, B = 2, D = " in tables
    for name in ("plain", "plain, channels last", "adpfl, private", "of which gradients"):
        assert tables.count(f"\n| {name} | ") == 2
    assert ("Opacus left out" in printed) == (find_spec("opacus") is None)


@needs_linux
def test_dp_release(tmp_path: Path) -> None:
    printed, tables = run("dp_release.py", tmp_path, *RELEASE)
    assert tables.count("\n| ours, Laplace | ") == 2
    assert tables.count("one digit search") == 2
    assert tables.count("Peak memory of our call: ") == 2
    assert "B = 3, D = 400,000,000 left out: its gradients are 4.8 GB, above --memory-gb 1" in printed


@needs_linux
@pytest.mark.process
def test_federation(tmp_path: Path) -> None:
    tables, figures = tmp_path / "tables.md", tmp_path / "figures.json"
    sizes = [
        "--agents",
        "2",
        "--megabytes",
        "2",
        "--repeats",
        "2",
        "--empty-agents",
        "2",
        "--empty-rounds",
        "3",
    ]
    kinds = ["--kinds", "synthetic", "adpfl_client", "--folder", str(tmp_path)]
    written = ["--markdown", str(tables), "--json", str(figures)]
    assert federation(*sizes, *kinds, *written).returncode == 0
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert [one["kind"] for one in found["transfers"]] == ["synthetic", "adpfl_client"]
    for one in found["transfers"]:
        assert (
            min(one[f"{of}{way}"] for way in ("upload", "download") for of in ("", "bare_", "generated_")) > 0
        )
    assert found["empty_rounds"][0]["rounds"] == 3
    assert tables.read_text(encoding="utf-8").count("\n| 2 | ") == 3


def federation(*options: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "federation.py"), *options],
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def interpreter(folder: Path, line: str) -> Path:
    """A program that answers as an interpreter would that is asked for a version."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="ascii")
    path.chmod(0o755)
    return path


SMALL = ("--agents", "2", "--empty-agents", "2", "--megabytes", "1", "--repeats", "1", "--empty-rounds", "1")


@needs_linux
@pytest.mark.process
def test_peers_that_fail_or_are_absent_are_told_and_take_no_table_away(tmp_path: Path) -> None:
    """Paths are relative, as `performance.md` writes them; every process works in a folder of its own."""
    programs, work, tables = tmp_path / "peers" / "bin", tmp_path / "work", tmp_path / "tables.md"
    programs.mkdir(parents=True)
    work.mkdir()
    interpreter(programs, 'case "$*" in *nvflare*) exit 1;; *) echo 9.9;; esac')
    peers = ["--peers", "flower", "nvflare", "--peer-python", "peers/bin/python", "--peer-rounds", "1"]
    tiny = [
        "--agents",
        "1",
        "--repeats",
        "0",
        "--megabytes",
        "1",
        "--empty-agents",
        "1",
        "--empty-rounds",
        "1",
    ]
    done = federation(
        *tiny, *peers, *("--kinds", "synthetic", "--folder", "work", "--markdown", "tables.md"), cwd=tmp_path
    )
    assert done.returncode == 1
    text = tables.read_text(encoding="utf-8")
    assert "Flower 9.9 failed: " in text
    assert f"No such file or directory: '{programs}/flower-superlink'" in done.stdout
    assert "NVFlare is not installed: pip install -r benchmarks/peers-requirements.txt" in text
    assert text.count("\n| adpfl, synthetic | 1 | ") == 2  # an empty round, and one with a payload


@needs_linux
@pytest.mark.process
@pytest.mark.skipif(
    "ADPFL_TEST_PEERS" not in os.environ, reason=f"no interpreter with {PEERS}: ADPFL_TEST_PEERS"
)
@pytest.mark.timeout(600)
def test_peers_do_the_same_job(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    peers = ["--peers", "flower", "nvflare", "--peer-python", os.environ["ADPFL_TEST_PEERS"]]
    done = federation(*SMALL, *peers, "--peer-rounds", "1", "--folder", str(tmp_path), "--json", str(figures))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(figures.read_text(encoding="utf-8"))["rounds"]
    assert [one["system"].split()[0] for one in found] == ["adpfl,"] * 2 + ["Flower"] * 2 + ["NVFlare"] * 2
    for one in found:
        assert one["agents"] == 2
        assert one["rounds"] == 1
        assert one["median"] > 0
        assert one["cpu_milliseconds"] > 0
