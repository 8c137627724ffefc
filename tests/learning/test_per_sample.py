"""Per-unit gradients against one ordinary backward pass a unit."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from adpfl.learning.per_sample import (
    UnitBatch,
    UnitGradients,
    apart_gradients,
    choose_method,
    layer_gradients,
    microbatch_gradients,
    units_within,
)
from adpfl.tasks.losses import dice_cross_entropy

ModelOf = Callable[..., nn.Module]
BatchOf = Callable[..., UnitBatch]

ARCHITECTURES = ["unet", "segresnet"]
DIMENSIONS = [2, 3]

ROUNDING_64 = 1e-9
"""Relative to a gradient's norm: 2^-52 times at most 10^5 terms in a sum, over some 30 layers."""
ROUNDING_32 = 2e-3
"""The same with 2^-23 and errors that add at random: sqrt(10^5) terms over some 30 layers."""


def flat(chunks: list[list[Tensor]]) -> Tensor:
    """(B, D) from chunks."""
    return torch.cat([torch.cat([tensor.flatten(1) for tensor in chunk], dim=1) for chunk in chunks])


def in_double(model: nn.Module, batch: UnitBatch) -> tuple[nn.Module, UnitBatch]:
    return copy.deepcopy(model).double(), UnitBatch(batch.images.double(), batch.masks, batch.present)


def assert_close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    error = (found - wanted).norm(dim=1)
    assert found.shape == wanted.shape
    assert bool((error <= tolerance * wanted.norm(dim=1)).all()), (error / wanted.norm(dim=1)).tolist()


@pytest.mark.parametrize("spatial_dims", DIMENSIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_pass_equals_the_loop(
    model_of: ModelOf, batch_of: BatchOf, architecture: str, spatial_dims: int
) -> None:
    model = model_of(architecture, spatial_dims, structures=2)
    batch = batch_of(3, 2, spatial_dims, structures=2)
    exact_model, exact_batch = in_double(model, batch)
    oracle = flat([microbatch_gradients(exact_model, exact_batch, dice_cross_entropy)])
    assert_close(flat([layer_gradients(exact_model, exact_batch, dice_cross_entropy)]), oracle, ROUNDING_64)
    assert_close(flat([layer_gradients(model, batch, dice_cross_entropy)]).double(), oracle, ROUNDING_32)
    assert float(oracle.norm(dim=1).min()) > 0
    assert float((oracle[0] - oracle[1]).norm()) > ROUNDING_32 * float(oracle[0].norm())


def test_a_units_gradient_is_the_mean_over_its_records(model_of: ModelOf, batch_of: BatchOf) -> None:
    model, batch = in_double(model_of("unet", 2), batch_of(3, 3, 2))
    together = flat([layer_gradients(model, batch, dice_cross_entropy)])
    for unit in range(len(batch)):
        present = batch.present[unit]
        records = UnitBatch(
            batch.images[unit][present][:, None],
            batch.masks[unit][present][:, None],
            present[present][:, None],
        )
        apart = flat([microbatch_gradients(model, records, dice_cross_entropy)])
        assert len(apart) == unit + 1
        assert_close(together[unit : unit + 1], apart.mean(dim=0, keepdim=True), ROUNDING_64)


@pytest.mark.parametrize("method", ["layers", "microbatch"])
def test_what_stands_in_absent_records_does_not_matter(
    model_of: ModelOf, batch_of: BatchOf, method: str
) -> None:
    model, batch = in_double(model_of("unet", 2), batch_of(2, 3, 2))
    images, masks = batch.images.clone(), batch.masks.clone()
    images[~batch.present] = 7.0
    masks[~batch.present] = 1
    gradients = layer_gradients if method == "layers" else microbatch_gradients
    altered = gradients(model, UnitBatch(images, masks, batch.present), dice_cross_entropy)
    assert_close(flat([altered]), flat([gradients(model, batch, dice_cross_entropy)]), ROUNDING_64)


@pytest.mark.parametrize("chunk_units", [1, 2, 5, 100])
def test_chunk_size_changes_nothing_but_the_chunks(
    model_of: ModelOf, batch_of: BatchOf, chunk_units: int
) -> None:
    model, batch = in_double(model_of("unet", 2), batch_of(5, 1, 2))
    chunks = list(UnitGradients(model, batch, dice_cross_entropy, chunk_units=chunk_units))
    assert [len(chunk[0]) for chunk in chunks] == [
        min(chunk_units, 5 - start) for start in range(0, 5, chunk_units)
    ]
    assert_close(flat(chunks), flat([layer_gradients(model, batch, dice_cross_entropy)]), ROUNDING_64)


@pytest.mark.parametrize("records", [1, 2])
@pytest.mark.parametrize("spatial_dims", DIMENSIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("gradients", [apart_gradients, microbatch_gradients])
def test_to_the_bit_no_company_changes_a_unit(
    model_of: ModelOf,
    batch_of: BatchOf,
    gradients: Callable[..., list[Tensor]],
    architecture: str,
    spatial_dims: int,
    records: int,
) -> None:
    """Neither how many units there are, nor the place among them, nor how many images others have."""
    model = model_of(architecture, spatial_dims)
    batch = batch_of(4, records, spatial_dims)
    together = flat([gradients(model, batch, dice_cross_entropy)])
    for start, stop in ((0, 1), (3, 4), (1, 3), (1, 4)):
        assert torch.equal(
            flat([gradients(model, batch[start:stop], dice_cross_entropy)]), together[start:stop]
        )
    one_more = UnitBatch(
        *(
            torch.cat([part, torch.zeros_like(part[:, :1])], dim=1)
            for part in (batch.images, batch.masks, batch.present)
        )
    )
    assert torch.equal(flat([gradients(model, one_more, dice_cross_entropy)]), together)


@pytest.mark.parametrize("spatial_dims", DIMENSIONS)
def test_units_apart_have_the_gradients_of_the_loop(
    model_of: ModelOf, batch_of: BatchOf, spatial_dims: int
) -> None:
    model, batch = in_double(model_of("unet", spatial_dims), batch_of(3, 2, spatial_dims))
    oracle = flat([microbatch_gradients(model, batch, dice_cross_entropy)])
    assert_close(flat([apart_gradients(model, batch, dice_cross_entropy)]), oracle, ROUNDING_64)


@pytest.mark.parametrize("keep_bytes", [0, 2**30])
@pytest.mark.parametrize("method", ["layers", "apart", "microbatch"])
def test_a_second_iteration_gives_the_same_bits(
    model_of: ModelOf, batch_of: BatchOf, method: str, keep_bytes: int
) -> None:
    calls = 0

    def counted(logits: Tensor, masks: Tensor, present: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return dice_cross_entropy(logits, masks, present)

    gradients = UnitGradients(
        model_of("unet", 2), batch_of(3, 1, 2), counted, chunk_units=2, keep_bytes=keep_bytes, method=method
    )
    first = flat([[tensor.clone() for tensor in chunk] for chunk in gradients])
    after_one = calls
    assert torch.equal(flat(list(gradients)), first)
    assert calls == (after_one if keep_bytes else 2 * after_one)


def test_a_broken_first_iteration_keeps_nothing(model_of: ModelOf, batch_of: BatchOf) -> None:
    gradients = UnitGradients(
        model_of("unet", 2), batch_of(3, 1, 2), dice_cross_entropy, chunk_units=1, keep_bytes=2**30
    )
    next(iter(gradients))
    assert len(list(gradients)) == 3


@pytest.mark.parametrize("method", ["layers", "apart", "microbatch"])
def test_a_non_finite_unit_touches_no_other(model_of: ModelOf, batch_of: BatchOf, method: str) -> None:
    model, batch = model_of("unet", 2), batch_of(3, 1, 2)
    clean = flat(list(UnitGradients(model, batch, dice_cross_entropy, chunk_units=3, method=method)))
    batch.images[1] = torch.nan
    spoilt = flat(list(UnitGradients(model, batch, dice_cross_entropy, chunk_units=3, method=method)))
    assert not bool(torch.isfinite(spoilt[1]).all())
    assert torch.equal(spoilt[[0, 2]], clean[[0, 2]])


def test_an_empty_batch_has_no_chunks(model_of: ModelOf, batch_of: BatchOf) -> None:
    batch = batch_of(2, 1, 2)[:0]
    assert list(UnitGradients(model_of("unet", 2), batch, dice_cross_entropy, chunk_units=2)) == []


def test_gradients_leave_no_trace_on_the_model(model_of: ModelOf, batch_of: BatchOf) -> None:
    model = model_of("unet", 2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for method in (layer_gradients, microbatch_gradients):
        gradients = method(model, batch_of(2, 1, 2), dice_cross_entropy)
        assert not any(tensor.requires_grad for tensor in gradients)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_loss_may_branch_on_its_values(model_of: ModelOf, batch_of: BatchOf) -> None:
    def branching(logits: Tensor, masks: Tensor, present: Tensor) -> Tensor:
        loss = dice_cross_entropy(logits, masks, present)
        return loss if float(loss.detach()) < 0 else -loss

    model, batch = in_double(model_of("unet", 2), batch_of(2, 1, 2))
    together = flat([layer_gradients(model, batch, branching)])
    assert_close(together, -flat([microbatch_gradients(model, batch, dice_cross_entropy)]), ROUNDING_64)


def test_a_layer_without_a_rule_falls_back(model_of: ModelOf, batch_of: BatchOf) -> None:
    model, batch = model_of("unet", 2), batch_of(2, 1, 2)
    assert choose_method(model, dice_cross_entropy, batch) == "layers"
    unknown = nn.Sequential(model, nn.PReLU())
    with pytest.warns(UserWarning, match="one backward pass a unit: prelu has no rule"):
        assert choose_method(unknown, dice_cross_entropy, batch) == "microbatch"


def test_a_lone_volume_has_its_own_gradient(model_of: ModelOf, batch_of: BatchOf) -> None:
    model, batch = in_double(model_of("segresnet", 3), batch_of(1, 1, 3))
    alone = flat([layer_gradients(model, batch, dice_cross_entropy)])
    assert_close(alone, flat([microbatch_gradients(model, batch, dice_cross_entropy)]), ROUNDING_64)


def test_memory_budget_bounds_the_chunk(model_of: ModelOf) -> None:
    model = model_of("unet", 2)

    def units(memory_bytes: int, extent: int = 32, records: int = 1) -> int:
        return units_within(
            memory_bytes, model=model, records_per_unit=records, in_channels=1, image_size=(extent, extent)
        )

    assert units(1) == 1
    assert units(2**26) > 1
    assert units(2**28) >= 4 * units(2**26)
    assert units(2**28, extent=64) < units(2**28)
    assert units(2**28, records=4) < units(2**28)
    assert model(torch.zeros(1, 1, 16, 16)).device.type == "cpu", "measuring must leave the model in place"


def test_a_chunk_holds_at_least_one_unit(model_of: ModelOf, batch_of: BatchOf) -> None:
    with pytest.raises(ValueError, match="chunk_units is 0"):
        UnitGradients(model_of("unet", 2), batch_of(1, 1, 2), dice_cross_entropy, chunk_units=0)
