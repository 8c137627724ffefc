"""Build entry point: metadata lives in pyproject.toml; this file builds the compiled kernels where it can.

torch is no build requirement (that would download gigabytes): its headers are looked for in the environment
that the package is installed into. Without torch, a C++ compiler or ninja the package is complete but slower.
pip hides what a build says, so the wheel says it: it is then for any platform (`py3-none-any`) and carries
the reason, which `adpfl kernels` shows. The environment decides:

- `ADPFL_REQUIRE_EXT=1`: an extension that cannot be built is an error.
- `ADPFL_CUDA=0|1|auto`: leave the CUDA code out; fail without nvcc; or build it where nvcc is (the default).
- `CUDA_HOME`, `CXX`, `TORCH_CUDA_ARCH_LIST` (such as `8.0;9.0+PTX`): as torch's own builds read them.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT: Final = Path(__file__).resolve().parent
SOURCES: Final = ROOT / "csrc"
TORCH_TARGET: Final = "0x020a000000000000"  # torch 2.10: the first with all the stable calls of ops.cpp
DEFAULT_ARCHITECTURES: Final = "8.0;9.0;10.0+PTX"
ABSENCE_NOTE: Final = "_native.absent"  # stands where the library would, and says why it does not

# No contraction, no reassociation: every backend gives the same bits.
CXX_FLAGS: Final = (
    "-O3 -std=c++17 -fPIC -fvisibility=hidden -fno-strict-aliasing -ffp-contract=off -Wall -Wextra -Wno-psabi"
)
NVCC_FLAGS: Final = "-O3 -std=c++17 -fmad=false -Xcompiler=-fPIC,-fvisibility=hidden -Xfatbin=-compress-all"
INSTRUCTION_SETS: Final = {
    "lanes_scalar": "",
    "lanes_avx2": "-mavx2 -mfma -mf16c",
    # GCC 12's own AVX-512 headers set off its warnings.
    "lanes_avx512": "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mf16c -mprefer-vector-width=512 "
    "-Wno-maybe-uninitialized -Wno-uninitialized",
}


class CannotBuildError(Exception):
    """Something that the extension needs is not here."""


def torch_folder() -> Path:
    """The folder of torch in the environment that is installed into, isolated build or not."""
    for scheme in ("platlib", "purelib"):
        folder = Path(sysconfig.get_paths()[scheme]) / "torch"
        if (folder / "include/torch/csrc/stable/library.h").is_file():
            return folder
    raise CannotBuildError("torch 2.10 or later, whose headers it needs, was not installed")


def find_tool(variable: str, *names: str) -> str:
    """A program: the environment's choice, else the first of `names` on the path or beside this Python."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    for name in (os.environ.get(variable), *names):
        found = shutil.which(name, path=path) if name else None
        if found:
            return found
    raise CannotBuildError(f"none of {', '.join(names)} was on the path, and {variable} named none")


def find_nvcc() -> str | None:
    """The CUDA compiler, or None where the CUDA code is left out."""
    wanted = os.environ.get("ADPFL_CUDA", "auto")
    if wanted not in {"0", "1", "auto"}:
        raise SystemExit(f"ADPFL_CUDA is {wanted}; must be 0, 1 or auto")
    if wanted == "0" or not (SOURCES / "cuda/dp_release.cu").is_file():
        return None
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which(f"{home}/bin/nvcc") or shutil.which("nvcc")
    if found is None and wanted == "1":
        raise SystemExit("ADPFL_CUDA is 1, but nvcc is neither under CUDA_HOME nor on the path")
    return found


def architecture_flags(architectures: str) -> str:
    """Nvcc's -gencode flags for a list such as `8.0;9.0+PTX`."""
    flags = []
    for entry in architectures.replace(" ", ";").split(";"):
        number, _, ptx = entry.partition("+")
        digits = number.replace(".", "")
        if not digits.removesuffix("a").isdigit() or ptx not in {"", "PTX"}:
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST has {entry!r}; must be like 9.0 or 9.0+PTX")
        flags.append(f"-gencode=arch=compute_{digits},code=sm_{digits}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{digits},code=compute_{digits}")
    return " ".join(flags)


def build_file(target: Path, torch: Path, compiler: str, nvcc: str | None) -> str:
    """The build.ninja that makes `target`."""
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHITECTURES
    include = f"-isystem {torch}/include -DTORCH_TARGET_VERSION={TORCH_TARGET}"
    libraries = f"-L{torch}/lib -ltorch_cpu"
    units = {"cpu/dp_release_cpu": "", "ops": include}
    units |= {f"cpu/{name}": flags for name, flags in INSTRUCTION_SETS.items()}
    if nvcc:
        cuda = Path(nvcc).resolve().parent.parent
        units["ops"] += f' -isystem {cuda}/include -DADPFL_CUDA_ARCHITECTURES="\\"{architectures}\\""'
        libraries += f" -L{cuda}/lib64 -lcudart_static -lrt -lpthread -ldl"
    cxx_flags = f"{CXX_FLAGS} -ffile-prefix-map={ROOT}=."
    cuda_flags = f"{NVCC_FLAGS} {architecture_flags(architectures)}"
    made = "-MMD -MF $out.d -c $in -o $out\n  depfile = $out.d"
    lines = [
        f"cxx = {compiler}",
        f"nvcc = {nvcc or ''}",
        f"rule cxx\n  command = $cxx {cxx_flags} $flags {made}",
        f"rule cuda\n  command = $nvcc {cuda_flags} {made}",
        f"rule link\n  command = $cxx -shared -Wl,--as-needed -Wl,--exclude-libs,ALL $in -o $out {libraries}",
    ]
    for unit, flags in units.items():
        lines.append(f"build {unit}.o: cxx {SOURCES}/{unit}.cpp\n  flags = {flags}")
    objects = [f"{unit}.o" for unit in units]
    if nvcc:
        lines.append(f"build cuda/dp_release.o: cuda {SOURCES}/cuda/dp_release.cu")
        objects.append("cuda/dp_release.o")
    lines.append(f"build {target}: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"


def run_ninja(target: Path, folder: Path) -> None:
    """Build `target` with its intermediate files in `folder`."""
    ninja = find_tool("NINJA", "ninja")
    text = build_file(target, torch_folder(), find_tool("CXX", "c++", "g++", "clang++"), find_nvcc())
    folder.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text(text)
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    built = subprocess.run([ninja, "-C", str(folder), *jobs], check=False)  # noqa: S603 - the build's own tool
    if built.returncode:
        raise CannotBuildError("the compiler failed")


def beside(library: str) -> str:
    """Where a note stands in a library's place."""
    return str(Path(library).with_name(ABSENCE_NOTE))


class NinjaBuild(build_ext):
    """Builds the library that torch loads; it holds no Python code, so one serves every Python."""

    def build_extension(self, ext: Extension) -> None:
        """Run ninja, or say why not and leave that as a note."""
        library = Path(self.get_ext_fullpath(ext.name)).resolve()
        note = Path(beside(str(library)))
        try:
            run_ninja(library, Path(self.build_temp).resolve())
        except CannotBuildError as reason:
            if os.environ.get("ADPFL_REQUIRE_EXT") == "1":
                raise SystemExit(f"ADPFL_REQUIRE_EXT is 1, but {reason}") from reason
            sys.stderr.write(f"adpfl: no compiled kernels, the slower PyTorch ones will serve: {reason}\n")
            library.unlink(missing_ok=True)  # an earlier build's
            library.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(f"{reason}\n", encoding="utf-8")
        else:
            note.unlink(missing_ok=True)

    def copy_extensions_to_source(self) -> None:
        """Leave beside the sources what was built, library or note, and nothing of an earlier build."""
        for built, beside_sources in self.get_output_mapping().items():
            Path(beside_sources).unlink(missing_ok=True)
            if Path(built).is_file():
                self.copy_file(built, beside_sources)

    def get_output_mapping(self) -> dict[str, str]:
        """Where a library or note that is built goes when it is built in place."""
        libraries = super().get_output_mapping()
        return libraries | {beside(built): beside(place) for built, place in libraries.items()}

    def get_outputs(self) -> list[str]:
        """Only what was really built."""
        libraries = super().get_outputs()
        return sorted(name for name in {*libraries, *map(beside, libraries)} if Path(name).is_file())


class NamedByContent(bdist_wheel):
    """Names the wheel by what is in it: for this platform with the library, for any without."""

    def get_tag(self) -> tuple[str, str, str]:
        """The name's tags; asked for after the build and before WHEEL is written (editable: before both)."""
        if self.distribution.have_run.get("build_ext"):
            built = self.get_finalized_command("build_ext").get_outputs()
            self.root_is_pure = any(Path(name).name == ABSENCE_NOTE for name in built)
        return super().get_tag()


setup(
    # Optional: without it the PyTorch kernels serve.
    ext_modules=[Extension("adpfl.kernels._native", sources=[], py_limited_api=True, optional=True)],
    cmdclass={"build_ext": NinjaBuild, "bdist_wheel": NamedByContent},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
