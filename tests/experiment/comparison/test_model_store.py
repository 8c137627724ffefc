"""The store gives back what it was given, and sums as FedAvg does."""

import pytest
import torch

from adpfl.errors import IntegrityError, StateError
from adpfl.experiment.comparison.model_store import ModelStore
from adpfl.federated.run_events import Aggregate, Average, Contribution


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"weight": (3, 4), "bias": (4,), "scale": (1,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_weights_come_back_to_the_bit_and_in_order():
    store = ModelStore()
    given = tensors(0)
    back = store.weights(store.put(given))
    assert list(back) == list(given)
    assert all(torch.equal(back[name], given[name]) for name in given)


def test_the_sum_is_base_plus_weighted_updates_and_the_rest_is_let_go():
    store = ModelStore()
    base, first, second = (store.put(tensors(seed)) for seed in range(3))
    done = store.aggregate(
        Aggregate(1, base, (Contribution("a", first, 0.25), Contribution("b", second, 0.75)))
    )
    assert (done.round, done.averaged_digest) == (1, None)
    for name, found in store.weights(done.result_digest).items():
        expected = tensors(0)[name] + 0.25 * tensors(1)[name] + 0.75 * tensors(2)[name]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for gone in (base, first, second):
        with pytest.raises(StateError, match="not in the store"):
            store.weights(gone)


def test_the_average_is_made_and_kept_beside_the_sum():
    store = ModelStore()
    base, update, previous = (store.put(tensors(seed)) for seed in range(3))
    done = store.aggregate(Aggregate(4, base, (Contribution("a", update, 1.0),), Average(previous, 0.25)))
    model, averaged = store.weights(done.result_digest), store.weights(done.averaged_digest)
    for name, found in averaged.items():
        expected = tensors(2)[name] + 0.25 * (model[name] - tensors(2)[name])
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_an_update_that_is_not_finite_is_refused():
    store = ModelStore()
    base = store.put(tensors(0))
    broken = store.put(tensors(1) | {"bias": torch.full((4,), torch.nan)})
    with pytest.raises(IntegrityError, match="not finite"):
        store.aggregate(Aggregate(1, base, (Contribution("a", broken, 1.0),)))
