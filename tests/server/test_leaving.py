"""A site that ends its part in a run: not waited for, named, counted out of the quorum, and welcome back."""

import time

import pytest

from adpfl.wire.messages import SiteActivity, TaskKind
from adpfl_server.identity import audit_log
from adpfl_server.operating.overview import status_document, status_lines
from adpfl_server.store import Store

SITES = ("hospital1", "hospital2", "hospital3")


@pytest.fixture
def callers(consortium):
    consortium.start(consortium.plan(rounds=5, cohort={"sites": list(SITES), "quorum": 2}))
    made = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(made):
        caller.enter(str(number))
    return made


@pytest.fixture
def stored(consortium):
    store = Store(consortium.state_dir, read_only=True)
    yield store
    store.close()


def leave(caller, reason="a new scanner"):
    return caller.heartbeat(SiteActivity.LEFT, detail=reason)


def send(consortium, callers, number, base):
    for seed, caller in enumerate(callers):
        caller.send(number, base, consortium.update(10 * number + seed))


def test_a_round_goes_on_without_a_site_that_left_and_status_says_who_and_when(consortium, callers, stored):
    base = callers[0].next_task().base_digest
    leave(callers[2])
    assert callers[2].heartbeat(SiteActivity.TRAINING, 1).obsolete  # its training may stop
    left_at = time.time()
    task = stored.state("demo").site("hospital3")
    assert task.left_at == pytest.approx(left_at, abs=10)
    send(consortium, callers[:2], 1, base)
    assert callers[0].next_task(10).round == 2  # long before the deadline
    lines = status_lines(stored, ["demo"])
    assert "hospital3 has left the run (a new scanner)" in lines[0]
    (line,) = [line for line in lines if line.startswith("  hospital3: ")]
    assert f"it left the run at {time.strftime('%Y-%m-%d', time.gmtime(left_at))}" in line
    document = status_document(stored, "demo")
    assert document["not_answering"]["hospital3"].startswith("it left the run at ")
    kinds = [entry.kind for entry in audit_log.entries(stored.connection)]
    assert kinds.count("site_left") == 1
    leave(callers[2])  # again changes nothing
    assert [event.kind for event in stored.record("demo").timeline].count("site_left") == 1


def test_a_site_that_has_committed_leaves_and_its_update_counts(consortium, callers, stored):
    base = callers[0].next_task().base_digest
    send(consortium, callers[1:2], 1, base)
    leave(callers[1])
    send(consortium, [callers[0], callers[2]], 1, base)
    assert callers[0].next_task(10).round == 2
    assert stored.record("demo").rounds[0].sites == SITES


def test_a_quorum_out_of_reach_is_said_and_coming_back_ends_the_waiting(consortium, callers, stored):
    base = callers[0].next_task().base_digest
    leave(callers[1])
    leave(callers[2], "")
    said = stored.record("demo").summary
    assert "the quorum of 2 cannot be reached with 1 of 3 sites" in said
    send(consortium, callers[:1], 1, base)
    assert callers[0].next_task(0).kind is TaskKind.WAIT

    callers[1].join("1")  # the agent works for other runs, too: joining is not coming back
    assert stored.state("demo").site("hospital2").has_left
    callers[1].join("f")
    assert stored.state("demo").site("hospital2").has_left
    back = callers[1].next_task()
    assert (back.kind, back.round) == (TaskKind.TRAIN, 1)
    assert not stored.state("demo").site("hospital2").has_left
    assert "cannot be reached" not in stored.record("demo").summary
    assert "site_came_back" in [event.kind for event in stored.record("demo").timeline]
    callers[1].send(1, base, consortium.update(9))
    assert callers[0].next_task(10).round == 2


def test_who_left_is_not_counted_silent_and_survives_a_restart(consortium, callers):
    leave(callers[2])
    consortium.running[-1].stop()
    plan = consortium.plan(rounds=5, cohort={"sites": list(SITES), "quorum": 2})
    consortium.start(plan, site_silence_seconds=0.5)
    site = consortium.running[-1].daemon.runner.states["demo"].site
    until = time.monotonic() + 20
    while not site("hospital1").silent:
        assert time.monotonic() < until
        site = consortium.running[-1].daemon.runner.states["demo"].site
        time.sleep(0.05)
    assert site("hospital3").has_left
    assert not site("hospital3").silent
