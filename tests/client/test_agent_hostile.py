"""The agent against a server that asks for too much, and what may be heard of the site when it refuses."""

import errno
import hashlib
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest
import structlog

from adpfl.errors import BudgetError, StorageError
from adpfl.privacy.ledger_rounds import REASKED_ROUNDS
from adpfl.wire import messages, receipts
from adpfl_client import agent as agent_module
from adpfl_client import spool
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.rounds import local_run, round_work, site_record
from adpfl_client.rounds.site_record import read_record

RUNNING = messages.RunStatus.RUNNING


def record_of(config):
    return read_record(config.state_dir / "runs" / "derm")


def reservations(config):
    with LedgerStore.open(config.state_dir, 2e9) as ledger:
        return ledger.reservations("derm")


def after_commit(monkeypatch, service, then):
    """Call `then(count)` after each update that the stand-in adds to its model."""
    add_up, count = type(service)._aggregate, 0

    def aggregate(self, commit):
        nonlocal count
        add_up(self, commit)
        count += 1
        then(count)

    monkeypatch.setattr(type(service), "_aggregate", aggregate)


def test_no_round_beyond_the_plan_is_drawn(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan(rounds=2)), make_config(maximum_rounds=2)
    service.rounds = 7
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "refused"
    assert "round 3 of run derm is asked for; the approved plan has rounds 1 to 2" in outcome.summary
    assert [one.round_number for one in reservations(config)] == [1, 2]
    assert len(service.commits) == 2
    assert service.heartbeats[-1].activity is messages.SiteActivity.REFUSED
    assert service.heartbeats[-1].detail == "plan"


def test_a_round_asked_from_ever_new_bases_is_drawn_a_few_times_only(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    service, config = serve(make_plan(rounds=2)), make_config()

    def ask_again(_count):
        service.round = 1

    after_commit(monkeypatch, service, ask_again)
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "refused"
    assert len(reservations(config)) == len(service.commits) == 2 + REASKED_ROUNDS


def test_a_server_restored_from_a_backup_is_sent_the_same_bytes(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    service, config = serve(make_plan(rounds=3)), make_config()
    first_base = service.base

    def restore_once(count):
        if count == 2:
            service.round, service.base = 1, first_base
            service.received.clear()
        # The receipt under way is still answered; the others are forgotten.
        if count in {2, 3}:
            forgotten = 1 if count == 2 else 2
            del service.committed[next(place for place in service.committed if place[1] == forgotten)]

    after_commit(monkeypatch, service, restore_once)
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "finished"
    assert [(one.round_number, one.status) for one in reservations(config)] == [
        (1, "committed"),
        (2, "committed"),
        (3, "committed"),
    ]
    sent = [(commit.round, commit.update_digest) for commit in service.commits]
    assert sent[2:4] == sent[:2]
    assert [one.round for one in service.commits] == [1, 2, 1, 2, 3]
    # The engine goes on from round 2, not from the round that was sent again.
    assert [one.first_step for one in reservations(config)] == [0, 2, 4]
    assert list((config.state_dir / "spool" / "derm").iterdir()) == []


def test_a_refusal_tells_the_server_a_code_and_nothing_of_the_message(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    secret = "/srv/set-17 has spent 3.25 of a cap of 8 in run other"

    def refuse(*_arguments, **_options):
        raise BudgetError(secret, rule="policy.epsilon_cap")

    monkeypatch.setattr(agent_module, "approve", refuse)
    service, config = serve(make_plan()), make_config()
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert secret in outcome.summary
    assert [beat.detail for beat in service.heartbeats] == ["policy.epsilon_cap"]


@pytest.mark.parametrize(
    ("privacy", "event"),
    [
        ({"mode": "none", "sampling": {"mode": "full"}}, "unsafe run: no clipping and no noise"),
        (None, "run has no finite guarantee"),
    ],
)
def test_an_unbounded_run_is_warned_of_and_its_acceptance_recorded_once(
    open_agent, make_config, make_plan, serve, privacy, event
):
    plan = make_plan() if privacy is None else make_plan(privacy=privacy)
    service, config = serve(plan), make_config()
    service.failed = "for now"
    with structlog.testing.capture_logs() as lines:
        with open_agent(config) as agent:
            agent.work(until_finished=True)
        with open_agent(config) as agent:
            agent.work(until_finished=True)
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert [(line["event"], line["epsilon"], line["mode"]) for line in warnings] == [
        (event, "inf", plan.privacy.mode)
    ] * 2
    (accepted,) = [one for one in record_of(config).timeline if one.kind == "unbounded_accepted"]
    assert accepted.detail == "a test (accepted by the tester)"


def test_a_run_with_a_finite_guarantee_is_not_warned_of(open_agent, make_config, make_plan, serve):
    privacy = {
        "mode": "paper",
        "reading": "budget_n",
        "nominal_epsilon": 0.1,
        "threshold": {"method": "fixed", "clip_norm": 1.0},
        "sampling": {"mode": "full"},
    }
    serve(make_plan(privacy=privacy))
    config = make_config(accept_unbounded=[])
    with structlog.testing.capture_logs() as lines, open_agent(config) as agent:
        agent.work(until_finished=True)
    assert [line for line in lines if line["log_level"] == "warning"] == []
    assert "unbounded_accepted" not in [one.kind for one in record_of(config).timeline]


@pytest.mark.parametrize(("sampling", "told"), [("poisson", [0, 0]), ("partition", [1, 2])])
def test_the_count_of_steps_is_told_only_where_a_batchs_size_is_public(
    open_agent, make_config, make_plan, serve, monkeypatch, sampling, told
):
    """Under `poisson` the moments at which the count grows would tell how large each batch was."""
    beats, counts = [], []

    @contextmanager
    def watched_beating(*arguments, **options):
        with beating(*arguments, **options) as heartbeat:
            beats.append(heartbeat)
            yield heartbeat

    def watched_release(engine, *arguments, **options):
        released = release(engine, *arguments, **options)
        counts.append(beats[-1]._steps_done)
        return released

    beating, release = round_work.beating, round_work.PrivacyEngine.release
    monkeypatch.setattr(round_work, "beating", watched_beating)
    monkeypatch.setattr(round_work.PrivacyEngine, "release", watched_release)
    privacy = {
        "mode": "paper",
        "reading": "multiplier",
        "threshold": {"method": "percentile"},
        "sampling": {"mode": sampling, "probability": 0.5},
    }
    serve(make_plan(privacy=privacy, rounds=1))
    with open_agent(make_config()) as agent:
        agent.work(until_finished=True)
    assert [*counts[1:], beats[0]._steps_done] == told


def test_a_plan_without_end_ends_its_own_run_alone(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config()
    bomb, plan = b"[" * 200_000, service.plan.canonical_json()
    offers = tuple(
        messages.RunOffer(run, text, hashlib.sha256(text).hexdigest(), RUNNING)
        for run, text in [("bomb", bomb), ("derm", plan)]
    )
    service.spoiled_join = messages.JoinResponse(offers, "test", "0" * 32).to_wire()
    with open_agent(config) as agent:
        outcomes = agent.work(until_finished=True)
    assert [(one.run, one.status) for one in outcomes] == [("bomb", "failed"), ("derm", "finished")]


@pytest.mark.parametrize(("hint", "waited"), [(0, 0.2), (7, 7), (2**32 - 1, 30)])
def test_a_server_cannot_put_the_agent_to_sleep(open_agent, make_config, make_plan, serve, hint, waited):
    serve(make_plan(rounds=1))
    waits = []
    with open_agent(make_config()) as agent:
        ask = agent._site.connection.next_task
        agent._pause = waits.append

        def hold_back_once(request):
            if not waits:
                return messages.NextTaskResponse(messages.TaskKind.WAIT, wait_hint_seconds=hint)
            return ask(request)

        agent._site.connection.next_task = hold_back_once
        agent.work(until_finished=True)
    assert waits == [waited]


@pytest.mark.parametrize(
    ("module", "role"), [(spool, "the spool of finished updates"), (site_record, "the record of the run")]
)
def test_a_full_disk_stops_the_agent_before_anything_is_sent(
    open_agent, make_config, make_plan, serve, monkeypatch, module, role
):
    service, config = serve(make_plan()), make_config()
    with open_agent(config) as agent, monkeypatch.context() as patch:

        def full(path, _data):
            if path.name == "site.json" and not reservations(config):
                return written(path, _data)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        written = module.write_bytes
        patch.setattr(module, "write_bytes", full)
        with pytest.raises(StorageError, match=f"{role}: the disk refuses: No space left on device"):
            agent.work(until_finished=True)
    assert service.commits == []
    assert [beat.detail for beat in service.heartbeats if beat.detail] == []
    assert [one.status for one in reservations(config)] == ["reserved"]
    assert StorageError.exit_code == 1
    with open_agent(config) as agent:
        assert agent.work(until_finished=True)[0].status == "finished"
    assert [(one.round_number, one.status) for one in reservations(config)] == [
        (1, "abandoned"),
        (1, "committed"),
        (2, "committed"),
    ]


@pytest.fixture
def read_only_in_training(monkeypatch):
    """The disk refuses to let the room go that was held for an update; returns the refusals."""
    refused = []

    def unlink(path, missing_ok=False):
        if path.name == "room.partial":
            refused.append(path)
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        unlinked(path, missing_ok=missing_ok)

    unlinked = Path.unlink
    monkeypatch.setattr(Path, "unlink", unlink)
    return refused


def test_a_disk_that_turns_read_only_in_training_is_not_waited_for(
    open_agent, make_config, make_plan, serve, monkeypatch, read_only_in_training
):
    def read_only(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(spool, "new_folder", read_only)
    serve(make_plan())
    config = make_config()
    with open_agent(config) as agent, pytest.raises(StorageError, match="stays charged") as error:
        agent.work(until_finished=True)
    assert error.type is StorageError
    assert len(read_only_in_training) == 1
    assert [(one.round_number, one.status) for one in reservations(config)] == [(1, "reserved")]


def test_held_room_that_cannot_be_let_go_costs_nothing(
    open_agent, make_config, make_plan, serve, read_only_in_training
):
    serve(make_plan())
    config = make_config()
    with open_agent(config) as agent:
        assert agent.work(until_finished=True)[0].status == "finished"
    assert len(read_only_in_training) == 2
    assert [(one.round_number, one.status) for one in reservations(config)] == [
        (1, "committed"),
        (2, "committed"),
    ]


def test_an_image_on_a_disk_that_refuses_in_training_is_not_waited_for(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    def fail(*_arguments, **_options):
        raise OSError(errno.EROFS, "Read-only file system", "/srv/clinic/secret.png")

    monkeypatch.setattr(round_work, "local_update", fail)
    serve(make_plan())
    config = make_config()
    with open_agent(config) as agent, pytest.raises(StorageError, match="stays charged") as error:
        agent.work(until_finished=True)
    assert error.type is StorageError
    assert [(one.round_number, one.status) for one in reservations(config)] == [(1, "reserved")]


def test_a_disk_that_fills_up_after_the_ledgers_commit_is_not_waited_for(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    serve(make_plan())
    config = make_config()

    def replace(path, target):
        if path.name == "ledger.head.partial" and charged(config):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return renamed(path, target)

    renamed = Path.replace
    with open_agent(config) as agent, monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(StorageError, match="what was appended stands") as error:
            agent.work(until_finished=True)
    assert error.type is StorageError
    assert charged(config) == 1
    with open_agent(config) as agent:  # the chain holds the head that is one behind
        assert agent.work(until_finished=True)[0].status == "finished"
    assert charged(config) == 3


def charged(config):
    """How often a round was charged, by the ledger's file alone; 0 while it is being made."""
    if not (config.state_dir / "runs").exists():
        return 0
    uri = f"file:{config.state_dir / 'ledger.sqlite'}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        (count,) = database.execute("SELECT count(*) FROM entries WHERE kind = 'reserved'").fetchone()
    return count


def test_a_local_file_that_cannot_be_used_is_said_in_one_line_and_not_to_the_server(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    def fail(*_arguments, **_options):
        raise OSError(errno.EIO, "Input/output error", "/srv/clinic/secret.png")

    monkeypatch.setattr(local_run, "TrainingUnits", fail)
    service, config = serve(make_plan()), make_config()
    with open_agent(config) as agent, pytest.raises(StorageError, match="run derm: a local file"):
        agent.work(until_finished=True)
    assert service.heartbeats == []


def test_a_run_created_while_another_is_under_way_is_noticed(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config()
    first = messages.RunOffer("derm", service.plan.canonical_json(), service.plan.digest(), RUNNING)
    created = make_plan(run="second")  # which the policy refuses: it ends as soon as it is noticed
    second = messages.RunOffer("second", created.canonical_json(), created.digest(), RUNNING)
    seconds = 0.0
    with open_agent(config) as agent:
        agent._monotonic, agent._join_due = lambda: seconds, 0.0
        ask, join = agent._site.connection.next_task, agent._site.connection.join

        def time_passes(request):
            nonlocal seconds
            seconds += 0.6 * agent_module.IDLE_SECONDS
            return ask(request)

        def offered_later(request):
            join(request)
            offers = (first, second) if len(service.joins) > 1 else (first,)
            return messages.JoinResponse(offers, "test", service.instance_id)

        agent._site.connection.next_task, agent._site.connection.join = time_passes, offered_later
        outcomes = agent.work(until_finished=True)
    assert [(one.run, one.status) for one in outcomes] == [("second", "refused"), ("derm", "finished")]
    assert len(service.joins) == 2


@pytest.mark.parametrize("same", [True, False])
def test_a_warm_start_begins_with_the_weights_that_the_plan_names(
    open_agent, make_config, make_plan, serve, same
):
    plan = make_plan(rounds=1)
    service = serve(plan)
    digest = service.base.manifest.digest if same else "0" * 64
    start = {"model_digest": digest, "trained_on": "generated", "words": "a test"}
    service.plan = type(plan).model_validate(plan.model_dump() | {"warm_start": start})
    config = make_config()
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    if same:
        assert outcome.status == "finished"
    else:
        assert outcome.status == "failed"
        assert "round 1 of run derm starts from model" in outcome.summary
        assert "the plan's warm_start.model_digest is 000000000000" in outcome.summary
        assert not reservations(config), "nothing was spent on other weights"


def test_a_refused_update_is_not_sent_for_ever_and_the_next_round_is_answered(
    open_agent, make_config, make_plan, serve, monkeypatch, make_object
):
    """As a server does that found the update's norm absurd: INVALID_ARGUMENT, then the next round."""
    service, config = serve(make_plan(rounds=2)), make_config()
    enter, add_up = type(service)._enter, type(service)._aggregate
    commits = 0

    def refuse_first(self, method, context):
        nonlocal commits
        enter(self, method, context)
        if method != "CommitUpdate":
            return
        commits += 1
        if commits == 1:
            self.round += 1
            self.base = type(self.base).of({name: array + 1 for name, array in self.base.arrays().items()})
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "its norm is 1e9")
        self.outcome = receipts.CommitOutcome.LATE if commits == 2 else receipts.CommitOutcome.ACCEPTED

    def aggregate_what_counts(self, commit):
        if self.outcome is receipts.CommitOutcome.ACCEPTED:
            add_up(self, commit)

    monkeypatch.setattr(type(service), "_enter", refuse_first)
    monkeypatch.setattr(type(service), "_aggregate", aggregate_what_counts)
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "finished"
    assert [(one.round_number, one.status) for one in reservations(config)] == [
        (1, "committed"),  # late: charged, and the server has signed that it does not count
        (2, "committed"),
    ]
    kinds = [event.kind for event in record_of(config).timeline]
    assert "refused_by_server" in kinds
