"""Sites that refuse a run, and updates that a round refuses."""

from adpfl.federated.run_events import (
    RoundClosed,
    SiteFellSilent,
    SiteJoined,
    SiteReady,
    SiteRefused,
    TimePassed,
    UpdateRefused,
    Verdict,
)
from adpfl.federated.run_state import RunState, summary
from adpfl.federated.site_tasks import obsolete, task_for
from tests.federated.machine import DEADLINE, SITES, Machine, a_plan, digest, instance, running


def test_a_run_does_not_start_without_a_site_that_refused_and_joined_again():
    """The others would train a round that can never close, and spend budget on it."""
    machine = Machine(a_plan(quorum=3))
    machine.feed(SiteJoined("a", instance("a"), 10))
    machine.feed(SiteRefused("a", "policy"))
    machine.join("b", "c")
    entries = len(machine.timeline)
    for _ in range(5):  # an agent with nothing else to do
        machine.feed(SiteJoined("a", instance("a"), 10))
        machine.feed(SiteRefused("a", "another word for it"))
        machine.feed(SiteReady("a"))
    assert machine.state.status == "waiting"
    assert len(machine.timeline) == entries
    assert [task_for(machine.state, site).kind for site in SITES] == ["wait"] * 3
    assert "a refuses the run (policy)" in summary(machine.state)


def test_another_instance_of_a_refusing_agent_decides_anew():
    machine = Machine(a_plan(quorum=3))
    machine.feed(SiteJoined("a", instance("a"), 10))
    machine.feed(SiteRefused("a", "policy"))
    machine.join("b", "c")
    machine.feed(SiteJoined("a", instance("a", restarts=1), 10))
    assert machine.state.site("a").refusal is None
    assert machine.state.status == "waiting"  # it may refuse again
    machine.feed(SiteReady("a"))
    assert machine.state.status == "running"


def test_a_refusing_site_is_not_waited_for_until_it_joins_again():
    machine = running()
    machine.feed(SiteRefused("c", "over budget"))
    assert task_for(machine.state, "c").kind == "wait"
    machine.update("a")
    machine.update("b", 2)
    assert len(machine.sums()) == 1
    assert "c refuses the run (over budget)" in summary(machine.state)
    machine.feed(SiteJoined("c", "f" * 32, 30))
    assert machine.state.site("c").refusal is None


def test_a_refusal_can_complete_a_round():
    machine = running()
    machine.update("a")
    machine.update("b", 2)
    assert machine.sums() == []
    machine.feed(SiteRefused("c", "over budget"))
    assert len(machine.sums()) == 1


def test_silence_and_refusal_never_break_the_quorum():
    machine = running(quorum=3)
    machine.update("a")
    machine.feed(SiteFellSilent("b"))
    machine.feed(SiteRefused("c", "no"))
    machine.feed(TimePassed(), later=DEADLINE)
    assert machine.sums() == []


def refuse(machine, site, number=9):
    current = machine.state.open_round
    reason = "its norm is 1e+09; aggregation.max_update_norm is 10"
    return machine.feed(
        UpdateRefused(site, current.round, current.base_digest, digest(number), reason), later=0.0
    )


def test_a_site_whose_update_was_refused_sits_its_round_out():
    machine = running()
    machine.update("a", 1)
    refuse(machine, "c")
    task = task_for(machine.state, "c")
    assert task.kind == "wait"
    assert "its norm is 1e+09; aggregation.max_update_norm is 10" in task.detail
    assert obsolete(machine.state, "c", 1)
    assert "the update of c was refused (its norm is 1e+09" in summary(machine.state)
    assert machine.update("c", 3).verdict is Verdict.REFUSED  # another one, and the same
    assert machine.update("c", 9).verdict is Verdict.REFUSED
    assert machine.sums() == []
    machine.update("b", 2)  # nobody else is waited for
    assert [part.site for part in machine.sums()[0].contributions] == ["a", "b"]
    (record,) = [action.record for action in machine.close(11).actions if isinstance(action, RoundClosed)]
    assert (record.sites, record.missing, record.refused) == (("a", "b"), ("c",), ("c",))
    assert task_for(machine.state, "c").kind == "train"  # the next round takes another
    assert machine.update("c", 4).verdict is Verdict.ACCEPTED
    assert machine.kinds().count("update_refused") == 3


def test_a_refusal_counts_once_and_never_against_an_update_that_counts():
    machine = running()
    machine.update("a", 1)
    before = machine.state
    assert refuse(machine, "a").state == before
    refuse(machine, "b")
    before = machine.state
    assert refuse(machine, "b", 8).state == before
    assert RunState.model_validate_json(before.model_dump_json()) == before


def test_a_round_that_refusals_leave_without_a_quorum_ends_the_run():
    machine = running(quorum=2)
    machine.update("a", 1)
    refuse(machine, "b")
    assert machine.state.status == "running"
    refuse(machine, "c")
    assert machine.state.status == "failed"
    assert (
        "round 1 cannot reach its quorum of 2: the updates of b and c were refused" in machine.state.failure
    )
    assert "max_update_norm is 10" in machine.state.failure
    assert machine.kinds()[-1] == "run_failed"


def test_a_state_from_before_refusals_is_read():
    machine = running()
    document = machine.state.model_dump(mode="json")
    del document["open_round"]["refused"]
    assert RunState.model_validate(document) == machine.state
