"""Builds the emulated device from nvcc's own output, and calls the CUDA launchers on tensors of the host."""

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ARCHITECTURES = ("80", "90", "100")
ORDERS = {"forward": 0, "reverse": 1, "shuffled": 2}

_NVCC_FLAGS = ("-O3", "-std=c++17", "-fmad=false")  # those of setup.py
_CXX_FLAGS = ("-std=c++17", "-fPIC", "-ffp-contract=off")
_OBJECTS = ("host.o", "runtime.o", "harness.o")
_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_CHUNK = 16384
_TENSORS_PER_LAUNCH = 256
_GUARD = 64  # bytes around each buffer that no kernel may touch


class EmulationError(AssertionError):
    """The emulated device stopped at something that a kernel must not do."""


def find_nvcc() -> str | None:
    """The CUDA compiler, where there is one."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which(f"{home}/bin/nvcc") or shutil.which("nvcc")


def build(architecture: str, sources: Path = ROOT / "csrc") -> Path:
    """The emulated device for the PTX of one architecture, as a library; built once for the same sources.

    Args:
        architecture: such as 90.
        sources: the folder of the kernels' code.
    """
    stamp = hashlib.sha256()
    for source in sorted([*sources.glob("*.h"), *sources.glob("cuda/*"), *HERE.glob("*.*")]):
        stamp.update(source.read_bytes())
    folder = ROOT / "build" / "cuda_emulation" / f"{architecture}-{stamp.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "emulated.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of one test run share the build
        if not library.exists():
            _compile(architecture, sources, folder)
            _link(library, [_translated(folder / "kernels.ptx"), *(folder / name for name in _OBJECTS)])
    return library


def build_with_bug(architecture: str, folder: Path, change: Callable[[str], str]) -> Path:
    """The same with a bug planted in the PTX, built in `folder`."""
    clean = build(architecture).parent
    before = (clean / "kernels.ptx").read_text()
    ptx = folder / "kernels.ptx"
    ptx.write_text(change(before))
    assert ptx.read_text() != before, "the bug was not planted"
    _link(folder / "emulated.so", [_translated(ptx, "-O0"), *(clean / name for name in _OBJECTS)])
    return folder / "emulated.so"


def _compile(architecture: str, sources: Path, folder: Path) -> None:
    """nvcc's PTX, its unmodified host object, the device and the harness."""
    nvcc = find_nvcc()
    assert nvcc is not None
    toolkit = Path(nvcc).resolve().parent.parent / "include"
    target = f"-gencode=arch=compute_{architecture},code=compute_{architecture}"
    kernels = [nvcc, *_NVCC_FLAGS, target, sources / "cuda/dp_release.cu"]
    _run([*kernels, "-ptx", "-o", folder / "kernels.ptx"])
    _run([*kernels, "-Xcompiler=-fPIC", "-c", "-o", folder / "host.o"])
    for name in ("runtime", "harness"):
        flags = ["-O2", *_CXX_FLAGS, f"-I{toolkit}", f"-I{sources}"]
        _run(["c++", *flags, "-c", HERE / f"{name}.cpp", "-o", folder / f"{name}.o"])


def _translated(ptx: Path, level: str = "-O1") -> Path:
    source, made = ptx.with_suffix(".cpp"), ptx.with_suffix(".o")
    _run([sys.executable, HERE / "translate.py", ptx, source])
    _run(["c++", level, "-w", *_CXX_FLAGS, f"-I{HERE}", "-c", source, "-o", made])
    return made


def _link(library: Path, objects: Sequence[Path]) -> None:
    unfinished = library.with_suffix(".tmp")
    _run(["c++", "-shared", "-Wl,-z,defs", *objects, "-o", unfinished])
    unfinished.rename(library)


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"


class Emulator:
    """The operators of the CUDA code, as csrc/ops.cpp calls its launchers.

    Every buffer is a copy with guard bytes around it, and the device knows which it may read and write.
    """

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.emulation_report.restype = ctypes.c_char_p
        self._library.emulation_tensor_bytes.restype = ctypes.c_int64
        self._library.emulation_traffic.restype = ctypes.c_uint64
        self.order = "forward"
        self._kept: list[Tensor] = []
        self._places: list[tuple[Tensor, int]] = []

    def unit_norms(self, gradients: list[Tensor], order: int) -> Tensor:
        """`adpfl::unit_norms`."""
        self._begin()
        return self._norms(self._table(gradients), order)

    def clip_accumulate_(
        self, total: Tensor, gradients: list[Tensor], norms: Tensor, clip_norm: float, sensitivity: int
    ) -> Tensor:
        """`adpfl::clip_accumulate_`."""
        self._begin()
        table = self._table(gradients)
        factors, used, counts = self._factors(self._input(norms), clip_norm, sensitivity)
        placed = self._output(total.shape[0], torch.int64, total)
        self._sum(table, factors, used, sensitivity, total_in=placed, total_out=placed)
        total.copy_(placed)
        return counts.clone()

    def release(
        self, total: Tensor, clip_norm: float, keystream: Tensor, tables: Tensor, sensitivity: int,
        scale_bits: int, *, gaussian: bool,
    ) -> Tensor:  # fmt: skip
        """`adpfl::release`."""
        self._begin()
        _, used, _ = self._factors(self._input(torch.empty(0, dtype=torch.float64)), clip_norm, sensitivity)
        table = (None, 0, 0, total.shape[0], 0)
        return self._noised(
            table,
            None,
            used,
            sensitivity,
            keystream,
            tables,
            scale_bits,
            gaussian,
            total_in=self._input(total),
        )

    def dp_release(
        self, gradients: list[Tensor], keystream: Tensor, tables: Tensor, sensitivity: int, scale_bits: int,
        gaussian: bool, order: int, clip_norm: float, ranks: Tensor | None = None,
        window: Tensor | None = None, min_clip_norm: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """`adpfl::dp_release`."""
        self._begin()
        table = self._table(gradients)
        norms = self._norms(table, order)
        factors, used, counts = self._factors(norms, clip_norm, sensitivity, ranks, window, min_clip_norm)
        total = None
        if len(gradients) > _TENSORS_PER_LAUNCH:
            total = self._output(table[3], torch.int64, torch.zeros(table[3], dtype=torch.int64))
            self._sum(table, factors, used, sensitivity, total_in=total, total_out=total)
            table = (None, 0, 0, table[3], 0)
        noised = self._noised(
            table, factors, used, sensitivity, keystream, tables, scale_bits, gaussian, total_in=total
        )
        return noised, used, norms, counts

    def traffic(self) -> list[tuple[int, int, int]]:
        """For each buffer of the last call: its size, bytes read, bytes written; gradients come first."""
        return [
            (
                size,
                *(
                    self._library.emulation_traffic(ctypes.c_uint64(placed.data_ptr()), each)
                    for each in (0, 1)
                ),
            )
            for placed, size in self._places
            if size
        ]

    # The device's memory.

    def _begin(self) -> None:
        self._library.emulation_reset(ORDERS[self.order])
        self._kept, self._places = [], []

    def _input(self, tensor: Tensor) -> Tensor:
        """A read-only copy at the same place modulo 16 bytes."""
        return self._placed(tensor.contiguous(), tensor.data_ptr() % 16, writable=False)

    def _output(self, size: int, dtype: torch.dtype, filled: Tensor | None = None) -> Tensor:
        """A writable buffer, full of ones unless it is given."""
        start = torch.full((size * dtype.itemsize,), 255, dtype=torch.uint8).view(dtype)
        return self._placed(start if filled is None else filled, 0, writable=True)

    def _placed(self, tensor: Tensor, shift: int, *, writable: bool) -> Tensor:
        size = tensor.numel() * tensor.itemsize
        buffer = torch.full((size + 2 * _GUARD + 32,), 255, dtype=torch.uint8)
        begin = _GUARD + (shift - buffer.data_ptr() - _GUARD) % 16
        placed = buffer[begin : begin + size].view(tensor.dtype).view(tensor.shape)
        placed.copy_(tensor)
        self._kept.append(buffer)
        self._places.append((placed, size))
        self._library.emulation_allow(
            ctypes.c_uint64(buffer.data_ptr() + begin), ctypes.c_uint64(size), int(writable)
        )
        return placed

    def _table(self, gradients: list[Tensor]) -> tuple[object, int, int, int, int]:
        size = self._library.emulation_tensor_bytes()
        table = ctypes.create_string_buffer(size * len(gradients))
        dimension = chunks = 0
        for place, gradient in enumerate(gradients):
            units, elements = gradient.shape[0], gradient.shape[1:].numel()
            rows = gradient if _has_dense_rows(gradient) else gradient.contiguous()
            stride = rows.stride(0)
            # All that lies between the first unit's row and the last's, so that rows keep their places.
            span = (units - 1) * stride + elements if units and elements else 0
            flat = torch.as_strided(rows, (span,), (1,), rows.storage_offset())
            placed = self._input(flat)
            self._library.emulation_set_tensor(
                table, ctypes.c_int64(place), ctypes.c_void_p(placed.data_ptr()), ctypes.c_int64(stride),
                ctypes.c_int64(elements), ctypes.c_int64(dimension), ctypes.c_int64(chunks),
                _TYPES[gradient.dtype],
            )  # fmt: skip
            dimension += elements
            chunks += -(-elements // _CHUNK)
        return table, len(gradients), gradients[0].shape[0], dimension, chunks

    # The launchers.

    def _norms(self, table: tuple[object, int, int, int, int], order: int) -> Tensor:
        partials = self._output(table[2] * table[4], torch.float64)
        norms = self._output(table[2], torch.float64)
        self._call("unit_norms", *table, ctypes.c_int(order), partials, norms)
        return norms

    def _factors(
        self, norms: Tensor, clip_norm: float, sensitivity: int, ranks: Tensor | None = None,
        window: Tensor | None = None, min_clip_norm: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        factors = self._output(norms.shape[0], torch.float64)
        used, counts = self._output(1, torch.float64), self._output(2, torch.int64)
        earlier = torch.empty(0, dtype=torch.float64) if window is None else window
        self._call(
            "clip_factors", norms, norms.shape[0], self._input(earlier), earlier.shape[0],
            None if ranks is None else self._input(ranks), ctypes.c_double(clip_norm),
            ctypes.c_double(min_clip_norm), sensitivity, factors, used, counts,
        )  # fmt: skip
        return factors, used, counts

    def _noised(
        self, table: tuple[object, int, int, int, int], factors: Tensor | None, used: Tensor,
        sensitivity: int, keystream: Tensor, tables: Tensor, scale_bits: int, gaussian: bool,
        total_in: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        noised = self._output(table[3], torch.float32)
        state = self._output(5, torch.int64, keystream)
        self._sum(
            table, factors, used, sensitivity, total_in=total_in, noised=noised, tables=self._input(tables),
            scale_bits=scale_bits, gaussian=gaussian, keystream=state,
        )  # fmt: skip
        keystream.copy_(state)
        return noised

    def _sum(
        self, table: tuple[object, int, int, int, int], factors: Tensor | None, used: Tensor,
        sensitivity: int, *, total_in: Tensor | None = None, total_out: Tensor | None = None,
        noised: Tensor | None = None, tables: Tensor | None = None, scale_bits: int = 0,
        gaussian: bool = False, keystream: Tensor | None = None,
    ) -> None:  # fmt: skip
        self._call(
            "sum_and_release", *table, factors, total_in, total_out, noised, tables,
            ctypes.c_int(scale_bits), ctypes.c_int(gaussian), keystream, used, sensitivity,
        )  # fmt: skip

    def _call(self, name: str, *arguments: object) -> None:
        plain = [
            ctypes.c_void_p(each.data_ptr()) if isinstance(each, Tensor)
            else ctypes.c_int64(each) if isinstance(each, int)
            else each
            for each in arguments
        ]  # fmt: skip
        status = getattr(self._library, f"emulation_{name}")(*plain)
        report = self._library.emulation_report().decode()
        if report or status:
            raise EmulationError(report or f"the launch failed with {status}")


def _has_dense_rows(tensor: Tensor) -> bool:
    expected = 1
    for size, stride in zip(reversed(tensor.shape[1:]), reversed(tensor.stride()[1:]), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
