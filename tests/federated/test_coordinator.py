"""The round state machine in named situations."""

import pytest

from adpfl.errors import StateError
from adpfl.federated.coordinator import actions_on_resume, judge, step
from adpfl.federated.run_events import (
    AggregationDone,
    AggregationFailed,
    RoundClosed,
    ServerRestarted,
    SiteFellSilent,
    SiteHeard,
    SiteJoined,
    SiteLeft,
    SiteReady,
    SiteRefused,
    TasksChanged,
    TimePassed,
    UpdateArrived,
    UpdateDamaged,
    UpdateNoted,
    Verdict,
)
from adpfl.federated.run_state import RunState, summary
from adpfl.federated.site_tasks import obsolete, task_for
from tests.federated.machine import DEADLINE, SITES, Machine, a_plan, digest, instance, running


def test_a_run_waits_for_its_quorum():
    machine = Machine().join("a")
    assert machine.state.status == "waiting"
    assert task_for(machine.state, "a").kind == "wait"
    assert summary(machine.state) == "waiting: 1 of 3 sites ready, 2 needed, missing b and c"
    machine.join("b")
    assert machine.state.status == "running"
    assert task_for(machine.state, "a").kind == "train"
    assert task_for(machine.state, "c").detail == "join first"


def test_a_site_counts_towards_the_start_once_it_has_asked_for_a_task():
    machine = Machine()
    for site in SITES:
        machine.feed(SiteJoined(site, instance(site), 10))
    assert machine.state.status == "waiting"
    assert summary(machine.state) == "waiting: 0 of 3 sites ready, 2 needed, missing a, b and c"
    machine.feed(SiteReady("a"))
    assert machine.state.status == "waiting"
    machine.feed(SiteReady("c"))
    assert machine.state.status == "running"


def test_an_agent_that_asks_before_it_joins_is_not_ready():
    machine = Machine(a_plan(quorum=1))
    machine.feed(SiteReady("a"))
    assert machine.state.status == "waiting"


def test_no_round_opens_that_could_not_close():
    machine = running(quorum=3)
    for number, site in enumerate(SITES, start=1):
        machine.update(site, number)
    machine.feed(SiteRefused("b", "over budget"))
    machine.close(9)
    assert machine.state.open_round is None
    assert {task_for(machine.state, site).kind for site in SITES} == {"wait"}
    assert summary(machine.state).startswith("running: 1 of 2 rounds, 2 of 3 sites ready, 3 needed;")
    machine.feed(SiteJoined("b", instance("b", restarts=1), 20))
    assert machine.state.open_round is None
    opened = machine.feed(SiteReady("b"))
    assert task_for(machine.state, "a").kind == "train"
    assert TasksChanged() in opened.actions


def test_a_site_that_joins_in_mid_round_trains_it():
    machine = Machine().join("a", "b").join("c")
    assert task_for(machine.state, "c").base_digest == digest(0)


def test_a_round_closes_when_all_have_answered():
    machine = running()
    for number, site in enumerate(SITES, start=1):
        assert machine.sums() == []
        assert machine.update(site, number).verdict is Verdict.ACCEPTED
    (total,) = machine.sums()
    assert [(part.site, part.weight) for part in total.contributions] == [(site, 1 / 3) for site in SITES]
    machine.close(9)
    assert machine.state.model_digest == digest(9)
    assert task_for(machine.state, "a").base_digest == digest(9)
    (closed,) = [action.record for action in machine.actions if isinstance(action, RoundClosed)]
    assert closed.sites == SITES
    assert closed.missing == ()


def test_the_order_of_the_sum_is_the_cohorts_whatever_the_order_of_arrival():
    machine = running()
    for site in reversed(SITES):
        machine.update(site)
    assert [part.site for part in machine.sums()[0].contributions] == list(SITES)


def test_weights_follow_declared_patients():
    machine = running(weights="patients")
    for site in SITES:
        machine.update(site)
    assert [part.weight for part in machine.sums()[0].contributions] == [10 / 60, 20 / 60, 30 / 60]


def test_past_the_deadline_a_quorum_is_aggregated_and_the_missing_are_named():
    machine = running()
    machine.update("a")
    machine.update("c", 2)
    machine.feed(TimePassed())
    assert machine.sums() == []
    machine.feed(TimePassed(), later=DEADLINE)
    assert [part.site for part in machine.sums()[0].contributions] == ["a", "c"]
    machine.close(9)
    assert machine.timeline[-1].detail == "2 of 3 sites, missing b"
    assert "2 of 3 sites in every round, missing b in 1 round" in summary(machine.state)


def test_past_the_deadline_without_a_quorum_the_round_waits_and_says_so():
    machine = running()
    machine.update("b")
    machine.feed(TimePassed(), later=DEADLINE)
    assert machine.sums() == []
    assert machine.timeline[-1].kind == "quorum_missing"
    assert "1 of 3 updates, missing a and c" in machine.timeline[-1].detail
    assert "past its deadline without the quorum of 2, missing a and c" in summary(machine.state)
    machine.feed(TimePassed(), later=DEADLINE)
    assert machine.kinds().count("quorum_missing") == 1
    machine.update("a", 2)
    assert len(machine.sums()) == 1


def test_a_late_update_is_answered_and_not_aggregated():
    machine = running()
    machine.update("a")
    machine.update("b", 2)
    machine.feed(TimePassed(), later=DEADLINE)
    late = machine.update("c", 3)
    assert late.verdict is Verdict.LATE
    machine.close(9)
    again = machine.feed(UpdateArrived("c", 1, digest(0), digest(3)))
    assert again.verdict is Verdict.LATE
    assert machine.kinds().count("update_late") == 2
    assert len(machine.sums()) == 1


def test_an_update_stays_late_where_its_round_opens_again():
    machine = running()
    machine.update("a")
    machine.update("b", 2)
    machine.feed(TimePassed(), later=DEADLINE)
    assert machine.update("c", 3).verdict is Verdict.LATE
    machine.feed(UpdateDamaged(1, ("a",), "chunk 0 is damaged"))
    assert task_for(machine.state, "a").kind == "train"
    task = task_for(machine.state, "c")
    assert (task.kind, task.round) == ("wait", 1)
    assert "came too late for the round" in task.detail
    assert obsolete(machine.state, "c", 1)
    assert machine.update("c", 3).verdict is Verdict.LATE
    assert machine.update("c", 4).verdict is Verdict.LATE
    assert "the update of c came too late for the round" in summary(machine.state)
    machine.update("a")  # nobody else is waited for
    assert [part.site for part in machine.sums()[-1].contributions] == ["a", "b"]
    machine.close(9)
    assert task_for(machine.state, "c").kind == "train"


def test_a_round_that_only_late_updates_could_close_says_so():
    machine = running()
    machine.update("a")
    machine.update("b", 2)
    machine.feed(TimePassed(), later=DEADLINE)
    machine.update("c", 3)
    machine.feed(SiteLeft("a", "a new scanner"))
    machine.feed(UpdateDamaged(1, ("a",), "chunk 0 is damaged"))
    assert "the quorum of 2 cannot be reached with 1 of 3 sites" in summary(machine.state)


def test_repeated_conflicting_and_foreign_updates_change_nothing():
    machine = running()
    machine.update("a", 1)
    before = machine.state
    assert machine.update("a", 1).verdict is Verdict.REPEATED
    assert machine.update("a", 2).verdict is Verdict.CONFLICTING
    assert machine.update("b", 3, base=digest(77)).verdict is Verdict.FOREIGN
    assert machine.update("b", 3, round_number=2).verdict is Verdict.FOREIGN
    machine.feed(UpdateNoted("a", 1, digest(0), digest(1), Verdict.REPEATED))
    assert machine.state == before
    # What the sender calls its round does not choose the round that the entry stands under.
    assert (machine.timeline[-2].round, machine.timeline[-2].detail[-11:]) == (1, " of round 2")
    assert machine.kinds()[-5:] == [
        "update_repeated",
        "update_conflicting",
        "update_foreign",
        "update_foreign",
        "update_repeated",
    ]


def test_an_update_of_a_site_that_never_joined_does_not_count():
    machine = Machine(a_plan()).join("a", "b")
    assert machine.update("c").verdict is Verdict.FOREIGN


def test_judging_changes_nothing_and_agrees_with_the_machine():
    machine = running()
    event = UpdateArrived("a", 1, digest(0), digest(5))
    before = machine.state
    assert judge(machine.state, event) is Verdict.ACCEPTED
    assert machine.state == before


def test_another_instance_is_a_restarted_agent():
    machine = running()
    machine.feed(SiteJoined("a", "f" * 32, 10))
    assert machine.timeline[-1].kind == "site_rejoined"
    assert machine.timeline[-1].round == 1
    before = list(machine.timeline)
    machine.feed(SiteJoined("a", "f" * 32, 10))
    assert machine.timeline == before


def test_a_silent_site_does_not_cost_the_deadline():
    machine = running()
    machine.update("a")
    machine.update("b", 2)
    machine.feed(SiteFellSilent("c"))
    assert len(machine.sums()) == 1
    machine.close(9)
    assert "c is silent" in summary(machine.state)
    machine.feed(SiteHeard("c"))
    assert machine.kinds()[-1] == "site_returned"
    machine.update("a", 4)
    machine.update("b", 5)
    assert len(machine.sums()) == 1  # c is waited for again


def test_the_last_round_finishes_the_run():
    machine = running(rounds=1)
    for number, site in enumerate(SITES, start=1):
        machine.update(site, number)
    machine.close(9)
    assert machine.state.status == "finished"
    assert summary(machine.state) == "finished: 1 of 1 rounds; 3 of 3 sites in every round"
    task = task_for(machine.state, "b")
    assert (task.kind, task.base_digest) == ("finished", digest(9))
    assert obsolete(machine.state, "b", 1)
    assert machine.update("a", 7, round_number=1).verdict is Verdict.LATE
    assert machine.update("a", 7, round_number=2, base=digest(9)).verdict is Verdict.FOREIGN


def test_a_sum_that_cannot_be_made_fails_the_run():
    machine = running()
    for site in SITES:
        machine.update(site)
    machine.feed(AggregationFailed(1, "chunk 3 is not stored"))
    assert machine.state.status == "failed"
    assert task_for(machine.state, "a").detail == "round 1: chunk 3 is not stored"
    assert summary(machine.state).startswith("failed: round 1: chunk 3 is not stored")


def test_an_answer_from_before_a_restart_is_ignored():
    machine = running()
    before = machine.state
    machine.feed(AggregationDone(1, digest(9)))
    machine.feed(AggregationFailed(1, "old"))
    assert machine.state == before


def test_a_restart_is_recorded_and_the_sum_is_made_again():
    machine = running()
    for site in SITES:
        machine.update(site)
    stored = RunState.model_validate_json(machine.state.model_dump_json())
    assert actions_on_resume(stored) == tuple(machine.sums())
    moved = step(stored, ServerRestarted(), machine.now)
    assert [entry.kind for entry in moved.timeline] == ["server_restarted"]
    assert moved.state == stored


def test_a_site_outside_the_cohort_is_an_error():
    with pytest.raises(StateError, match="does not name site z"):
        running().feed(SiteJoined("z", "0" * 32, 1))


@pytest.mark.parametrize(
    ("round_number", "expected"),
    [(0, False), (1, False), (2, True)],
    ids=["idle", "this round", "another round"],
)
def test_obsolete_work(round_number, expected):
    assert obsolete(running().state, "a", round_number) is expected
