"""Averages over rounds: the stream against the closed form, what the coordinator asks for and publishes."""

import numpy as np
import pytest

from adpfl.config import parse
from adpfl.errors import ConfigError, IntegrityError, ModelMismatchError, StateError
from adpfl.federated.averaging import EmaAveraging, TailAveraging, average, newest_share
from adpfl.federated.coordinator import actions_on_resume, new_run, step
from adpfl.federated.round_models import RoundModels, make_models, needed_objects
from adpfl.federated.run_events import (
    Aggregate,
    AggregationDone,
    RoundClosed,
    SiteJoined,
    SiteReady,
    UpdateArrived,
)
from adpfl.federated.run_plan import RunPlan
from adpfl.federated.run_state import RunState
from adpfl.federated.site_tasks import task_for
from adpfl.wire.chunks import Manifest, iter_chunks, manifest_of_arrays, sha256_hex

CHUNK = 65_536
EMA = {"method": "ema", "decay": 0.8}
TAIL = {"method": "tail", "rounds": 3}


def plan_of(averaging, rounds=6):
    document = {
        "run": "demo",
        "task": "skin_lesion",
        "image_size": [64, 64],
        "rounds": rounds,
        "local": {"steps": 1, "learning_rate": 0.1},
        "aggregation": {"averaging": averaging},
        "cohort": {"sites": ["a"], "quorum": 1},
        "privacy": {"mode": "none", "sampling": {"mode": "full"}},
    }
    return parse(document, RunPlan, source="plan")


class Chunks:
    """A blob folder in memory."""

    def __init__(self):
        self.data = {}

    def add(self, array) -> Manifest:
        for chunk in iter_chunks({"w": array}, CHUNK):
            self.write(chunk)
        return manifest_of_arrays({"w": array}, chunk_size=CHUNK)

    def write(self, chunk):
        digest = sha256_hex(chunk)
        self.data[digest] = chunk
        return digest

    def values(self, manifest):
        return np.frombuffer(b"".join(self.data[digest] for digest in manifest.chunk_digests), "<f4")


class Run:
    """A server without disk: the coordinator's actions are carried out on chunks in memory."""

    def __init__(self, plan, initial):
        self.chunks = Chunks()
        self.manifests = {}
        self.closed = []
        self.asked = []
        self.state = new_run(plan, self.keep(self.chunks.add(initial)), 0.0).state
        self.tell(SiteJoined("a", "0" * 32, 10))
        self.tell(SiteReady("a"))

    def keep(self, manifest):
        self.manifests[manifest.digest] = manifest
        return manifest.digest

    def tell(self, event):
        moved = step(self.state, event, 1.0)
        self.state = moved.state
        for action in moved.actions:
            if isinstance(action, Aggregate):
                self.asked.append(action)
            elif isinstance(action, RoundClosed):
                self.closed.append(action.record)

    def push(self, update):
        current = self.state.open_round
        digest = self.keep(self.chunks.add(update))
        self.tell(UpdateArrived("a", current.round, current.base_digest, digest))

    def make(self, action) -> RoundModels:
        """From nothing but what the action says is needed."""
        known = {digest: self.manifests[digest] for digest in needed_objects(action)}
        read = self.chunks.data.__getitem__
        return make_models(action, manifest=known.__getitem__, read=read, write=self.chunks.write)

    def close(self):
        models = self.make(self.asked[-1])
        for manifest in models.manifests:
            self.keep(manifest)
        self.tell(models.done(self.asked[-1].round))

    def published(self):
        return self.chunks.values(self.manifests[task_for(self.state, "a").base_digest])


def walk(seed=0, size=20_001, rounds=6):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(size).astype(np.float32) for _ in range(rounds + 1)]


def models_of(initial, updates):
    models = []
    for update in updates:
        initial = (initial.astype(np.float64) + update.astype(np.float64)).astype(np.float32)
        models.append(initial)
    return models


def weighted(models, weights):
    return sum(w * m.astype(np.float64) for w, m in zip(weights, models, strict=True)) / sum(weights)


@pytest.mark.parametrize(
    ("averaging", "weights"),
    [(EMA, [0.8**age for age in range(5, -1, -1)]), (TAIL, [0, 0, 0, 1, 1, 1])],
    ids=["ema", "tail"],
)
def test_a_run_publishes_the_average_and_trains_from_the_models(averaging, weights):
    initial, *updates = walk()
    run = Run(plan_of(averaging), initial)
    models = models_of(initial, updates)
    for number, update in enumerate(updates):
        base = initial if number == 0 else models[number - 1]
        trained_from = run.manifests[task_for(run.state, "a").base_digest]
        np.testing.assert_array_equal(run.chunks.values(trained_from), base)
        run.push(update)
        run.close()
    assert run.state.status == "finished"
    np.testing.assert_allclose(run.published(), weighted(models, weights), rtol=0, atol=1e-5)
    assert np.abs(run.published() - models[-1]).max() > 0.1, "else the last model would pass"
    assert run.closed[-1].averaged_digest == run.state.published_digest != run.closed[-1].result_digest


def test_the_first_average_is_the_model_itself_and_is_not_stored_twice():
    for averaging, first in ((EMA, 1), (TAIL, 4)):
        run = Run(plan_of(averaging), walk()[0])
        for update in walk()[1:]:
            run.push(update)
            run.close()
        asked = [action.round for action in run.asked if action.average is not None]
        assert asked == list(range(first + 1, 7))
        assert [record.round for record in run.closed if record.averaged_digest is None] == list(
            range(1, first + 1)
        )


def test_without_averaging_the_last_model_is_published():
    initial, *updates = walk(rounds=2)
    run = Run(plan_of(None, rounds=2), initial)
    for update in updates:
        run.push(update)
        run.close()
    np.testing.assert_array_equal(run.published(), models_of(initial, updates)[-1])


def test_a_restart_asks_for_the_same_average_and_makes_the_same_bytes():
    initial, *updates = walk()
    run = Run(plan_of(EMA), initial)
    for update in updates[:3]:
        run.push(update)
        run.close()
    run.push(updates[3])
    first = run.make(run.asked[-1])
    stored = RunState.model_validate_json(run.state.model_dump_json())
    (again,) = actions_on_resume(stored)
    assert again == run.asked[-1]
    assert run.make(again) == first
    assert first.averaged is not None


@pytest.mark.parametrize("averaged", [True, False])
def test_an_answer_that_forgets_the_average_or_invents_one_is_an_error(averaged):
    run = Run(plan_of(None if averaged else EMA), walk()[0])
    run.push(walk()[1])
    if not averaged:
        run.close()
        run.push(walk()[2])
    current = run.state.open_round.round
    with pytest.raises(StateError, match=rf"round {current} of run demo: averaged_digest is"):
        run.tell(AggregationDone(current, "1" * 64, "2" * 64 if averaged else None))


def test_shares_make_a_mean():
    for averaging in (EmaAveraging(method="ema", decay=0.9), TailAveraging(method="tail", rounds=4)):
        weights: list[float] = []
        for number in range(1, 11):
            share = newest_share(averaging, number, rounds=10)
            assert 0.0 < share <= 1.0
            weights = [*(weight * (1 - share) for weight in weights), share]
        assert sum(weights) == pytest.approx(1.0)
        if averaging.method == "ema":
            ratios = np.array(weights[1:]) / np.array(weights[:-1])
            np.testing.assert_allclose(ratios, 1 / 0.9)
        else:
            np.testing.assert_allclose(weights, [0.0] * 6 + [0.25] * 4)


def test_what_cannot_be_averaged_is_refused():
    chunks = Chunks()
    model, other = chunks.add(np.ones(4, np.float32)), chunks.add(np.ones(5, np.float32))
    bad = chunks.add(np.array([1, np.nan, 1, 1], np.float32))
    keys = {"read": chunks.data.__getitem__, "write": chunks.write}
    with pytest.raises(ModelMismatchError):
        average(other, model, share=0.5, **keys)
    with pytest.raises(IntegrityError, match="chunk 0 of a model has a value that is not finite"):
        average(bad, model, share=0.5, **keys)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="must be above 0 and at most 1"):
            average(model, model, share=share, **keys)
    chunks.data[model.chunk_digests[0]] = b"1234"
    with pytest.raises(IntegrityError, match="has 4 bytes; must be 16"):
        average(model, model, share=0.5, **keys)


@pytest.mark.parametrize(
    ("averaging", "said"),
    [
        ({"method": "tail", "rounds": 7}, "aggregation.averaging.rounds is 7; must be at most rounds, 6"),
        ({"method": "tail", "rounds": 1}, "aggregation.averaging.rounds is 1"),
        ({"method": "ema", "decay": 1.0}, "aggregation.averaging.decay is 1.0"),
        ({"method": "ema", "rounds": 3}, "rounds is not a known key"),
        ({"method": "median"}, "aggregation.averaging.method is 'median'"),
    ],
)
def test_averaging_that_cannot_be_is_refused(averaging, said):
    with pytest.raises(ConfigError, match=said):
        plan_of(averaging)
