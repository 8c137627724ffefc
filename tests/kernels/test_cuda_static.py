"""What ptxas made of the CUDA kernels for each architecture: no spills, no local memory, 16-byte loads."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

# Every kernel of the library, and how many 16-byte loads of gradients its code holds: for pass 1 the loop of
# four and its remainder, for pass 2 the loop of two and its remainder, each for float32 (two loads), bfloat16
# and float16.
KERNELS = {
    "advance_keystream_kernel": 0,
    "clip_factors_kernel": 0,
    "finish_norms_kernelILi1E": 0,
    "finish_norms_kernelILi2E": 0,
    "partial_norms_kernelILi1E": 28,
    "partial_norms_kernelILi2E": 28,
    "sum_release_kernelILNS_3LawE0ELi10E": 12,
    "sum_release_kernelILNS_3LawE1ELi10E": 12,
    "sum_release_kernelILNS_3LawE1ELi20E": 12,
    "sum_release_kernelILNS_3LawE1ELi30E": 12,
    "sum_release_kernelILNS_3LawE2ELi10E": 12,
    "sum_release_kernelILNS_3LawE2ELi20E": 12,
}


def kernel_of(mangled: str) -> str:
    (name,) = [name for name in KERNELS if name in mangled]
    return name


def memory_used(report: str) -> dict[str, tuple[int, ...]]:
    """For each kernel: bytes of stack frame, of spill stores, of spill loads."""
    found = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads",
        report,
        re.DOTALL,
    )
    return {kernel_of(name): tuple(map(int, numbers)) for name, *numbers in found}


@pytest.fixture(scope="module", params=["80", "90", "100"])
def compiled(request, builder, tmp_path_factory) -> tuple[Path, str]:
    """The machine code for an architecture, and ptxas's report on it."""
    cubin = tmp_path_factory.mktemp("cubin") / f"sm_{request.param}.cubin"
    source = builder.KERNELS.sources / builder.KERNELS.main
    flags = ["-O3", "-std=c++17", "-fmad=false", f"-arch=sm_{request.param}", "-Xptxas=-v", "-cubin"]
    command = [builder.find_nvcc(), *flags, str(source), "-o", str(cubin)]
    return cubin, subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_ptxas_spills_nothing_and_uses_no_stack(compiled):
    assert memory_used(compiled[1]) == dict.fromkeys(KERNELS, (0, 0, 0))


def test_the_reading_of_the_report_sees_a_spill_and_a_missing_kernel(compiled):
    clean = dict.fromkeys(KERNELS, (0, 0, 0))
    assert memory_used(compiled[1].replace("0 bytes spill stores", "8 bytes spill stores", 1)) != clean
    assert memory_used(compiled[1].partition("Function properties")[2]) != clean


def find_nvdisasm() -> str | None:
    packages = Path(sysconfig.get_paths()["purelib"])
    found = [*packages.glob("nvidia/*/bin/nvdisasm"), *packages.glob("nvidia/*/nvdisasm")]
    return os.environ.get("NVDISASM") or shutil.which("nvdisasm") or (str(found[0]) if found else None)


def test_machine_code_loads_sixteen_bytes_and_has_no_local_memory(compiled):
    disassembler = find_nvdisasm()
    if disassembler is None:
        pytest.skip("no nvdisasm: install nvidia-cuda-nvdisasm")
    code = subprocess.run(
        [disassembler, "-c", compiled[0]], capture_output=True, text=True, check=True
    ).stdout
    sections = re.split(r"^\.text\.(\w+):$", code, flags=re.MULTILINE)[1:]
    seen = dict(zip(map(kernel_of, sections[::2]), sections[1::2], strict=True))
    assert set(seen) == set(KERNELS)
    loads = {name: len(re.findall(r"\bLDG\.E\.128", body)) for name, body in seen.items()}
    assert loads == KERNELS
    for name, body in seen.items():
        assert len(re.findall(r"/\*[0-9a-f]{4,}\*/", body)) > 10, name
        assert not re.findall(r"\b(?:LDL|STL)\b", body), name
        # The released sums leave sixteen bytes at a time, in every kernel that adds noise.
        stores = len(re.findall(r"\bSTG\.E\.\w+\.128", body))
        assert stores == (2 if "LawE1" in name or "LawE2" in name else 0), name
