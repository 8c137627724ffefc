"""FedAdam and FedYogi over chunks: against the formulas, across crashes, on parts of a network."""

import numpy as np
import pytest

from adpfl.errors import IntegrityError, ModelMismatchError, StateError
from adpfl.federated.run_events import AggregationDone
from adpfl.federated.server_optimizer import MomentStream, StepRule
from adpfl.wire.chunks import manifest_of_arrays

SIZE = 40_003
ADAM = {"strategy": "fedadam", "server_learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 0.01}
RULES = [ADAM, ADAM | {"strategy": "fedyogi"}]


def walk(rounds=4, sites=2, size=SIZE, seed=0):
    generator = np.random.default_rng(seed)
    start = generator.standard_normal(size).astype(np.float32)
    return start, generator.standard_normal((rounds, sites, size)).astype(np.float32) / 10


def expected_models(start, updates, strategy, *, rate=0.1, beta1=0.9, beta2=0.99, tau=0.01):
    """Reddi et al. (2021), algorithm 2, with Kingma and Ba's correction for FedAdam."""
    model, m, v = start.astype(np.float64), 0.0, 0.0
    for t, of_sites in enumerate(updates, start=1):
        d = of_sites.astype(np.float64).mean(axis=0)
        m = beta1 * m + (1 - beta1) * d
        if strategy == "fedadam":
            v = beta2 * v + (1 - beta2) * d**2
            model = model + rate * np.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + tau)
        else:
            v = v - (1 - beta2) * d**2 * np.sign(v - d**2)
            model = model + rate * m / (np.sqrt(v) + tau)
        yield model


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["strategy"])
def test_every_round_follows_the_formulas_over_many_chunks(federation, rule):
    start, updates = walk()
    run = federation(start, sites=2, aggregation=rule)
    for of_sites, expected in zip(updates, expected_models(start, updates, rule["strategy"]), strict=True):
        run.play(*of_sites)
        np.testing.assert_allclose(run.model, expected, rtol=0, atol=2e-6)
    assert [record.tau for record in run.closed] == [0.01] * 4


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["strategy"])
@pytest.mark.parametrize("crashes", [{0, 1, 2, 3}, {2}])
def test_a_crash_anywhere_changes_no_byte(federation, rule, crashes):
    start, updates = walk()
    calm, shaken = (federation(start, sites=2, aggregation=rule) for _ in range(2))
    for number, of_sites in enumerate(updates):
        calm.play(*of_sites)
        shaken.push(*of_sites)
        if number in crashes:
            shaken.make(shaken.asked[-1])  # its result is lost with the process
            shaken.crash()
        shaken.close()
        if number in crashes:
            shaken.crash()
    assert shaken.state == calm.state
    assert shaken.state.moments is not None


def test_moments_start_at_zero_and_are_asked_for_from_the_second_round_on(federation):
    start, updates = walk(rounds=2)
    run = federation(start, sites=2, rounds=2, aggregation=ADAM)
    run.play(*updates[0])
    first = run.state.moments
    assert run.asked[0].optimize.previous is None
    run.play(*updates[1])
    assert run.asked[1].optimize.previous == first
    mean = updates[0].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(run.values(first.first_digest), 0.1 * mean, rtol=2**-23)


@pytest.mark.parametrize("trained", [("b",), ("a", "c"), ("a", "b", "c")])
def test_frozen_tensors_stay_and_have_no_moments(federation, trained):
    generator = np.random.default_rng(1)
    sizes = {"a": 20_000, "b": 7, "c": 30_001}
    base = {name: generator.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    run = federation(base, sites=2, rounds=2, aggregation=ADAM)
    pushed = [
        [
            {name: generator.standard_normal(sizes[name]).astype(np.float32) for name in trained}
            for _ in range(2)
        ]
        for _ in range(2)
    ]
    for of_sites in pushed:
        run.play(*of_sites)
    whole = np.concatenate([base[name] for name in sizes])
    there = np.concatenate([np.full(sizes[name], name in trained) for name in sizes])
    flat = np.array([[np.concatenate([one[name] for name in trained]) for one in of] for of in pushed])
    *_, expected = expected_models(whole[there], flat, "fedadam")
    np.testing.assert_array_equal(run.model[~there], whole[~there])
    np.testing.assert_allclose(run.model[there], expected, rtol=0, atol=2e-6)
    assert tuple(one.name for one in run.manifests[run.state.moments.first_digest].tensors) == trained


def test_an_average_beside_it_is_of_the_models_that_it_made(federation):
    start, updates = walk(rounds=3)
    run = federation(
        start, sites=2, rounds=3, aggregation=ADAM | {"averaging": {"method": "tail", "rounds": 3}}
    )
    models = []
    for of_sites in updates:
        run.play(*of_sites)
        models.append(run.model.astype(np.float64))
    np.testing.assert_allclose(
        run.values(run.state.published_digest), np.mean(models, axis=0), rtol=0, atol=1e-6
    )


def test_noise_without_a_signal_moves_the_model_less_the_larger_tau_is(federation):
    start = np.zeros(2000, np.float32)
    noise = (1e-3 * np.random.default_rng(3).standard_normal((4, 2, 2000))).astype(np.float32)
    moved = []
    for tau in (1e-6, 1e-2):
        run = federation(start, sites=2, aggregation=ADAM | {"tau": tau})
        for of_sites in noise:
            run.play(*of_sites)
        moved.append(np.abs(run.model).mean())
    assert moved[0] > 0.1 > 10 * moved[1]


@pytest.mark.parametrize("rule", [ADAM, {}])
def test_an_answer_that_forgets_the_moments_or_invents_them_is_an_error(federation, rule):
    start, updates = walk(rounds=1, size=10)
    run = federation(start, sites=2, rounds=1, aggregation=ADAM)
    run.play(*updates[0])
    invented = run.state.moments
    run = federation(start, sites=2, rounds=1, aggregation=rule)
    run.push(*updates[0])
    with pytest.raises(StateError, match="round 1 of run demo: moments are"):
        run.tell(AggregationDone(1, "1" * 64, moments=None if rule else invented))


def test_moments_that_cannot_be_used_are_refused():
    rule = StepRule("fedadam", 0.1, 0.9, 0.99, 0.01, 1)
    update = manifest_of_arrays({"w": np.ones(4, np.float32)}, chunk_size=65_536)
    other = manifest_of_arrays({"w": np.ones(5, np.float32)}, chunk_size=65_536)
    stored = []
    keys = {"read": lambda _: np.full(4, np.nan, np.float32).tobytes(), "write": stored.append}
    with pytest.raises(ModelMismatchError):
        MomentStream(rule, update, (other, other), **keys)
    with pytest.raises(IntegrityError, match="chunk 0 of the first moment has a value that is not finite"):
        MomentStream(rule, update, (update, update), **keys).step(np.ones(4))
    with pytest.raises(IntegrityError, match="the second moment leaves the range of float32"):
        MomentStream(rule, update, None, **keys).step(np.full(4, 1e30))
    assert stored == []
