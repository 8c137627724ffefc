"""A run that averages, through a real daemon: what sites train from, what they get at the end."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from adpfl.wire.chunks import FLOAT32
from adpfl.wire.messages import TaskKind
from adpfl_server.operating.export import export_model
from adpfl_server.storage.weights import read_header
from adpfl_server.store import Store

SITES = ("hospital1", "hospital2", "hospital3")
ROUNDS = 4
PLAN = {"rounds": ROUNDS, "aggregation": {"averaging": {"method": "ema", "decay": 0.5}}}


def values(caller, digest):
    manifest, chunks = caller.fetch(digest)
    return np.frombuffer(b"".join(chunks[name] for name in manifest.chunk_digests), FLOAT32)


def play(consortium, callers, first, last, seen):
    """Play rounds; returns what the last one made."""
    for number in range(first, last + 1):
        task = callers[0].next_task(10)
        assert (task.kind, task.round) == (TaskKind.TRAIN, number)
        seen.append(values(callers[0], task.base_digest))
        for seed, caller in enumerate(callers):
            caller.send(number, task.base_digest, consortium.update(10 * number + seed))


def restarted(consortium, callers):
    consortium.running[-1].stop()
    consortium.start(consortium.plan(**PLAN))
    return [consortium.again(caller) for caller in callers]


def enter_all(consortium):
    consortium.start(consortium.plan(**PLAN))
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    return callers


def test_the_finished_run_gives_and_exports_the_average(consortium, tmp_path):
    callers = enter_all(consortium)
    seen: list[np.ndarray] = []
    play(consortium, callers, 1, 2, seen)
    callers = restarted(consortium, callers)  # the average outlives the process
    play(consortium, callers, 3, ROUNDS, seen)
    task = callers[0].next_task(10)
    assert task.kind is TaskKind.FINISHED
    published = values(callers[0], task.base_digest)

    mean_update = np.mean(
        [
            np.concatenate(
                [
                    np.frombuffer(chunk, FLOAT32)
                    for chunk in consortium.update(10 * ROUNDS + seed).chunks.values()
                ]
            )
            for seed in range(3)
        ],
        axis=0,
    )
    models = [*seen[1:], seen[-1] + mean_update]
    weights = np.array([0.5**age for age in range(ROUNDS - 1, -1, -1)])
    expected = np.einsum("r,rd->d", weights / weights.sum(), np.stack(models, dtype=np.float64))
    np.testing.assert_allclose(published, expected, rtol=0, atol=1e-6)
    assert np.abs(published - models[-1]).max() > 1e-4

    consortium.running[-1].stop()
    record = consortium.record()
    assert [entry["averaged_digest"] is not None for entry in record["rounds"]] == [False, True, True, True]
    assert record["rounds"][-1]["averaged_digest"] == task.base_digest
    path = tmp_path / "out.safetensors"
    told = export_model(consortium.running[-1].config, "demo", path)
    assert told.endswith("the average of the models up to round 4 of 4 of demo (finished)")
    exported = np.concatenate([array.ravel() for array in load_file(path).values()])
    np.testing.assert_array_equal(np.sort(exported), np.sort(published))
    assert read_header(path).description["averaged"] is True


@pytest.mark.parametrize("rounds", [3])
def test_past_averages_are_forgotten(consortium, rounds):
    callers = enter_all(consortium)
    play(consortium, callers, 1, rounds, [])
    assert callers[0].next_task(10).round == rounds + 1
    consortium.running[-1].stop()
    averages = [entry["averaged_digest"] for entry in consortium.record()["rounds"][:rounds]]
    store = Store(consortium.state_dir)
    try:
        store.prepare(2)
        kept = [digest is not None and store.manifest(digest) is not None for digest in averages]
        assert kept == [False, True, True]
        assert all(store.missing(store.manifest(digest)) == () for digest in averages[1:])
        assert store.is_model("demo", averages[1])
        assert store.missing(store.manifest(averages[2])) == ()
    finally:
        store.close()
