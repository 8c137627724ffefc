"""Finds the compiled kernels and says what runs: never a guess.

The library holds no Python code and is bound to torch by torch's stable ABI alone; loading it registers its
kernels for operators that `adpfl.kernels.operators` has defined.
"""

import ctypes
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import torch

INTERFACE_VERSION: Final = 1
"""Must equal kInterfaceVersion in csrc/dp_release.h: the operators' arguments and the tables' layout."""

MEND: Final = (
    "install torch 2.10 or later and a C++ compiler, then "
    "`ADPFL_REQUIRE_EXT=1 pip install --no-deps --force-reinstall .` in adpfl's source"
)

_ABSENCE_NOTE: Final = "_native.absent"
"""Left by setup.py where it could not build the library: why."""
_FOLDER: Final = Path(__file__).resolve().parent
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extension:
    """The compiled kernels, or why there are none.

    Attributes:
        path: the library that was loaded, or None.
        reason: why none was loaded; empty where one was.
        simd: what the CPU kernels run on: avx512, avx2 or scalar; empty without a library.
        cuda: the architectures of the CUDA code in the library; empty where there is none.
    """

    path: Path | None
    reason: str = ""
    simd: str = ""
    cuda: str = ""

    def __str__(self) -> str:
        """One line for people: what runs, and why."""
        if self.path is None:
            return f"reference (PyTorch and NumPy): {self.reason}; to mend it, {MEND}"
        return f"compiled (cpu: {self.simd}; cuda: {self.cuda or 'not built, reference'})"


@cache
def load() -> Extension:
    """Load the library that stands beside this module, once a process."""
    found = sorted(_FOLDER.glob("_native*.so"))
    if not found:
        return _fallback(_why_absent())
    path = found[0]
    load_library: Callable[[Path], None] = torch.ops.load_library
    try:
        library = ctypes.CDLL(str(path))
        version = int(library.adpfl_interface_version())
        if version != INTERFACE_VERSION:
            return _fallback(f"{path.name} has interface {version}; this package needs {INTERFACE_VERSION}")
        load_library(path)
    except (OSError, AttributeError) as error:
        return _fallback(f"{path.name} does not load with torch {torch.__version__}: {error}")
    return Extension(path, simd=_text(library, "adpfl_simd"), cuda=_text(library, "adpfl_cuda_architectures"))


def _why_absent() -> str:
    try:
        reason = (_FOLDER / _ABSENCE_NOTE).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return "no compiled library is installed"
    return f"adpfl was built without compiled kernels, as {reason}"


def _fallback(reason: str) -> Extension:
    extension = Extension(None, reason)
    _log.warning("kernels: %s", extension)
    return extension


def _text(library: ctypes.CDLL, function: str) -> str:
    call = getattr(library, function)
    call.restype = ctypes.c_char_p
    return bytes(call()).decode()
