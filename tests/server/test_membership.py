"""Sites that come late, leave, or may not go on, through a real daemon: who is missing, and why, is said."""

import time

import pytest

from adpfl.wire.messages import SiteActivity, TaskKind
from adpfl_server.operating.overview import status_document
from adpfl_server.store import Store

SITES = ("hospital1", "hospital2", "hospital3")
BUDGET = "budget: epsilon 9 is above the cap 8"


@pytest.fixture
def running(consortium):
    """Two of three sites are in, and the run has begun without the third."""
    consortium.start(consortium.plan(rounds=3), site_silence_seconds=3.0)
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers[:2]):
        caller.enter(str(number))
    return consortium, callers


def settle(callers, number):
    """Let these sites, and no other, ask until the first is to train a round; returns its task."""
    deadline = time.monotonic() + 20
    while True:
        first, *_ = [caller.next_task() for caller in callers]
        if first.kind is TaskKind.TRAIN and first.round == number:
            return first
        assert time.monotonic() < deadline, first
        time.sleep(0.05)


def train(consortium, callers, number):
    """Send the round's updates of these sites, while no other gives a sign of life."""
    base = settle(callers, number).base_digest
    for seed, caller in enumerate(callers):
        caller.send(number, base, consortium.update(10 * number + seed))


def status(consortium):
    store = Store(consortium.state_dir)
    try:
        return status_document(store, "demo")
    finally:
        store.close()


def test_a_site_joins_in_mid_run_another_leaves_and_a_budget_ends(running):
    consortium, (first, second, third) = running
    train(consortium, (first, second), 1)  # closes without hospital3, which never came: it is silent
    settle((first, second), 2)

    third.enter("2")  # in mid-run: it takes part in the round that is open
    found = status(consortium)
    assert found["update_missing"] == list(SITES)
    assert found["not_answering"] == {}
    train(consortium, (first, third), 2)
    settle((first, third), 3)  # hospital2 has left without a word: the round closes without it

    train(consortium, (first,), 3)
    third.heartbeat(SiteActivity.REFUSED, 0, BUDGET)
    found = status(consortium)
    assert found["not_answering"] == {
        "hospital2": "it is silent",
        "hospital3": f"it refuses the run ({BUDGET})",
    }
    assert found["update_missing"] == ["hospital2", "hospital3"]
    assert "missing hospital2 and hospital3" in found["summary"]
    assert "hospital2 is silent" in found["summary"]

    train(consortium, (second,), 3)  # it comes back to the round that waits for a quorum, and ends the run
    assert first.next_task(10).kind is TaskKind.FINISHED
    consortium.running[-1].stop()
    record = consortium.record()
    assert [entry["missing"] for entry in record["rounds"]] == [["hospital3"], ["hospital2"], ["hospital3"]]
    assert record["summary"].startswith(
        "finished: 3 of 3 rounds; 1 of 3 sites in every round, missing hospital2 in 1 round and hospital3 in "
        "2 rounds"
    )
    kinds = [(entry["kind"], entry["site"]) for entry in record["timeline"] if entry["site"]]
    for told in (
        ("site_lost", "hospital3"),
        ("site_joined", "hospital3"),
        ("site_lost", "hospital2"),
        ("site_refused", "hospital3"),
        ("site_returned", "hospital2"),
    ):
        assert told in kinds
