"""Runs with a server optimizer or a robust mean, through a real daemon that is cut off."""

import copy
import shutil

import numpy as np
import pytest

from adpfl.wire.chunks import FLOAT32
from adpfl.wire.messages import TaskKind
from adpfl_server.rounds.intake import RunBook
from adpfl_server.storage.collection import chunks_in_use
from adpfl_server.store import Store

SITES = ("hospital1", "hospital2", "hospital3")
ROUNDS = 3
ADAM = {"strategy": "fedadam", "server_learning_rate": 0.05}
STRATEGIES = [ADAM, ADAM | {"strategy": "fedyogi"}, {"strategy": "median"}]


def plan_of(consortium, aggregation):
    cohort = {"sites": list(SITES), "quorum": 3}
    return consortium.plan(rounds=ROUNDS, aggregation=aggregation, cohort=cohort)


def enter_all(consortium, aggregation):
    consortium.start(plan_of(consortium, aggregation))
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    return callers


def play(consortium, callers, last=ROUNDS):
    """Go on to the end of round `last`; returns the newest model's digest."""
    while (task := callers[0].next_task(10)).kind is not TaskKind.FINISHED and task.round <= last:
        if task.kind is TaskKind.TRAIN:
            for seed, caller in enumerate(callers):
                caller.send(task.round, task.base_digest, consortium.update(10 * task.round + seed))
    return task.base_digest


class Image:
    """Copies of a state folder as a process that is killed leaves it."""

    def __init__(self, consortium, root):
        self.root = root
        self._consortium = consortium

    def take(self):
        if not self.root.exists():
            shutil.copytree(self._consortium.root, self.root)

    def revive(self):
        other = copy.copy(self._consortium)
        other.root = self.root
        other.config_path, other.state_dir = self.root / "server.yaml", self.root / "state"
        other.running, other.callers = [], []
        return other


@pytest.mark.parametrize("aggregation", STRATEGIES, ids=lambda one: one["strategy"])
def test_a_server_killed_around_a_rounds_result_goes_on_to_the_same_models(
    consortium, tmp_path, aggregation, monkeypatch
):
    before, between = (Image(consortium, tmp_path / name) for name in ("before", "between"))
    close_round, collect = RunBook.close_round, Store.collect

    def close(book, run, number, result):
        if number == 2:
            before.take()  # the sum is made, and nothing of it is recorded
        return close_round(book, run, number, result)

    def let_go(store, keep_models):
        if store.plan_digests() and store.state("demo").rounds_closed == 2:
            between.take()  # recorded, and what is past is not let go yet
        return collect(store, keep_models)

    monkeypatch.setattr(RunBook, "close_round", close)
    monkeypatch.setattr(Store, "collect", let_go)
    callers = enter_all(consortium, aggregation)
    expected = play(consortium, callers)
    for image in (before, between):
        revived = image.revive()
        revived.start(plan_of(revived, aggregation))
        again = [revived.again(caller) for caller in callers]
        try:
            assert play(revived, again) == expected
        finally:
            revived.close()


def test_the_moments_of_past_rounds_are_let_go_and_no_site_can_fetch_the_newest(consortium):
    callers = enter_all(consortium, ADAM)
    play(consortium, callers, ROUNDS - 1)
    consortium.running[-1].stop()
    store = Store(consortium.state_dir)
    try:
        store.prepare(2)
        moments = store.state("demo").moments
        rows = store.connection.execute("SELECT * FROM server_moments").fetchall()
        expected = ("demo", ROUNDS - 1, moments.first_digest, moments.second_digest)
        assert [tuple(row) for row in rows] == [expected]
        for digest in (moments.first_digest, moments.second_digest):
            assert store.missing(store.manifest(digest)) == ()
            assert not store.is_model("demo", digest)
        # Two models and two moments are all that is left, of one chunk each.
        assert len(chunks_in_use(store.connection)) == 4
        assert [one.tau for one in store.record("demo").rounds[: ROUNDS - 1]] == [1e-3] * (ROUNDS - 1)
    finally:
        store.close()


def test_a_run_that_is_over_keeps_no_moments(consortium):
    play(consortium, enter_all(consortium, ADAM))
    consortium.running[-1].stop()
    store = Store(consortium.state_dir)
    try:
        store.prepare(2)
        assert store.connection.execute("SELECT count(*) FROM server_moments").fetchone()[0] == 0
        assert len(chunks_in_use(store.connection)) == 2
        assert len(list((consortium.state_dir / "blobs").glob("??/*"))) == 2
    finally:
        store.close()


def test_the_median_of_three_sites_is_the_middle_one(consortium):
    callers = enter_all(consortium, {"strategy": "median"})
    task = callers[0].next_task(10)
    start = values(callers[0], task.base_digest)
    updates = [consortium.update(seed) for seed in range(3)]
    for caller, update in zip(callers, updates, strict=True):
        caller.send(1, task.base_digest, update)
    made = values(callers[0], callers[0].next_task(10).base_digest)
    moved = np.stack([np.frombuffer(b"".join(one.chunks.values()), FLOAT32) for one in updates])
    np.testing.assert_allclose(made, start + np.median(moved, axis=0), rtol=0, atol=2**-20)


def values(caller, digest):
    manifest, chunks = caller.fetch(digest)
    return np.frombuffer(b"".join(chunks[name] for name in manifest.chunk_digests), FLOAT32)
