"""Fixtures of the kernels, and the one table of cases that every backend must equal the reference on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest
import torch

from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale, Law, NormOrder

VECTOR_KEY = bytes(range(32))


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
