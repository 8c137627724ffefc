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
    subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "federation.py"), *sizes, *kinds, *written],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert [one["kind"] for one in found["transfers"]] == ["synthetic", "adpfl_client"]
    for one in found["transfers"]:
        assert min(one[way] for way in ("upload", "download", "bare_upload", "bare_download")) > 0
    assert found["empty_rounds"][0]["rounds"] == 3
    assert tables.read_text(encoding="utf-8").count("\n| 2 | ") == 3
