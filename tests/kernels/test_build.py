"""setup.py: what is built with which tools, and what it says where it cannot build."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("adpfl", "adpfl_server", "adpfl_client")
BUILT_HERE = shutil.ignore_patterns("__pycache__", "*.so", "*.absent")


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


@pytest.fixture
def source(tmp_path):
    """A copy of what a wheel is made from, with nothing built in it."""
    folder = tmp_path / "source"
    for package in (*PACKAGES, "csrc"):
        shutil.copytree(ROOT / package, folder / package, ignore=BUILT_HERE)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path):
    """The Python of another environment, which has no torch, but finds the build's tools."""
    folder = tmp_path / "elsewhere"
    venv.create(folder, with_pip=False)
    return str(folder / "bin/python")


@pytest.fixture
def linker(tmp_path):
    """In place of ninja: writes a library that is no library."""
    if not Path(sysconfig.get_paths()["platlib"], "torch/include/torch/csrc/stable/library.h").is_file():
        pytest.skip("torch 2.10 or later is not installed in this environment's own folder")
    program = tmp_path / "linker"
    program.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, re, sys\n"
        "text = pathlib.Path(sys.argv[2], 'build.ninja').read_text()\n"
        "pathlib.Path(re.search(r'build (\\S+): link', text)[1]).write_text('library')\n"
    )
    program.chmod(0o755)
    return {"NINJA": str(program), "CXX": sys.executable, "ADPFL_CUDA": "0"}


def make(source, *arguments, python=sys.executable, **changes):
    """Run pip or setup.py in a source tree."""
    environment = os.environ | {
        "PYTHONPATH": sysconfig.get_paths()["purelib"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INDEX": "1",
    }
    done = subprocess.run(
        [python, "-W", "ignore", *arguments],
        cwd=source,
        env={name: value for name, value in (environment | changes).items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def wheel_of(source, **options):
    """The wheel that pip makes; its content by name."""
    pytest.importorskip("pip")
    folder = source.parent / f"wheels-{len(list(source.parent.iterdir()))}"
    arguments = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", ".")
    code, said = make(source, *arguments, **options)
    assert code == 0, said
    (path,) = folder.iterdir()
    return path, set(zipfile.ZipFile(path).namelist())


def test_a_wheel_made_without_torch_says_so_by_its_name_and_when_it_runs(source, elsewhere, tmp_path):
    path, names = wheel_of(source, python=elsewhere, ADPFL_REQUIRE_EXT=None)
    assert path.name.endswith("-py3-none-any.whl")
    assert not [name for name in names if name.endswith(".so")]
    with zipfile.ZipFile(path) as archive:
        (metadata,) = [name for name in names if name.endswith("/WHEEL")]
        assert b"Root-Is-Purelib: true" in archive.read(metadata)
        archive.extractall(tmp_path / "installed")
    said = subprocess.run(
        [sys.executable, "-c", "from adpfl.kernels import ops; print(ops.__file__, ops.active_backend())"],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith(str(tmp_path / "installed"))
    assert "built without compiled kernels, as torch 2.10 or later, whose headers it needs" in said


def test_a_wheel_with_the_library_is_for_this_platform(source, linker):
    path, names = wheel_of(source, **linker)
    assert "-cp311-abi3-" in path.name
    assert [name for name in names if "_native" in name] == ["adpfl/kernels/_native.abi3.so"]


def test_a_wheel_never_holds_what_an_earlier_build_left(source, linker, no_tools):
    tools_gone = {"PATH": no_tools, "CXX": None, "NINJA": None, "ADPFL_REQUIRE_EXT": None}
    wheel_of(source, **linker)
    path, names = wheel_of(source, **tools_gone)
    assert path.name.endswith("-py3-none-any.whl")
    assert [name for name in names if "_native" in name] == ["adpfl/kernels/_native.absent"]
    path, names = wheel_of(source, **linker)
    assert "-abi3-" in path.name
    assert "adpfl/kernels/_native.absent" not in names


def test_beside_the_sources_stands_the_library_or_why_there_is_none(source, linker, no_tools):
    tools_gone = {"PATH": no_tools, "CXX": None, "NINJA": None, "ADPFL_REQUIRE_EXT": None}

    def built(**changes):
        code, said = make(source, "setup.py", "build_ext", "--inplace", **changes)
        assert code == 0, said
        return [path.name for path in (source / "adpfl/kernels").glob("_native*")]

    assert built(**tools_gone) == ["_native.absent"]
    assert built(**linker) == ["_native.abi3.so"]
    assert built(**tools_gone) == ["_native.absent"]


def test_a_wheel_holds_every_file_of_the_packages(source, linker):
    """Templates, style sheets and type marks are no Python modules, and easily forgotten."""
    _, names = wheel_of(source, **linker)
    files = {
        str(path.relative_to(source)) for package in PACKAGES for path in (source / package).rglob("*.*")
    }
    assert files - names == set()


def test_the_source_distribution_holds_the_repository(tmp_path):
    """What is needed to build, test and understand it, not the packages alone."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("the list of files is git's, and this is no clone or has no git")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    source = tmp_path / "source"
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    code, said = make(source, "setup.py", "--quiet", "sdist", "--formats=zip")
    assert code == 0, said
    (archive,) = (source / "dist").iterdir()
    held = {name.partition("/")[2] for name in zipfile.ZipFile(archive).namelist()}
    assert tracked - held == {".gitignore"}
