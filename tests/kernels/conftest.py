"""Fixtures of the kernels, and the one table of cases that every backend must equal the reference on."""

import importlib
import random
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest
import torch

from adpfl.kernels import lattice, reference
from adpfl.kernels import noise_tables as noise_tables_module
from adpfl.kernels.digit_tables import ACCEPTANCE_WIDTHS, TAIL_BITS, AcceptanceTable, DigitTable
from adpfl.kernels.keystream import Domain, KeystreamKey, nonce, words
from adpfl.kernels.lattice import LatticeScale, Law, NormOrder

VECTOR_KEY = bytes(range(32))
SAMPLE_SEED: Final = 2026


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked `sampled(n)`, n parametrizations that are not `full` already stay in the usual run."""
    choices: dict[tuple[Path, str, int], list[pytest.Item]] = {}
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark and isinstance(item, pytest.Function) and not item.get_closest_marker("full"):
            choices.setdefault((item.path, item.originalname, mark.args[0]), []).append(item)
    for (_, name, count), found in choices.items():
        generator = random.Random(f"{SAMPLE_SEED} {name}")
        kept = set(generator.sample(sorted(item.name for item in found), min(count, len(found))))
        for item in found:
            if item.name not in kept:
                item.add_marker(pytest.mark.full)


@pytest.fixture
def key() -> Iterator[KeystreamKey]:
    """The key of the published vectors, bytes 00 to 1f."""
    with KeystreamKey.from_bytes(VECTOR_KEY) as key:
        yield key


@pytest.fixture
def same_key() -> Callable[[], KeystreamKey]:
    """Another owner of the very same bytes, for comparing two paths to one release."""
    return lambda: KeystreamKey.from_bytes(VECTOR_KEY)


@pytest.fixture
def keystream() -> Callable[[int], torch.Tensor]:
    """The operators' keystream tensor of the vectors' key, at a step."""

    def make(step: int) -> torch.Tensor:
        words = torch.frombuffer(bytearray(VECTOR_KEY), dtype=torch.int64)
        return torch.cat([words, torch.tensor([step])])

    return make


@dataclass(frozen=True)
class Case:
    """Gradients and what is done with them.

    `shapes` leave the units out. `change` spoils or rearranges the tensors.
    """

    name: str
    units: int
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype = torch.float32
    law: Law = "laplace"
    scale_bits: int = 20
    order: NormOrder = 2
    clip_norm: float = 3.0
    step: int = 0
    change: Callable[[list[torch.Tensor]], list[torch.Tensor]] = list

    @property
    def lattice(self) -> LatticeScale:
        """A sensitivity that makes every bit of the conversions count."""
        largest = (1 << 40) - 1 if self.order == 1 else (1 << 31) - 1
        return LatticeScale(self.scale_bits, largest // 3 if self.scale_bits == 30 else 54_321)

    def gradients(self) -> list[torch.Tensor]:
        """The same numbers each time, over many octaves."""
        generator = torch.Generator().manual_seed(7)
        wide = self.dtype == torch.float32
        made = []
        for shape in self.shapes:
            numbers = torch.randn(self.units, *shape, generator=generator)
            if wide:
                numbers = numbers * torch.exp(4 * torch.randn(self.units, *shape, generator=generator))
            made.append(numbers.to(self.dtype))
        return self.change(made)


def _spoil(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    gradients[0].view(gradients[0].shape[0], -1)[1, -1] = float("nan")
    gradients[-1].view(gradients[-1].shape[0], -1)[3, 0] = -float("inf")
    return gradients


def _rearrange(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    first, second, third = gradients
    return [first.transpose(1, 2), second[:, ::3], third[:1].expand(third.shape)]


def _misalign(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """Rows that start at every offset, and tensors that do not start at a multiple of 16 bytes."""
    return [
        torch.nn.functional.pad(gradient.view(gradient.shape[0], -1), (place + 1, 2))[:, place + 1 : -2]
        for place, gradient in enumerate(gradients)
    ]


def _mix(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    return [gradient.to(kinds[place % 3]) for place, gradient in enumerate(gradients)]


def _subnormal(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    return [gradient * 2.0**-20 for gradient in gradients]


_EDGES: Final = tuple(
    (size,) for size in (0, 1, 2, 3, 15, 16, 17, 255, 256, 257, 1023, 1024, 1025, 4096, 16_385)
)
CASES: Final = (
    Case("one number", 1, ((1,),)),
    Case("no coordinate", 3, ((0,),)),
    Case("no unit", 0, ((700,), (2, 3))),
    Case("one unit", 1, ((5000,),)),
    *[Case(f"{size} units", size, ((37,),)) for size in (255, 256, 257)],
    Case("edges of every loop", 3, _EDGES),
    Case("two tensors, many tiles", 2, ((40_000,), (3, 33, 7))),
    Case("many small tensors", 2, ((5,),) * 300),
    *[
        Case(f"{dtype}", 4, ((300,), (2, 1029), (17_000,)), dtype=dtype)
        for dtype in (torch.bfloat16, torch.float16)
    ],
    Case("float16 subnormal", 2, ((3000,),), dtype=torch.float16, change=_subnormal, clip_norm=1e-6),
    Case("mixed dtypes", 3, _EDGES, dtype=torch.float16, change=_mix),
    Case("not finite", 5, ((900,), (20_000,)), change=_spoil),
    Case("not finite, bfloat16", 5, ((900,), (20_000,)), change=_spoil, dtype=torch.bfloat16),
    Case("strides", 4, ((30, 20), (999,), (50,)), change=_rearrange),
    Case("misaligned", 4, ((300,), (1000,), (5001,), (77,)), change=_misalign),
    Case("misaligned halves", 4, ((300,), (1000,), (5001,), (77,)), change=_misalign, dtype=torch.bfloat16),
    Case("L1", 3, ((5000,), (40,)), order=1, scale_bits=30),
    Case("wide clip", 3, ((5000,),), clip_norm=1e30),
    Case("narrow clip", 3, ((5000,),), clip_norm=2.0**-126),
    Case("last step", 2, ((3000,),), step=(1 << 32) - 1),
    *[Case(f"laplace s={s}", 2, ((9001,),), scale_bits=s, step=s) for s in (10, 20, 30)],
    *[Case(f"gaussian s={s}", 2, ((9001,),), law="gaussian", scale_bits=s, step=s) for s in (10, 20)],
)


@pytest.fixture(params=CASES, ids=lambda case: case.name.replace(" ", "_"))
def case(request: pytest.FixtureRequest) -> Case:
    """Each case of the table in turn."""
    return request.param


@dataclass(frozen=True)
class Expected:
    """What the reference makes of a case."""

    norms: torch.Tensor
    total: torch.Tensor
    counts: list[int]
    noised: torch.Tensor


@pytest.fixture
def expected(case: Case, key: KeystreamKey) -> Expected:
    """The reference's answer to the case."""
    gradients = case.gradients()
    norms = reference.unit_norms(gradients, order=case.order)
    total = torch.zeros(sum(gradient.shape[1:].numel() for gradient in gradients), dtype=torch.int64)
    reference.clip_accumulate_(total, gradients, norms, clip_norm=case.clip_norm, lattice=case.lattice)
    finite = torch.isfinite(norms)
    noised = reference.release(
        total, clip_norm=case.clip_norm, lattice=case.lattice, law=case.law, key=key, step=case.step
    )
    counts = [int(((norms > case.clip_norm) & finite).sum()), int((~finite).sum())]
    return Expected(norms, total, counts, noised)


@pytest.fixture
def same_bits() -> Callable[[torch.Tensor, torch.Tensor], bool]:
    """Whether two tensors are equal to the bit; a NaN equals any other."""

    def compare(left: torch.Tensor, right: torch.Tensor) -> bool:
        kind = {8: torch.int64, 4: torch.int32}[left.itemsize]
        if left.dtype.is_floating_point:
            left, right = (torch.where(torch.isnan(each), torch.nan, each) for each in (left, right))
        return left.dtype == right.dtype and torch.equal(left.view(kind), right.view(kind))

    return compare


_EMULATION: Final = Path(__file__).resolve().parent.parent / "cuda_emulation"


@pytest.fixture(scope="session")
def builder() -> ModuleType:
    """The builder of the emulated CUDA device."""
    if str(_EMULATION) not in sys.path:
        sys.path.append(str(_EMULATION))
    module = importlib.import_module("toolchain")
    if module.find_nvcc() is None:
        pytest.skip("no nvcc: the CUDA kernels cannot be compiled here")
    return module


@pytest.fixture(scope="session")
def emulation(builder: ModuleType) -> ModuleType:
    """The operators on the emulated CUDA device."""
    return importlib.import_module("emulator")


# Ties: too rare to meet, so the tables are made of the very words that the coordinates will draw.


class _Stream:
    """The uniforms and tails that the first coordinates draw from one domain."""

    def __init__(self, key: KeystreamKey, domain: Domain, step: int, width: int) -> None:
        self._key, self._domain, self._step = key, domain, step
        self._main = words(key, nonce(domain, step=step), 0, 4096 * width).reshape(-1, width)

    def leading(self, coordinate: int, digit: int) -> int:
        return int(self._main[coordinate, digit]) >> 1

    def tail(self, coordinate: int, digit: int) -> int:
        stream = nonce(self._domain, step=self._step, digit=digit, refinement=True)
        high, middle, low = (int(word) for word in words(self._key, stream, 4 * coordinate, 3))
        return (high << 64 | middle << 32 | low) >> 1

    def threshold(self, coordinate: int, digit: int) -> int:
        """U.V itself, or one beside it: a third each below, on and above the uniform."""
        exact = self.leading(coordinate, digit) << TAIL_BITS | self.tail(coordinate, digit)
        return exact + coordinate % 3 - 1


@pytest.fixture
def forced_ties(key: KeystreamKey, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], torch.Tensor]:
    """Replaces every table by one whose thresholds tie with the draws of step 0."""

    def force(law: str, scale_bits: int) -> torch.Tensor:
        domain = Domain.LAPLACE if law == "laplace" else Domain.GAUSSIAN_PROPOSAL
        stream = _Stream(key, domain, 0, 2 if (law, scale_bits) == ("laplace", 10) else 4)
        digits = []
        for position in range(scale_bits // 10 + 1):
            # A large top digit would put nearly every Gaussian proposal beyond the pieces of N.
            ties = 3 if law == "gaussian" and position == scale_bits // 10 else 1023
            chosen = sorted(stream.threshold(i // 2, position) for i in range(ties))
            digits.append(DigitTable.from_thresholds((*chosen, *[1 << 126] * (1023 - ties))))
        pieces = _tied_pieces(key, scale_bits, digits) if law == "gaussian" else ()
        for module in (lattice, noise_tables_module):
            monkeypatch.setattr(module, "digit_table", lambda _, position: digits[position])
            monkeypatch.setattr(module, "acceptance_tables", lambda _: pieces)
        return noise_tables_module.noise_tables.__wrapped__(law, scale_bits)

    return force


def _tied_pieces(key: KeystreamKey, scale_bits: int, digits: list[DigitTable]) -> tuple[AcceptanceTable, ...]:
    """Acceptance tables that let most pieces pass and tie with those of the first coordinates."""
    proposal = _Stream(key, Domain.GAUSSIAN_PROPOSAL, 0, 4)
    trial = _Stream(key, Domain.GAUSSIAN_ACCEPTANCE, 0, 4)
    tables = [[(1 << 126) - 1] * (1 << width) for width in ACCEPTANCE_WIDTHS[scale_bits]]
    for coordinate in range(400 if scale_bits == 20 else 20):  # its tables are small
        magnitude = sum(
            bisect_right(
                table.thresholds,
                proposal.leading(coordinate, m) << TAIL_BITS | proposal.tail(coordinate, m),
            )
            << 10 * m
            for m, table in enumerate(digits)
        )
        rest = (2 * magnitude + 1 - (2 << scale_bits)) ** 2
        for piece, width in enumerate(ACCEPTANCE_WIDTHS[scale_bits]):
            tables[piece][rest % (1 << width)] = trial.threshold(coordinate, piece)
            rest >>= width
    return tuple(AcceptanceTable.from_thresholds(tuple(table)) for table in tables)
