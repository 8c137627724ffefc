"""The round state machine under every order of events that hypothesis can think of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adpfl.federated.run_events import (
    Aggregate,
    AggregationDone,
    RoundClosed,
    ServerRestarted,
    SiteFellSilent,
    SiteHeard,
    SiteJoined,
    SiteReady,
    SiteRefused,
    TasksChanged,
    TimePassed,
    UpdateArrived,
    Verdict,
)
from adpfl.federated.run_state import RunState, summary
from adpfl.federated.site_tasks import task_for
from tests.federated.machine import DEADLINE, SITES, Machine, a_plan, digest, running

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
