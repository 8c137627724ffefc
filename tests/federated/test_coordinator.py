"""The round state machine: named situations, then every order of events that hypothesis can think of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adpfl.errors import StateError
from adpfl.federated.coordinator import actions_on_resume, judge, new_run, step
from adpfl.federated.run_events import (
    Aggregate,
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
    UpdateRefused,
    Verdict,
)
from adpfl.federated.run_plan import RunPlan
from adpfl.federated.run_state import RunState, summary
from adpfl.federated.site_tasks import obsolete, task_for

SITES = ("a", "b", "c")
START = 1000.0
DEADLINE = 60.0


def digest(number):
    return f"{number:064x}"


def instance(site, restarts=0):
    return f"{SITES.index(site) + 3 * restarts}" * 32


def a_plan(quorum=2, rounds=2, weights="uniform", sites=SITES):
    return RunPlan.model_validate(
        {
            "run": "demo",
            "task": "skin_lesion",
            "image_size": [64, 64],
            "rounds": rounds,
            "local": {"steps": 1, "learning_rate": 0.1},
            "aggregation": {"weights": weights},
            "cohort": {"sites": list(sites), "quorum": quorum, "round_deadline_seconds": DEADLINE},
            "privacy": {"mode": "none", "sampling": {"mode": "full"}},
        }
    )


class Machine:
    """Feeds events and keeps everything that came out."""

    def __init__(self, plan=None):
        created = new_run(plan or a_plan(), digest(0), START)
        self.state = created.state
        self.now = START
        self.actions = []
        self.timeline = list(created.timeline)

    def feed(self, event, later=1.0):
        self.now += later
        moved = step(self.state, event, self.now)
        self.state = moved.state
        self.actions += moved.actions
        self.timeline += moved.timeline
        return moved

    def join(self, *sites):
        """Join and ask for a task, as an agent does whose policy lets the run pass."""
        for site in sites:
            self.feed(SiteJoined(site, instance(site), 10 * (SITES.index(site) + 1)))
            self.feed(SiteReady(site))
        return self

    def update(self, site, number=1, base=None, round_number=None):
        current = self.state.open_round
        return self.feed(
            UpdateArrived(
                site,
                round_number or (current.round if current else 1),
                base or (current.base_digest if current else digest(0)),
                digest(number),
            )
        )

    def sums(self):
        return [action for action in self.actions if isinstance(action, Aggregate)]

    def close(self, number):
        return self.feed(AggregationDone(self.state.open_round.round, digest(number)))

    def kinds(self):
        return [entry.kind for entry in self.timeline]


def running(**plan):
    return Machine(a_plan(**plan)).join(*SITES)


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


def test_silence_and_refusal_never_break_the_quorum():
    machine = running(quorum=3)
    machine.update("a")
    machine.feed(SiteFellSilent("b"))
    machine.feed(SiteRefused("c", "no"))
    machine.feed(TimePassed(), later=DEADLINE)
    assert machine.sums() == []


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


# --- all orders -----------------------------------------------------------------------------------

site_names = st.sampled_from(SITES)
events = st.one_of(
    st.builds(SiteJoined, site_names, st.sampled_from(["0" * 32, "1" * 32]), st.just(10)),
    st.builds(SiteReady, site_names),
    st.builds(SiteRefused, site_names, st.just("budget")),
    st.builds(SiteFellSilent, site_names),
    st.builds(SiteHeard, site_names),
    st.builds(
        UpdateArrived,
        site_names,
        st.integers(1, 3),
        st.integers(0, 3).map(digest),
        st.integers(100, 104).map(digest),
    ),
    st.just(TimePassed()),
    # The n-th model is digest(n), so that updates of later rounds meet their base model.
    st.integers(1, 3).map(lambda number: AggregationDone(number, digest(number))),
    st.just(ServerRestarted()),
)


@settings(max_examples=300, deadline=None)
@given(
    quorum=st.integers(1, 3),
    script=st.lists(st.tuples(events, st.sampled_from([0.0, 1.0, DEADLINE])), max_size=60),
)
def test_no_order_of_events_breaks_the_rules(quorum, script):
    machine = Machine(a_plan(quorum=quorum, rounds=3))
    counted: dict[int, dict[str, str]] = {}
    for event, later in script:
        before = machine.state
        moved = machine.feed(event, later)
        after = moved.state

        # The state survives storage, and storing it changes nothing.
        assert RunState.model_validate_json(after.model_dump_json()) == after
        # Rounds only move forward, by one, and a run that is over stays as it is.
        assert after.rounds_closed - before.rounds_closed in (0, 1)
        # Nobody is told to train a round that too few had agreed to when it opened.
        opened_before = before.open_round.round if before.open_round else None
        if after.open_round is not None and after.open_round.round != opened_before:
            assert len(after.ready) >= quorum
        if before.over:
            assert after == before
        if isinstance(event, UpdateArrived) and moved.verdict is Verdict.ACCEPTED:
            assert before.open_round is not None
            assert (event.round, event.base_digest) == (
                before.open_round.round,
                before.open_round.base_digest,
            )
            assert event.site not in counted.setdefault(event.round, {})
            counted[event.round][event.site] = event.update_digest
        for action in moved.actions:
            if isinstance(action, Aggregate):
                names = [part.site for part in action.contributions]
                assert len(names) >= quorum
                assert names == [site for site in SITES if site in counted[action.round]]
                assert {part.site: part.update_digest for part in action.contributions} == counted[
                    action.round
                ]
                assert sum(part.weight for part in action.contributions) == pytest.approx(1.0)
            if isinstance(action, RoundClosed):
                assert set(action.record.sites) | set(action.record.missing) == set(SITES)
                assert not set(action.record.sites) & set(action.record.missing)
        # Whoever waits for work is woken when there is some.
        for site in SITES:
            if task_for(after, site).kind != "wait" and task_for(before, site) != task_for(after, site):
                assert any(isinstance(action, TasksChanged) for action in moved.actions)
        # A subset is never plain success.
        missed = [site.site for site in after.sites if site.rounds_missed]
        assert all(site in summary(after) for site in missed)
    assert len([action for action in machine.actions if isinstance(action, Aggregate)]) <= 3


@settings(max_examples=100, deadline=None)
@given(order=st.permutations(SITES * 2), restarts=st.sets(st.integers(0, 5)))
def test_every_order_of_arrival_with_restarts_gives_the_same_sums(order, restarts):
    machine = running(quorum=3, rounds=2)
    for number, site in enumerate(order):
        if number in restarts:
            machine.state = RunState.model_validate_json(machine.state.model_dump_json())
            machine.feed(ServerRestarted())
        machine.update(site, SITES.index(site) + 1)
        if machine.state.open_round and machine.state.open_round.aggregating:
            machine.close(9)
    first = machine.sums()[0]
    assert [(part.site, part.update_digest) for part in first.contributions] == [
        (site, digest(number)) for number, site in enumerate(SITES, start=1)
    ]


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
