"""The promised order of a norm's additions, followed by plain loops; and the reference's own blocking."""

import math

import numpy as np
import pytest
import torch

from adpfl.kernels import reference
from adpfl.kernels.lattice import LatticeScale


def slow_lane_sum(terms: list[float]) -> float:
    lanes = [0.0] * 1024
    for place, term in enumerate(terms):
        lanes[place % 1024] += term
    half = 512
    while half:
        for lane in range(half):
            lanes[lane] += lanes[lane + half]
        half //= 2
    return lanes[0]


def slow_norm(tensors: list[np.ndarray], order: int) -> float:
    partials = []
    for tensor in tensors:
        values = [float(value) for value in tensor.ravel()]
        terms = [value * value if order == 2 else abs(value) for value in values]
        partials += [slow_lane_sum(terms[start : start + 16384]) for start in range(0, len(terms), 16384)]
    total = slow_lane_sum(partials)
    return math.sqrt(total) if order == 2 else total


@pytest.fixture
def gradients() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 40_000), (3,), (3, 1), (3, 1023), (3, 1025), (3, 0), (3, 5, 7, 3), (3, 16_384), (3, 17)]
    # Magnitudes over forty octaves: another order of additions gives other bits.
    return [
        torch.randn(shape, generator=generator) * torch.exp(7 * torch.randn(shape, generator=generator))
        for shape in shapes
    ]


@pytest.mark.parametrize("order", [1, 2])
def test_norms_follow_the_documented_order_to_the_bit(gradients, order):
    norms = reference.unit_norms(gradients, order=order)
    slow = [slow_norm([gradient[unit].numpy() for gradient in gradients], order) for unit in range(3)]
    assert norms.tolist() == slow
    flat = np.concatenate([gradient.reshape(3, -1).double().numpy() for gradient in gradients], axis=1)
    assert norms.numpy() == pytest.approx(np.linalg.norm(flat, ord=order, axis=1), rel=1e-14)


@pytest.mark.parametrize("order", [1, 2])
def test_many_partials_follow_the_order_too(order):
    # More than 1024 partials a unit: the second stage has a second row of lanes.
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(2, 2, generator=generator) for _ in range(1100)]
    norms = reference.unit_norms(gradients, order=order)
    assert norms.tolist() == [
        slow_norm([each[unit].numpy() for each in gradients], order) for unit in range(2)
    ]


def test_roots_are_correctly_rounded():
    # Among these, torch's own square root misses the last bit of several.
    units = torch.randn(2000, 37, generator=torch.Generator().manual_seed(7)) * 1e3
    sums = [slow_lane_sum([float(value) ** 2 for value in unit]) for unit in units.tolist()]
    assert reference.unit_norms([units], order=2).tolist() == [math.sqrt(value) for value in sums]


@pytest.mark.parametrize("elements", [1, 100, 16_384, 50_000, 1 << 30])
def test_the_size_of_a_block_changes_no_bit(gradients, monkeypatch, elements):
    norms = reference.unit_norms(gradients, order=2)
    blocks = [block.clone() for block in reference._double_blocks(gradients[0], multiple_of=1)]
    monkeypatch.setattr(reference, "_BLOCK_ELEMENTS", elements)
    assert torch.equal(reference.unit_norms(gradients, order=2), norms)
    again = list(reference._double_blocks(gradients[0], multiple_of=1))
    assert torch.equal(torch.cat(again, dim=1), torch.cat(blocks, dim=1))


def test_blocks_are_copies():
    gradient = torch.ones(2, 3)
    for block in reference._double_blocks(gradient, multiple_of=1):
        block.zero_()
    assert (gradient == 1).all()


@pytest.mark.parametrize("clip_norm", [0.3, 12.0])
def test_the_clip_factor_is_one_division_in_double(clip_norm):
    # A (1 - 2^-30) is an integer and each unit is one number, so g * f lands on an integer or the last bit
    # below it: a second rounding anywhere turns many of the truncations.
    lattice = LatticeScale(30, 3 << 30)
    units = torch.randn(400, 1, generator=torch.Generator().manual_seed(2)) * 10
    for value in units[:, 0].tolist():
        total = torch.zeros(1, dtype=torch.int64)
        norm = torch.tensor([abs(value)], dtype=torch.float64)
        reference.clip_accumulate_(
            total, [torch.tensor([[value]])], norm, clip_norm=clip_norm, lattice=lattice
        )
        factor = (lattice.sensitivity * (1 - 2**-30)) / max(abs(value), clip_norm)
        assert total.item() == math.trunc(value * factor)
