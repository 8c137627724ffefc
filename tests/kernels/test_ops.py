"""The public calls: the sensitivity they promise, exact release, equality of the two forms, odd input."""

from fractions import Fraction

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adpfl.errors import KeystreamExhaustedError, PrivacyError
from adpfl.kernels import reference
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale, gaussian_draws, laplace_draws
from adpfl.kernels.ops import (
    PercentileClip,
    clip_accumulate_,
    dp_release,
    nearest_rank_percentile,
    release,
    unit_norms,
)

LAPLACE = LatticeScale.for_noise_multiplier(0.001, law="laplace")
GAUSSIAN = LatticeScale.for_noise_multiplier(0.8, law="gaussian")


def normal(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def lattice_sum(gradients, *, clip_norm=1.0, lattice=LAPLACE, order=2) -> list[int]:
    """The clipped units' sum as Python integers."""
    total = torch.zeros(sum(each.shape[1:].numel() for each in gradients), dtype=torch.int64)
    norms = unit_norms(gradients, order=order)
    clip_accumulate_(total, gradients, norms, clip_norm=clip_norm, lattice=lattice)
    return total.tolist()


# Sensitivity: the bound in Python integers, for every unit that can be written down.

finite_floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
nasty_floats = st.one_of(
    finite_floats,
    st.sampled_from(
        [0.0, -0.0, 2.0**-149, -(2.0**-126), 1.0, -1.0, 3.4028234663852886e38, 1 / 3, 1e-30, -1e30]
    ),
)
nasty_units = arrays.arrays(np.float32, st.integers(0, 40), elements=nasty_floats)
clip_norms = st.one_of(
    st.sampled_from([2.0**-126, 2.0**127, 1.0, 1e-6, 0.1]), st.floats(min_value=2.0**-126, max_value=2.0**127)
)
multipliers = st.one_of(st.sampled_from([2.0**-21, 0.001, 0.5, 1.0, 1e6]), st.floats(2.0**-21, 1e6))


@given(unit=nasty_units, clip_norm=clip_norms, multiplier=multipliers)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_unit_never_exceeds_the_l2_sensitivity(unit, clip_norm, multiplier):
    lattice = LatticeScale.for_noise_multiplier(multiplier, law="laplace")
    v = lattice_sum([torch.from_numpy(unit)[None]], clip_norm=clip_norm, lattice=lattice)
    assert sum(value * value for value in v) <= lattice.sensitivity**2


@given(unit=nasty_units, clip_norm=clip_norms, multiplier=multipliers)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_unit_never_exceeds_the_l1_sensitivity(unit, clip_norm, multiplier):
    lattice = LatticeScale.for_noise_multiplier(multiplier, law="laplace", order=1)
    v = lattice_sum([torch.from_numpy(unit)[None]], clip_norm=clip_norm, lattice=lattice, order=1)
    assert sum(map(abs, v)) <= lattice.sensitivity


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dimension", [1, 2, 3, 1000, 300_001])
@pytest.mark.parametrize("size", [1.0, 1 / 3, 3e38, 2.0**-140])
def test_a_long_even_unit_comes_close_to_the_bound_and_stays_below(order, dimension, size):
    lattice = LatticeScale.for_noise_multiplier(0.5, law="laplace", order=order)
    unit = torch.full((1, dimension), size)
    norm = float(unit_norms([unit], order=order))
    v = lattice_sum([unit], clip_norm=max(2.0**-126, min(norm, 2.0**127)), lattice=lattice, order=order)
    length = sum(abs(value) ** order for value in v)
    assert length <= lattice.sensitivity**order
    if norm > 2.0**-126:
        lost = dimension ** (1 / order) / lattice.sensitivity + 2.0**-29
        assert length >= Fraction(lattice.sensitivity * (1 - lost)) ** order


def test_a_wide_clip_does_not_scale_up():
    v = lattice_sum([torch.tensor([[0.25, -0.5]])], clip_norm=2.0, lattice=LatticeScale(20, 1000))
    # f = 1000 (1 - 2^-30) / 2, truncated toward zero.
    assert v == [124, -249]


def test_the_norm_spans_all_tensors():
    gradients = [torch.full((1, 4), 3.0), torch.full((1, 4), -4.0)]
    assert unit_norms(gradients).item() == 10.0
    assert unit_norms(gradients, order=1).item() == 28.0
    assert sum(value**2 for value in lattice_sum(gradients)) == pytest.approx(
        LAPLACE.sensitivity**2, rel=1e-8
    )


# Odd units.


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_unit_that_is_not_finite_contributes_zero_and_is_counted(bad):
    gradients = normal((4, 10), (4, 2000))
    gradients[1][2, 1234] = bad
    norms = unit_norms(gradients)
    assert torch.isfinite(norms).tolist() == [True, True, False, True]
    total = torch.zeros(2010, dtype=torch.int64)
    counts = clip_accumulate_(total, gradients, norms, clip_norm=1.0, lattice=LAPLACE)
    assert counts == (3, 1)
    others = [gradient[[0, 1, 3]] for gradient in gradients]
    assert total.tolist() == lattice_sum(others)


def test_counts_tell_clipped_units_from_whole_ones():
    gradients = [torch.tensor([[3.0], [1.0], [0.5], [0.0], [-2.0]])]
    total = torch.zeros(1, dtype=torch.int64)
    counts = clip_accumulate_(total, gradients, unit_norms(gradients), clip_norm=1.0, lattice=LAPLACE)
    assert counts.clipped == 2
    assert counts.nonfinite == 0


@pytest.mark.parametrize("law", ["laplace", "gaussian"])
def test_an_empty_batch_is_pure_noise(key, law):
    lattice = LAPLACE if law == "laplace" else GAUSSIAN
    made = dp_release(
        [torch.zeros(0, 300), torch.zeros(0, 2, 3)], clip_norm=0.5, lattice=lattice, law=law, key=key, step=3
    )
    draws = (laplace_draws if law == "laplace" else gaussian_draws)(
        key, scale_bits=lattice.scale_bits, step=3, first_index=0, count=306
    )
    expected = (draws.astype(np.float64) * (0.5 / (2 * lattice.sensitivity))).astype(np.float32)
    assert np.array_equal(made.noised_sum.numpy(), expected)
    assert made.norms.shape == (0,)
    assert made.counts == (0, 0)


def test_no_coordinates_release_nothing(key):
    made = dp_release([torch.zeros(3, 0)], clip_norm=1.0, lattice=LAPLACE, law="laplace", key=key, step=0)
    assert made.noised_sum.shape == (0,)
    assert made.norms.tolist() == [0.0] * 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_read_exactly(dtype):
    short = [gradient.to(dtype) for gradient in normal((3, 500), (3, 7))]
    wide = [gradient.float() for gradient in short]
    assert torch.equal(unit_norms(short), unit_norms(wide))
    assert lattice_sum(short) == lattice_sum(wide)
    assert lattice_sum([short[0], wide[1]]) == lattice_sum(wide)


def test_strides_change_nothing():
    base = normal((6, 40, 50))[0]
    views = [base[::2, :, ::3], base[:3].transpose(1, 2), base[:1].expand(3, 40, 50), base[:3].flip(0)]
    for view in views:
        assert not view.is_contiguous() or view is views[3]
        assert torch.equal(unit_norms([view]), unit_norms([view.contiguous()]))
        assert lattice_sum([view]) == lattice_sum([view.contiguous()])


def test_gradients_are_read_only_and_may_require_grad():
    gradients = [gradient.requires_grad_() for gradient in normal((2, 30))]
    before = gradients[0].detach().clone()
    assert not unit_norms(gradients).requires_grad
    lattice_sum(gradients)
    assert torch.equal(gradients[0], before)


# Release.


def test_a_release_is_the_integer_sum_times_one_factor(key):
    total = torch.tensor([0, 1, -1, 1 << 40, -(1 << 60) - 1, (1 << 53) + 1], dtype=torch.int64)
    made = release(total, clip_norm=0.3, lattice=LAPLACE, law="laplace", key=key, step=7)
    draws = laplace_draws(key, scale_bits=20, step=7, first_index=0, count=6).tolist()
    expected = [
        np.float32(float(2 * value + draw) * (0.3 / (2 * LAPLACE.sensitivity)))
        for value, draw in zip(total.tolist(), draws, strict=True)
    ]
    assert made.dtype == torch.float32
    assert made.tolist() == [float(value) for value in expected]


def test_release_in_blocks_is_one_release(same_key, monkeypatch):
    total = torch.arange(3000)
    arguments = {"clip_norm": 1.0, "lattice": GAUSSIAN, "law": "gaussian", "step": 0}
    whole = release(total, key=same_key(), **arguments)
    monkeypatch.setattr(reference, "_BLOCK_ELEMENTS", 700)
    assert torch.equal(reference.release(total, key=same_key(), **arguments), whole)


def test_the_noise_has_the_scale_that_was_asked_for():
    with KeystreamKey.from_bytes(bytes(32)) as key:
        for step, z in enumerate((0.001, 1.0, 1000.0)):
            for law, spread in (("laplace", 1.0), ("gaussian", np.sqrt(2 / np.pi))):
                lattice = LatticeScale.for_noise_multiplier(z, law=law)
                zeros = torch.zeros(100_000, dtype=torch.int64)
                made = release(
                    zeros,
                    clip_norm=3.0,
                    lattice=lattice,
                    law=law,
                    key=key,
                    step=2 * step + (law == "gaussian"),
                )
                assert made.abs().double().mean().item() == pytest.approx(3.0 * z * spread, rel=0.02)


@pytest.mark.parametrize(("law", "lattice"), [("laplace", LAPLACE), ("gaussian", GAUSSIAN)])
@pytest.mark.parametrize("order", [1, 2])
def test_three_calls_over_physical_batches_equal_one_call(same_key, law, lattice, order):
    gradients = normal((9, 33, 5), (9,), (9, 2000))
    gradients[0][4] = float("nan")
    whole = dp_release(
        gradients, clip_norm=5.0, lattice=lattice, law=law, key=same_key(), step=1, order=order
    )
    for batches in ([range(9)], [range(4), range(4, 9)], [range(7, 9), range(0), range(3, 7), range(3)]):
        total = torch.zeros(2166, dtype=torch.int64)
        clipped = nonfinite = 0
        for batch in batches:
            part = [gradient[list(batch)] for gradient in gradients]
            norms = unit_norms(part, order=order)
            assert torch.equal(norms.nan_to_num(-1), whole.norms[list(batch)].nan_to_num(-1))
            counts = clip_accumulate_(total, part, norms, clip_norm=5.0, lattice=lattice)
            clipped, nonfinite = clipped + counts.clipped, nonfinite + counts.nonfinite
        made = release(total, clip_norm=5.0, lattice=lattice, law=law, key=same_key(), step=1)
        assert torch.equal(made, whole.noised_sum)
        assert (clipped, nonfinite) == whole.counts


def test_a_key_serves_a_step_once(key):
    total = torch.zeros(3, dtype=torch.int64)
    arguments = {"clip_norm": 1.0, "lattice": LAPLACE, "law": "laplace", "key": key}
    release(total, step=1, **arguments)
    with pytest.raises(PrivacyError, match="step is 1; must be above 1"):
        release(total + 1, step=1, **arguments)
    with pytest.raises(PrivacyError, match="step is 0; must be above 1"):
        dp_release(normal((2, 3)), step=0, **arguments)
    with pytest.raises(KeystreamExhaustedError, match="step is 4294967296"):
        release(total, step=1 << 32, **arguments)
    release(total, step=2, **arguments)


def test_a_refused_release_does_not_use_up_its_step(key):
    arguments = {"lattice": LAPLACE, "law": "laplace", "key": key, "step": 0}
    with pytest.raises(PrivacyError):
        dp_release(normal((2, 3)), clip_norm=-1.0, **arguments)
    with pytest.raises(PrivacyError):
        dp_release([torch.full((1, 1), 3e38)], clip_norm=PercentileClip(50, 1.0, 1e-6), **arguments)
    dp_release(normal((2, 3)), clip_norm=1.0, **arguments)


# The percentile.


@pytest.mark.parametrize(
    ("percentile", "expected"),
    [(0, 1.0), (0.5, 1.0), (1, 1.0), (1.5, 2.0), (7, 7.0), (29, 29.0), (99.5, 100.0), (100, 100.0)],
)
def test_nearest_rank_of_a_hundred(percentile, expected):
    shuffled = torch.randperm(100, generator=torch.Generator().manual_seed(3)).double() + 1
    assert nearest_rank_percentile(shuffled, percentile) == expected


def test_the_rank_takes_the_percentile_as_it_is_written():
    norms = torch.arange(1, 1001).double()
    # In binary 16.1 * 1000 / 100 is above 161, and rounding up would take the next norm.
    for tenths in range(1, 1001):
        assert nearest_rank_percentile(norms, tenths / 10) == tenths


@settings(deadline=None, derandomize=True)
@given(
    norms=st.lists(st.floats(min_value=0.0) | st.just(float("nan")), max_size=30),
    percentile=st.integers(0, 100),
)
def test_the_percentile_is_the_smallest_norm_that_covers_it(norms, percentile):
    found = nearest_rank_percentile(torch.tensor(norms, dtype=torch.float64), percentile)
    finite = sorted(norm for norm in norms if np.isfinite(norm))
    if not finite:
        assert found is None
        return
    covering = [
        norm for norm in finite if 100 * sum(other <= norm for other in finite) >= percentile * len(finite)
    ]
    assert found == covering[0]


def test_a_percentile_clip_ranks_the_window_with_the_batch(same_key):
    gradients = [torch.tensor([[3.0], [float("inf")], [1.0]])]
    earlier = torch.tensor([2.0, float("nan"), 10.0, 20.0], dtype=torch.float64)
    arguments = {"lattice": LAPLACE, "law": "laplace", "step": 0}
    made = dp_release(
        gradients, clip_norm=PercentileClip(50, 9.0, 1e-6, earlier), key=same_key(), **arguments
    )
    assert made.clip_norm == 3.0
    fixed = dp_release(gradients, clip_norm=3.0, key=same_key(), **arguments)
    assert torch.equal(made.noised_sum, fixed.noised_sum)
    assert made.counts == fixed.counts == (0, 1)


@pytest.mark.parametrize(
    ("units", "expected"), [([float("nan")], 9.0), ([], 9.0), ([0.0, 0.0], 0.25), ([0.5], 0.5)]
)
def test_a_percentile_clip_without_norms_starts_and_never_falls_to_zero(key, units, expected):
    gradients = [torch.tensor(units).reshape(-1, 1)]
    made = dp_release(
        gradients, clip_norm=PercentileClip(50, 9.0, 0.25), lattice=LAPLACE, law="laplace", key=key, step=0
    )
    assert made.clip_norm == expected
