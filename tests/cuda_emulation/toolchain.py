"""Builds the emulated device from nvcc's own output: a library to load, or a program under a sanitizer."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ARCHITECTURES = ("80", "90", "100")

_NVCC_FLAGS = ("-O3", "-std=c++17", "-fmad=false")  # those of setup.py
_CXX_FLAGS = ("-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing")


@dataclass(frozen=True)
class Sanitizer:
    """A sanitizer of the C++ compiler, and how the device is built for it."""

    name: str
    watch: str  # the file that speaks to it
    level: str
    compiled: tuple[str, ...]
    linked: tuple[str, ...]
    options: tuple[tuple[str, str], ...]  # of its runtime, as environment variables


# nvcc has optimised already; without more of it each of PTX's accesses stays an access.
ADDRESS = Sanitizer(
    "address",
    "address_sanitizer",
    "-O0",
    ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DEMULATION_ADDRESS_SANITIZER"),
    ("-fsanitize=address,undefined",),
    (
        ("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=0:exitcode=66"),
        ("UBSAN_OPTIONS", "print_stacktrace=0"),
    ),
)
THREAD = Sanitizer(
    "thread",
    "thread_sanitizer",
    "-O0",
    ("-DEMULATION_THREAD_SANITIZER",),
    ("-fsanitize=thread",),
    (("TSAN_OPTIONS", "halt_on_error=1:exitcode=66:history_size=2:atexit_sleep_ms=0"),),
)
SANITIZERS = {each.name: each for each in (ADDRESS, THREAD)}


@dataclass(frozen=True)
class Program:
    """CUDA code and the C++ that calls it."""

    sources: Path
    main: str  # the file that nvcc compiles, in `sources`
    calls: tuple[str, ...]  # the runner's


KERNELS = Program(ROOT / "csrc", "cuda/dp_release.cu", ("harness", "runner_kernels"))
COMPANION = Program(HERE / "companion", "companion.cu", ("runner_companion",))


def find_nvcc() -> str | None:
    """The CUDA compiler, where there is one."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which(f"{home}/bin/nvcc") or shutil.which("nvcc")


def why_not(sanitizer: Sanitizer, folder: Path) -> str | None:
    """Why a sanitizer cannot be used here, found by a program that does nothing; None where it can."""
    program = folder / f"{sanitizer.name}_works"
    command = ["c++", "-x", "c++", "-", *sanitizer.linked, "-o", str(program)]
    built = subprocess.run(command, input="int main() {}", capture_output=True, text=True, check=False)
    if built.returncode:
        return f"the compiler has no {sanitizer.name} sanitizer: {built.stderr.strip().splitlines()[-1]}"
    ran = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    if ran.returncode:
        return f"the {sanitizer.name} sanitizer does not run here: {ran.stderr.strip().splitlines()[-1]}"
    return None


def variant(folder: Path, change: Callable[[Path], object]) -> Program:
    """The project's kernels from a changed copy of their sources in `folder`."""
    sources = Path(shutil.copytree(KERNELS.sources, folder / "sources"))
    change(sources)
    return Program(sources, KERNELS.main, KERNELS.calls)


def build(architecture: str, sources: Path = KERNELS.sources) -> Path:
    """The emulated device for the PTX of one architecture, as a library that judges each access by itself.

    Built once for the same sources.

    Args:
        architecture: such as 90.
        sources: the folder of the kernels' code.
    """
    program = Program(sources, KERNELS.main, KERNELS.calls)
    with _folder(program, architecture) as folder:
        library = folder / "emulated.so"
        if not library.exists():
            _compile_cuda(program, architecture, folder)
            objects = [_translated(folder / "kernels.ptx", folder / "kernels.o", "-O1")]
            objects += [_compiled(name, folder, "-O2") for name in ("runtime", "checks", "harness")]
            _link(library, ["-shared", *objects, folder / "host.o"])
    return library


def build_with_bug(architecture: str, folder: Path, change: Callable[[str], str]) -> Path:
    """The same with a bug planted in the PTX, built in `folder`."""
    clean = build(architecture).parent
    before = (clean / "kernels.ptx").read_text()
    ptx = folder / "kernels.ptx"
    ptx.write_text(change(before))
    assert ptx.read_text() != before, "the bug was not planted"
    objects = [clean / f"{name}.o" for name in ("runtime", "checks", "harness", "host")]
    _link(folder / "emulated.so", ["-shared", _translated(ptx, folder / "kernels.o", "-O0"), *objects])
    return folder / "emulated.so"


def build_sanitized(architecture: str, sanitizer: Sanitizer, program: Program = KERNELS) -> Path:
    """The emulated device under a sanitizer, as a program of its own; built once for the same sources."""
    with _folder(program, architecture) as folder:
        made = folder / f"under_{sanitizer.name}"
        if not made.exists():
            if not (folder / "host.o").exists():
                _compile_cuda(program, architecture, folder)
            kernels = folder / f"kernels-{sanitizer.name}.o"
            _translated(folder / "kernels.ptx", kernels, sanitizer.level, sanitizer)
            for name in ("runtime", sanitizer.watch, "runner", *program.calls):
                _compiled(name, folder, "-O2", sanitizer, program.sources)
            _link(made, [*sanitizer.linked, kernels, *_objects(sanitizer, program, folder)])
    return made


def build_sanitized_with_bug(
    sanitizer: Sanitizer, program: Program, folder: Path, change: Callable[[Path], None], only: str = ""
) -> Path:
    """The same for sm_90 with a bug planted in a copy of the sources, which nvcc compiles anew in `folder`.

    Args:
        sanitizer: under which it is built.
        program: what is spoilt.
        folder: an empty one.
        change: changes the copy of the sources in place. The host's code must stay as it is.
        only: a pattern of the kernels that will run; the others are left out.
    """
    clean = build_sanitized("90", sanitizer, program).parent
    spoilt = Program(Path(shutil.copytree(program.sources, folder / "sources")), program.main, program.calls)
    change(spoilt.sources)
    _compile_ptx(spoilt, "90", folder)
    # Line by line, as nvcc names variables after a hash of the file's path.
    assert _code(folder / "kernels.ptx") != _code(clean / "kernels.ptx"), "nvcc made nothing of the bug"
    kernels = _translated(folder / "kernels.ptx", folder / "kernels.o", "-O0", sanitizer, only)
    _link(folder / "spoilt", [*sanitizer.linked, kernels, *_objects(sanitizer, program, clean)])
    return folder / "spoilt"


def _objects(sanitizer: Sanitizer, program: Program, folder: Path) -> list[Path]:
    """All but the kernels."""
    names = ("runtime", sanitizer.watch, "runner", *program.calls)
    return [folder / "host.o", *(folder / f"{name}-{sanitizer.name}.o" for name in names)]


@contextmanager
def _folder(program: Program, architecture: str) -> Iterator[Path]:
    """Where the builds of a program are; one process of a test run builds there at a time."""
    stamp = hashlib.sha256(program.main.encode())
    code = [each for each in program.sources.rglob("*.*") if each.suffix in {".h", ".cu", ".cuh"}]
    for source in sorted([*code, *HERE.glob("*.*")]):
        stamp.update(source.read_bytes())
    folder = ROOT / "build" / "cuda_emulation" / f"{architecture}-{stamp.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _compile_ptx(program: Program, architecture: str, folder: Path) -> None:
    _run([*_nvcc(program, architecture), "-ptx", "-o", folder / "kernels.ptx"])


def _compile_cuda(program: Program, architecture: str, folder: Path) -> None:
    """nvcc's PTX and its unmodified host object."""
    _compile_ptx(program, architecture, folder)
    _run([*_nvcc(program, architecture), "-Xcompiler=-fPIC", "-c", "-o", folder / "host.o"])


def _nvcc(program: Program, architecture: str) -> list[str | Path]:
    nvcc = find_nvcc()
    assert nvcc is not None
    target = f"-gencode=arch=compute_{architecture},code=compute_{architecture}"
    return [nvcc, *_NVCC_FLAGS, target, program.sources / program.main]


def _code(ptx: Path) -> list[str]:
    return [line for line in ptx.read_text().splitlines() if not line.startswith("//")]


def _compiled(
    name: str, folder: Path, level: str, sanitizer: Sanitizer | None = None, sources: Path = KERNELS.sources
) -> Path:
    nvcc = find_nvcc()
    assert nvcc is not None
    toolkit = Path(nvcc).resolve().parent.parent / "include"
    made = folder / (f"{name}-{sanitizer.name}.o" if sanitizer else f"{name}.o")
    flags = [level, *_CXX_FLAGS, *(sanitizer.compiled if sanitizer else ()), f"-I{toolkit}", f"-I{sources}"]
    _run(["c++", *flags, "-c", HERE / f"{name}.cpp", "-o", made])
    return made


def _translated(
    ptx: Path, made: Path, level: str, sanitizer: Sanitizer | None = None, only: str = ""
) -> Path:
    source = made.with_suffix(".cpp")
    _run([sys.executable, HERE / "translate.py", ptx, source, only])
    flags = [level, "-w", *_CXX_FLAGS, *(sanitizer.compiled if sanitizer else ()), f"-I{HERE}"]
    _run(["c++", *flags, "-c", source, "-o", made])
    return made


def _link(made: Path, arguments: Sequence[str | Path]) -> None:
    unfinished = made.with_suffix(".tmp")
    _run(["c++", "-Wl,-z,defs", *arguments, "-o", unfinished])
    unfinished.rename(made)


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
