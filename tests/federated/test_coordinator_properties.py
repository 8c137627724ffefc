"""The coordinator in a small world of sites, a network, an operator and crashes, in orders nobody chose.

A model stands for what it is made of: the (round, site, update) of everything that was ever added. So a lost
or doubled update shows in the last model itself, not in a count that the coordinator keeps of its own work.
"""

import hashlib
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adpfl.federated.coordinator import actions_on_resume, new_run, step
from adpfl.federated.run_events import (
    Aggregate,
    AggregationDone,
    AggregationFailed,
    RoundClosed,
    RunCancelled,
    RunPaused,
    RunResumed,
    ServerRestarted,
    SiteFellSilent,
    SiteHeard,
    SiteJoined,
    SiteLeft,
    SiteReady,
    SiteRefused,
    StorageDamaged,
    StorageMended,
    TasksChanged,
    TimePassed,
    UpdateArrived,
    UpdateDamaged,
    UpdateRefused,
    Verdict,
)
from adpfl.federated.run_plan import RunPlan
from adpfl.federated.run_state import Moments, RunState, summary
from adpfl.federated.site_tasks import obsolete, task_for

SITES = ("a", "b", "c", "d")
ROUNDS = 3
DEADLINE = 60.0
QUICK, MANY = 100, 1000
LEAST_MOVES = 25
"""With fewer, few scripts get as far as a sum."""

AGGREGATIONS = (
    {"weights": "patients"},
    {"strategy": "fedadam", "averaging": {"method": "ema", "decay": 0.5}},
    {"strategy": "fedyogi", "weights": "patients"},
    {"strategy": "median", "averaging": {"method": "tail", "rounds": 2}},
)


def digest(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def a_plan(aggregation, quorum):
    return RunPlan.model_validate(
        {
            "run": "demo",
            "task": "skin_lesion",
            "image_size": [64, 64],
            "rounds": ROUNDS,
            "local": {"steps": 1, "learning_rate": 0.1},
            "aggregation": aggregation,
            "cohort": {"sites": list(SITES), "quorum": quorum, "round_deadline_seconds": DEADLINE},
            "privacy": {"mode": "none", "sampling": {"mode": "full"}},
        }
    )


class World:
    """One run and everything around it; `crash` leaves only what is stored."""

    def __init__(self, plan):
        self.now = 1000.0
        self.state = new_run(plan, digest("start"), self.now).state
        self.made_of = {self.state.model_digest: Counter()}
        self.pending = []  # sums under way
        self.under_way = {}  # updates that are trained or sent
        self.past = []  # messages that were sent, for the network to repeat
        self.answers = []  # of the adding up, likewise
        self.accepted = Counter()
        self.refused = set()
        self.late = set()  # of these a receipt says that they were not added up
        self.records = []
        self.instances = dict.fromkeys(SITES, 0)

    # --- the rules that hold after every event

    def feed(self, event):
        before = self.state
        moved = step(before, event, self.now)
        after = self.state = moved.state
        if isinstance(event, UpdateArrived) and moved.verdict is Verdict.ACCEPTED:
            self.accepted[event.round, event.site, event.update_digest] += 1
            assert (event.round, event.site) not in self.refused | self.late
        if isinstance(event, UpdateArrived) and moved.verdict is Verdict.LATE:
            self.late.add((event.round, event.site))
        for action in moved.actions:
            if isinstance(action, Aggregate):
                self.check_sum(action)
                self.pending.append(action)
            elif isinstance(action, RoundClosed):
                self.records.append(action.record)
        assert RunState.model_validate_json(after.model_dump_json()) == after
        assert after.rounds_closed - before.rounds_closed in (0, 1)
        if before.over:
            assert after == before
        self.check_round(before, after)
        self.check_words()
        woken = any(isinstance(action, TasksChanged) for action in moved.actions)
        for site in SITES:
            task = task_for(after, site)
            assert woken or task.kind == "wait" or task == task_for(before, site)
            assert not (task.kind == "train" and obsolete(after, site, task.round))
        return moved

    def check_round(self, before, after):
        current = after.open_round
        if current is None:
            return
        assert current.round == after.rounds_closed + 1 <= ROUNDS
        assert current.base_digest == after.model_digest
        opened = before.open_round is None or before.open_round.round != current.round
        if opened:
            assert len(after.ready) >= after.plan.cohort.quorum
            assert not after.paused
            assert not after.damage

    def check_words(self):
        """A run that is not over says what it waits for; one that ended with fewer sites names them."""
        state, said = self.state, summary(self.state)
        if state.over:
            assert said.startswith(state.status)
            if state.status == "finished":
                assert all(site.site in said for site in state.sites if site.rounds_missed)
            return
        if state.paused:
            assert "paused by an operator" in said
        if state.damage:
            assert f"held up by damage on the server's disk ({state.damage})" in said
        current = state.open_round
        if current is None:
            assert f"{state.plan.cohort.quorum} needed" in said
        elif current.aggregating:
            assert "adding them up" in said
        else:
            assert state.absent
            assert all(site in said for site in state.absent)
        assert all(f"{site.site} refuses the run" in said for site in state.sites if site.refusal)
        assert all(f"{site.site} is silent" in said for site in state.sites if site.silent)
        assert all(f"{site.site} has left the run" in said for site in state.sites if site.has_left)
        out_of_reach = len(state.able) < state.plan.cohort.quorum
        if current is None or not current.aggregating:
            assert ("cannot be reached" in said) == out_of_reach

    def check_sum(self, action):
        sites = [part.site for part in action.contributions]
        assert sites == sorted(sites)
        assert len(set(sites)) == len(sites) >= self.state.plan.cohort.quorum
        assert sum(part.weight for part in action.contributions) == pytest.approx(1.0)
        counted = Counter((action.round, part.site, part.update_digest) for part in action.contributions)
        assert counted == Counter({key: n for key, n in self.accepted.items() if key[0] == action.round})
        assert not self.pending, "one sum at a time"
        newest = self.answers[-1] if self.answers else None
        if action.optimize is not None:
            assert action.optimize.previous == (newest and newest.moments)
        if action.average is not None:
            assert action.average.previous_digest in (newest.averaged_digest, newest.result_digest)

    # --- what can happen

    def join(self, site):
        self.feed(SiteJoined(site, f"{self.instances[site]:032x}", 10 * (1 + SITES.index(site))))

    def restart_agent(self, site):
        self.instances[site] += 1
        self.join(site)

    def ask(self, site):
        if self.state.site(site).joined:
            self.feed(SiteReady(site))

    def refuse(self, site):
        self.feed(SiteRefused(site, "budget"))

    def leave(self, site):
        self.feed(SiteLeft(site, "a new scanner"))
        assert self.state.over or task_for(self.state, site).kind == "wait"
        assert self.state.over or site not in self.state.ready

    def damage(self, site):
        """The disk changes a byte of the update that a site has in the open round; it must send it again."""
        current = self.state.open_round
        if current is None or site not in current.answered:
            return
        (lost,) = (one for one in current.updates if one.site == site)
        self.pending.clear()  # the sum meets the damage, and is not made
        del self.accepted[current.round, site, lost.update_digest]
        moved = self.feed(UpdateDamaged(current.round, (site,), "chunk 0 is damaged"))
        assert [entry.site for entry in moved.timeline if entry.kind == "update_damaged"] == [site]
        standing = self.state.site(site)
        if standing.joined and standing.takes_part and not self.pending:
            assert task_for(self.state, site).kind == "train"
        again = UpdateArrived(site, current.round, current.base_digest, lost.update_digest)
        self.under_way[site] = again

    def come_too_late(self, site):
        """A site's update comes while the others are added up; whatever is damaged then, it stays out."""
        current = self.state.open_round
        if current is None or not current.aggregating or site in current.done:
            return
        if self.state.site(site).joined:
            update = digest("update", site, current.round, self.instances[site])
            event = UpdateArrived(site, current.round, current.base_digest, update)
            self.deliver(event)
            assert task_for(self.state, site).kind == "wait"
            self.under_way[site] = event  # it comes once more, some time

    def break_model(self, _):
        self.feed(StorageDamaged(f"the model of round {self.state.rounds_closed}"))

    def mend_model(self, _):
        self.feed(StorageMended())
        assert self.state.over or not self.state.damage

    def fall_silent(self, site):
        self.feed(SiteFellSilent(site))

    def call(self, site):
        self.feed(SiteHeard(site))

    def train(self, site):
        self.compute(site)
        self.arrive(site)

    def compute(self, site):
        """Answer the task; another instance of the agent has other noise, and so another update."""
        task = task_for(self.state, site)
        if task.kind == "train":
            update = digest("update", site, task.round, self.instances[site])
            self.under_way[site] = UpdateArrived(site, task.round, task.base_digest, update)

    def arrive(self, site):
        """An update that was under way comes in, whatever has happened since."""
        if site in self.under_way:
            self.deliver(self.under_way.pop(site))

    def send_absurd(self, site):
        """An update breaks a rule of the plan; nothing that the site sends in that round counts."""
        task = task_for(self.state, site)
        if task.kind == "train":
            absurd = digest("absurd", site, task.round)
            self.feed(UpdateRefused(site, task.round, task.base_digest, absurd, "its norm is 9"))
            self.refused.add((task.round, site))
            if self.state.over:
                self.pending.clear()

    def enter_all(self, _):
        for site in SITES:
            self.instances[site] += self.state.site(site).refusal is not None  # that agent's word is final
            self.join(site)
            self.ask(site)

    def train_all_but(self, absent):
        """Most of a round at once, so that sums, and what happens during them, are reached often."""
        for site in SITES:
            if site != absent:
                self.train(site)

    def train_on_another_history(self, site):
        number = self.state.rounds_closed + 1
        self.deliver(UpdateArrived(site, number, digest("another"), digest("update", site)))

    def deliver(self, event):
        self.past.append(event)
        self.feed(event)

    def repeat(self, site):
        """The network delivers one of a site's messages again, however old."""
        sent = [event for event in self.past if event.site == site]
        if sent:
            self.feed(sent[len(self.accepted) % len(sent)])

    def tick(self, site):
        self.now += 10.0 * (1 + SITES.index(site))
        self.feed(TimePassed())

    def add_up(self, _):
        if self.pending:
            action = self.pending.pop()
            self.answers.append(self.sum_of(action))
            self.feed(self.answers[-1])

    def sum_of(self, action):
        """Any function of the action alone will do for the digests; the model knows what it is made of."""
        made = digest("model", action)
        added = Counter((action.round, part.site, part.update_digest) for part in action.contributions)
        self.made_of[made] = self.made_of[action.base_digest] + added
        average = action.average and digest("average", action)
        moments = action.optimize and Moments(
            first_digest=digest("m", action), second_digest=digest("v", action)
        )
        return AggregationDone(action.round, made, average, moments)

    def repeat_answer(self, _):
        if self.answers:
            self.feed(self.answers[-1])

    def pause(self, _):
        if not self.state.over:
            self.feed(RunPaused("bob"))

    def resume(self, _):
        if not self.state.over:
            self.feed(RunResumed("bob"))

    def cancel(self, _):
        if not self.state.over:
            self.feed(RunCancelled("bob", "enough"))
            self.pending.clear()

    def fail(self, _):
        if self.pending:
            self.feed(AggregationFailed(self.pending.pop().round, "a chunk is damaged"))

    def crash(self):
        """The stored state comes back, and says what was under way."""
        self.state = RunState.model_validate_json(self.state.model_dump_json())
        again = [action for action in actions_on_resume(self.state) if isinstance(action, Aggregate)]
        assert again == self.pending
        self.pending = again
        self.feed(ServerRestarted())

    # --- how it ends

    def check_models(self):
        """Every update that counted in a closed round is in the newest model once, and nothing else is."""
        closed = self.state.rounds_closed
        counted = Counter({key: n for key, n in self.accepted.items() if key[0] <= closed})
        assert self.made_of[self.state.model_digest] == counted
        assert set(counted.values()) <= {1}
        assert [record.round for record in self.records] == list(range(1, closed + 1))
        for record in self.records:
            assert {site for number, site, _ in counted if number == record.round} == set(record.sites)
            assert set(record.sites) | set(record.missing) == set(SITES)
            assert len(record.sites) == len(SITES) - len(record.missing) >= self.state.plan.cohort.quorum
        if self.state.status == "finished":
            assert closed == ROUNDS

    def be_fair(self, alive):
        """From now on these sites work, the others are gone, and the operator wants an end."""
        self.resume(None)
        if not self.state.over:
            self.mend_model(None)
        for site in SITES:
            if site in alive:
                self.restart_agent(site)
                self.ask(site)
            else:
                self.fall_silent(site)
        for _ in range(ROUNDS + 1):
            self.add_up(None)
            for site in alive:
                self.train(site)
            self.now += DEADLINE
            self.feed(TimePassed())
        self.add_up(None)


USUAL = (World.enter_all, World.train, World.train_all_but, World.train_all_but, World.arrive, World.add_up)
ODD = (
    *(World.join, World.ask, World.restart_agent, World.refuse, World.fall_silent, World.call),
    *(World.leave, World.ask, World.damage, World.break_model, World.mend_model, World.mend_model),
    *(World.come_too_late, World.damage, World.come_too_late),
    *(World.compute, World.compute, World.repeat, World.train_on_another_history, World.repeat_answer),
    *(World.tick, World.tick, World.pause, World.resume, World.resume, World.resume),
)
ENDS = (World.cancel, World.fail, World.send_absurd, World.send_absurd)


def orders(ends=()):
    """Scripts of (what, which site), as often usual as odd, so that later rounds are reached."""
    moves = st.tuples(st.one_of(st.sampled_from(USUAL), st.sampled_from(ODD)), st.sampled_from(SITES))
    end = (
        st.lists(st.tuples(st.sampled_from(ends), st.sampled_from(SITES)), max_size=2)
        if ends
        else st.just([])
    )
    parts = st.tuples(st.lists(moves, min_size=LEAST_MOVES, max_size=80), end, st.lists(moves, max_size=9))
    return parts.map(lambda drawn: drawn[0] + drawn[1] + drawn[2])


plans = st.tuples(st.sampled_from(AGGREGATIONS), st.integers(1, len(SITES))).map(
    lambda drawn: a_plan(drawn[0], max(drawn[1], 3) if drawn[0].get("strategy") == "median" else drawn[1])
)


def examples(quick):
    """A few in `make test`, many in `make test-full`."""
    return pytest.mark.parametrize(
        "count", [pytest.param(quick, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.full)]
    )


def explore(count, check, **drawn):
    settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))(
        given(**drawn)(check)
    )()


@examples(QUICK)
def test_no_update_is_lost_or_counted_twice_whatever_happens(count):
    def check(plan, script, crashes):
        world = World(plan)
        for number, (move, site) in enumerate(script):
            move(world, site)
            if number in crashes:
                world.crash()
            world.check_models()

    explore(count, check, plan=plans, script=orders(ENDS), crashes=st.sets(st.integers(0, 80), max_size=8))


@examples(QUICK)
def test_a_crash_at_any_event_changes_nothing(count):
    def check(plan, script, crashes):
        calm, shaken = World(plan), World(plan)
        for number, (move, site) in enumerate(script):
            move(calm, site)
            move(shaken, site)
            if crashes is None or number in crashes:
                shaken.crash()
            assert shaken.state == calm.state
            assert shaken.pending == calm.pending
        assert shaken.records == calm.records

    everywhere = st.none()
    some = st.sets(st.integers(0, 80), max_size=8)
    explore(count, check, plan=plans, script=orders(ENDS), crashes=st.one_of(everywhere, some))


@examples(QUICK)
def test_every_run_ends_or_says_what_it_waits_for(count):
    def check(plan, script, alive):
        world = World(plan)
        for move, site in script:
            move(world, site)
        world.be_fair(sorted(alive))
        world.check_models()
        if world.state.over:
            return
        # Only ever because too few are left, and the words name everyone who is gone.
        current = world.state.open_round
        done = current.answered if current else frozenset()
        late = set(current.late) if current else set()
        assert len(done | (alive - late)) < plan.cohort.quorum or len(alive) < plan.cohort.quorum
        gone = set(SITES) - alive - done
        assert gone
        assert all(site in summary(world.state) for site in gone)

    explore(count, check, plan=plans, script=orders(), alive=st.sets(st.sampled_from(SITES)))


def test_a_run_that_everybody_works_on_ends_whatever_came_before():
    def check(plan, script):
        world = World(plan)
        for move, site in script:
            move(world, site)
        world.be_fair(SITES)
        assert world.state.status == "finished"
        world.check_models()

    explore(QUICK, check, plan=plans, script=orders())
