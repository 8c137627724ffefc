"""The operators of the CUDA code on the emulated device: tensors in, tensors out."""

import contextlib
import ctypes
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from toolchain import Sanitizer
from torch import Tensor

ORDERS = {"forward": 0, "reverse": 1, "shuffled": 2}

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_CHUNK = 16384
_TENSORS_PER_LAUNCH = 256
_GUARD = 64  # bytes around each buffer that no kernel may touch


class EmulationError(AssertionError):
    """The emulated device stopped at something that a kernel must not do."""


@dataclass(frozen=True)
class Row:
    """One tensor of gradients as the kernels are told of it."""

    numbers: Tensor
    stride: int
    elements: int
    first_index: int
    first_chunk: int


@dataclass(frozen=True)
class Table:
    """All tensors of a call."""

    rows: tuple[Row, ...]
    units: int
    dimension: int
    chunks: int


Argument = Table | Tensor | int | float | None


class Device(Protocol):
    """Where the kernels run. A tensor among the arguments is a buffer that was allowed."""

    def reset(self, order: int) -> None:
        """Forget every buffer; blocks and threads run in this order from now on."""

    def allow(self, placed: Tensor, *, writable: bool) -> None:
        """Let the kernels use a buffer."""

    def call(self, name: str, arguments: list[Argument]) -> tuple[int, str]:
        """Call a launcher: its status, and the report, empty where all is well."""


class Library:
    """The device in this process, which judges each access by itself."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.emulation_report.restype = ctypes.c_char_p
        self._library.emulation_tensor_bytes.restype = ctypes.c_int64
        self._library.emulation_traffic.restype = ctypes.c_uint64

    def reset(self, order: int) -> None:
        self._library.emulation_reset(order)

    def allow(self, placed: Tensor, *, writable: bool) -> None:
        size = placed.numel() * placed.itemsize
        self._library.emulation_allow(
            ctypes.c_uint64(placed.data_ptr()), ctypes.c_uint64(size), int(writable)
        )

    def call(self, name: str, arguments: list[Argument]) -> tuple[int, str]:
        plain = [each for argument in arguments for each in self._plain(argument)]
        status = getattr(self._library, f"emulation_{name}")(*plain)
        return status, self._library.emulation_report().decode()

    def traffic(self, placed: Tensor) -> tuple[int, int]:
        """Bytes that kernels read and wrote in a buffer."""
        read, written = (
            self._library.emulation_traffic(ctypes.c_uint64(placed.data_ptr()), each) for each in (0, 1)
        )
        return read, written

    def _plain(self, argument: Argument) -> list[object]:
        if isinstance(argument, Table):
            sizes = (len(argument.rows), argument.units, argument.dimension, argument.chunks)
            return [self._packed(argument.rows), *map(ctypes.c_int64, sizes)]
        if isinstance(argument, Tensor):
            return [ctypes.c_void_p(argument.data_ptr())]
        if isinstance(argument, float):
            return [ctypes.c_double(argument)]
        return [None if argument is None else ctypes.c_int64(argument)]

    def _packed(self, rows: tuple[Row, ...]) -> object:
        size = self._library.emulation_tensor_bytes()
        packed = ctypes.create_string_buffer(size * len(rows) or 1)
        for place, row in enumerate(rows):
            self._library.emulation_set_tensor(
                packed, ctypes.c_int64(place), ctypes.c_void_p(row.numbers.data_ptr()),
                ctypes.c_int64(row.stride), ctypes.c_int64(row.elements), ctypes.c_int64(row.first_index),
                ctypes.c_int64(row.first_chunk), _TYPES[row.numbers.dtype],
            )  # fmt: skip
        return packed


class Sanitized:
    """The device in a process of its own, under a sanitizer: runner.cpp has the other end.

    A buffer there is an allocation of its own; what the kernels write comes back after each call.
    """

    def __init__(self, program: Path, sanitizer: Sanitizer) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, **dict(sanitizer.options)},
        )
        self._placed: list[tuple[Tensor, bool]] = []

    def reset(self, order: int) -> None:
        self._write(f"order {order}\n".encode())
        self._placed = []

    def allow(self, placed: Tensor, *, writable: bool) -> None:
        content = _bytes_of(placed)
        head = f"buffer {len(content)} {placed.data_ptr() % 16} {int(writable)}\n"
        self._write(head.encode() + content)
        self._placed.append((placed, writable))

    def call(self, name: str, arguments: list[Argument]) -> tuple[int, str]:
        words = [word for argument in arguments for word in self._words(argument)]
        self._write(" ".join(["call", name, *map(str, words)]).encode() + b"\n")
        first = self._process.stdout.readline().split()
        if len(first) != 2:
            return 0, self._last_words()
        status, length = map(int, first)
        report = self._process.stdout.read(length).decode()
        for placed, writable in self._placed:
            if writable:
                content = bytearray(self._process.stdout.read(placed.numel() * placed.itemsize))
                if content:
                    placed.view(-1).copy_(torch.frombuffer(content, dtype=placed.dtype))
        return status, report

    def close(self) -> str:
        """End the process. What the sanitizer had to say, empty where nothing."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        said = self._last_words()
        self._process.stdout.close()
        self._said.close()
        return said

    def _last_words(self) -> str:
        status = self._process.wait(timeout=60)
        self._said.seek(0)
        said = self._said.read().decode(errors="replace")
        return f"the sanitizer ended the process with {status}:\n{said}" if status else ""

    def _write(self, command: bytes) -> None:
        try:
            self._process.stdin.write(command)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EmulationError(self._last_words()) from None

    def _words(self, argument: Argument) -> list[int | float]:
        if isinstance(argument, Table):
            words = [argument.units, argument.dimension, argument.chunks, len(argument.rows)]
            for row in argument.rows:
                words += [self._place(row.numbers), row.stride, row.elements, row.first_index]
                words += [row.first_chunk, _TYPES[row.numbers.dtype]]
            return words
        if isinstance(argument, Tensor):
            return [self._place(argument)]
        return [-1 if argument is None else argument]

    def _place(self, tensor: Tensor) -> int:
        return next(place for place, (placed, _) in enumerate(self._placed) if placed is tensor)


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


class Emulator:
    """The operators of the CUDA code, as csrc/ops.cpp calls its launchers.

    Every buffer is a copy with guard bytes around it, and the device knows which it may read and write.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.order = "forward"
        self._kept: list[Tensor] = []
        self._placed_buffers: list[Tensor] = []

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
        table = Table((), 0, total.shape[0], 0)
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
            zeros = torch.zeros(table.dimension, dtype=torch.int64)
            total = self._output(table.dimension, torch.int64, zeros)
            self._sum(table, factors, used, sensitivity, total_in=total, total_out=total)
            table = Table((), 0, table.dimension, 0)
        noised = self._noised(
            table, factors, used, sensitivity, keystream, tables, scale_bits, gaussian, total_in=total
        )
        return noised, used, norms, counts

    def traffic(self) -> list[tuple[int, int, int]]:
        """For each buffer of the last call: its size, bytes read, bytes written; gradients come first."""
        return [
            (placed.numel() * placed.itemsize, *self.device.traffic(placed))
            for placed in self._placed_buffers
            if placed.numel()
        ]

    # The device's memory.

    def _begin(self) -> None:
        self.device.reset(ORDERS[self.order])
        self._kept, self._placed_buffers = [], []

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
        self._placed_buffers.append(placed)
        self.device.allow(placed, writable=writable)
        return placed

    def _table(self, gradients: list[Tensor]) -> Table:
        made = []
        dimension = chunks = 0
        for gradient in gradients:
            units, elements = gradient.shape[0], gradient.shape[1:].numel()
            rows = gradient if _has_dense_rows(gradient) else gradient.contiguous()
            stride = rows.stride(0)
            # All that lies between the first unit's row and the last's, so that rows keep their places.
            span = (units - 1) * stride + elements if units and elements else 0
            flat = torch.as_strided(rows, (span,), (1,), rows.storage_offset())
            made.append(Row(self._input(flat), stride, elements, dimension, chunks))
            dimension += elements
            chunks += -(-elements // _CHUNK)
        return Table(tuple(made), gradients[0].shape[0], dimension, chunks)

    # The launchers.

    def _norms(self, table: Table, order: int) -> Tensor:
        partials = self._output(table.units * table.chunks, torch.float64)
        norms = self._output(table.units, torch.float64)
        self._call("unit_norms", table, order, partials, norms)
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
            None if ranks is None else self._input(ranks), float(clip_norm),
            float(min_clip_norm), sensitivity, factors, used, counts,
        )  # fmt: skip
        return factors, used, counts

    def _noised(
        self, table: Table, factors: Tensor | None, used: Tensor,
        sensitivity: int, keystream: Tensor, tables: Tensor, scale_bits: int, gaussian: bool,
        total_in: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        noised = self._output(table.dimension, torch.float32)
        state = self._output(5, torch.int64, keystream)
        self._sum(
            table, factors, used, sensitivity, total_in=total_in, noised=noised, tables=self._input(tables),
            scale_bits=scale_bits, gaussian=gaussian, keystream=state,
        )  # fmt: skip
        keystream.copy_(state)
        return noised

    def _sum(
        self, table: Table, factors: Tensor | None, used: Tensor,
        sensitivity: int, *, total_in: Tensor | None = None, total_out: Tensor | None = None,
        noised: Tensor | None = None, tables: Tensor | None = None, scale_bits: int = 0,
        gaussian: bool = False, keystream: Tensor | None = None,
    ) -> None:  # fmt: skip
        self._call(
            "sum_and_release", table, factors, total_in, total_out, noised, tables,
            scale_bits, int(gaussian), keystream, used, sensitivity,
        )  # fmt: skip

    def _call(self, name: str, *arguments: Argument) -> None:
        status, report = self.device.call(name, list(arguments))
        if report or status:
            raise EmulationError(report or f"the launch failed with {status}")


def _has_dense_rows(tensor: Tensor) -> bool:
    expected = 1
    for size, stride in zip(reversed(tensor.shape[1:]), reversed(tensor.stride()[1:]), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
