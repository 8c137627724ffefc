"""setup.py: what is built with which tools, and what it says where it cannot build."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def build(tmp_path):
    """Runs the build with some of the environment replaced; None takes a variable away."""

    def run(**changes: str | None) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"MAX_JOBS": "1"} | changes
        folders = [f"--build-lib={tmp_path / 'lib'}", f"--build-temp={tmp_path / 'temp'}"]
        return subprocess.run(
            [sys.executable, "-W", "ignore", "setup.py", "build_ext", *folders],
            cwd=ROOT,
            env={name: value for name, value in environment.items() if value is not None},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def no_tools(tmp_path):
    """A path with nothing on it."""
    empty = tmp_path / "empty"
    empty.mkdir()
    return str(empty)


def test_without_tools_the_build_succeeds_and_says_what_is_missing(build, no_tools, tmp_path):
    done = build(PATH=no_tools, CXX=None, NINJA=None, ADPFL_REQUIRE_EXT=None)
    assert done.returncode == 0, done.stderr
    assert "adpfl: no compiled kernels, the slower PyTorch ones will serve: none of " in done.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_a_required_extension_that_cannot_be_built_is_an_error(build, no_tools):
    done = build(PATH=no_tools, CXX=None, NINJA=None, ADPFL_REQUIRE_EXT="1")
    assert done.returncode != 0
    assert "ADPFL_REQUIRE_EXT is 1, but none of " in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ADPFL_CUDA": "yes"}, "ADPFL_CUDA is yes; must be 0, 1 or auto"),
        ({"ADPFL_CUDA": "1", "CUDA_HOME": "/nonexistent"}, "ADPFL_CUDA is 1, but nvcc is neither"),
        ({"ADPFL_CUDA": "0", "TORCH_CUDA_ARCH_LIST": "ninety"}, "TORCH_CUDA_ARCH_LIST has 'ninety'"),
        ({"ADPFL_CUDA": "0", "TORCH_CUDA_ARCH_LIST": "9.0+SASS"}, "TORCH_CUDA_ARCH_LIST has '9.0+SASS'"),
    ],
)
def test_a_wrong_choice_stops_the_build(build, no_tools, changes, message):
    tools = dict.fromkeys(("CXX", "NINJA"), sys.executable)  # never run: the choice is read first
    done = build(PATH=no_tools, **tools, **changes)
    assert done.returncode != 0
    assert message in done.stderr


def test_the_library_without_cuda_loads(build, tmp_path):
    done = build(ADPFL_CUDA="0", ADPFL_REQUIRE_EXT=None)
    if "no compiled kernels" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    (library,) = tmp_path.rglob("_native*.so")
    script = (
        "import pathlib; from adpfl.kernels import extension;"
        f"extension._FOLDER = pathlib.Path({str(library.parent)!r}); from adpfl.kernels import ops;"
        "print(ops.active_backend())"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("compiled (cpu: ")
    assert "cuda: not built" in said.stdout
