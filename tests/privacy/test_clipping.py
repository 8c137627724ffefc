"""The sensitivity of a clipped sum, in exact integers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from adpfl.errors import PrivacyError
from adpfl.kernels.lattice import LatticeScale
from adpfl.privacy.clipping import clipped_lattice_sum, gradient_norms, unsafe_plain_sum

LATTICE = LatticeScale.for_noise_multiplier(1.0, law="laplace")
DIMENSION = 3 * 5 + 7


def chunk(units: int, *, scale: float = 1.0, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(units, *shape, generator=generator) for shape in ((3, 5), (7,))]


def total_of(chunks: list[list[Tensor]], clip_norm: float = 1.0) -> Tensor:
    return clipped_lattice_sum(chunks, clip_norm=clip_norm, lattice=LATTICE, dimension=DIMENSION).total


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e3, 1e30])
@pytest.mark.parametrize("clip_norm", [1e-6, 1.0, 1e4])
def test_one_unit_moves_the_sum_by_at_most_the_sensitivity(scale: float, clip_norm: float) -> None:
    others = chunk(4, seed=1)
    unit = chunk(1, scale=scale, seed=2)
    moved = total_of([others, unit], clip_norm) - total_of([others], clip_norm)
    assert sum(int(value) ** 2 for value in moved) <= LATTICE.sensitivity**2


def test_clip_is_over_all_tensors_together_not_each_alone() -> None:
    unit = chunk(1, scale=100.0)
    length = torch.linalg.vector_norm(total_of([unit]).double()) / LATTICE.sensitivity
    assert float(length) == pytest.approx(1.0, rel=1e-6)


def test_chunking_changes_no_bit() -> None:
    whole = chunk(6)
    pieces = [[tensor[start : start + 2] for tensor in whole] for start in (0, 2, 4)]
    assert torch.equal(total_of([whole]), total_of(pieces))
    assert np.array_equal(gradient_norms([whole]), gradient_norms(pieces))


def test_nonfinite_units_contribute_zero_and_are_counted() -> None:
    units = chunk(3)
    expected = total_of([[tensor[2:] for tensor in units]])
    units[0][0, 0, 0] = torch.nan
    units[1][1, 3] = torch.inf
    found = clipped_lattice_sum([units], clip_norm=1.0, lattice=LATTICE, dimension=DIMENSION)
    assert found.nonfinite == 2
    assert torch.equal(found.total, expected)
    plain = unsafe_plain_sum([units], dimension=DIMENSION)
    assert plain.nonfinite == 2
    assert torch.isfinite(plain.total).all()


def test_no_units_give_a_sum_of_zero() -> None:
    found = clipped_lattice_sum([], clip_norm=1.0, lattice=LATTICE, dimension=DIMENSION)
    assert torch.equal(found.total, torch.zeros(DIMENSION, dtype=torch.int64))
    assert found.norms.shape == (0,)


@pytest.mark.parametrize("dimension", [DIMENSION - 1, DIMENSION + 1])
def test_gradients_of_another_dimension_than_was_accounted_are_refused(dimension: int) -> None:
    with pytest.raises(PrivacyError, match=f"must have {dimension}, as was accounted for"):
        clipped_lattice_sum([chunk(2)], clip_norm=1.0, lattice=LATTICE, dimension=dimension)
