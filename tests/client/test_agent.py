"""The agent's loop against a real TLS service: a whole run, restarts anywhere, refusals, a clean stop."""

import threading

import grpc
import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from adpfl.errors import RULES, ConfigError, IdentityError
from adpfl.wire.messages import SiteActivity
from adpfl.wire.receipts import CommitOutcome
from adpfl.wire.safetensors_file import read_header
from adpfl_client.connection import Connection, StopRequestedError
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.rounds import round_work
from adpfl_client.rounds.site_record import read_record


def record_of(config):
    return read_record(config.state_dir / "runs" / "derm")


def kinds(config):
    return [event.kind for event in record_of(config).timeline]


def statuses(config):
    with LedgerStore.open(config.state_dir, 2e9) as ledger:
        return [(one.round_number, one.attempt, one.status) for one in ledger.reservations("derm")]


class PowerCutError(BaseException):
    """The process dies here: nothing of ours may catch it."""


def cut_power_at(monkeypatch, target, name):
    def die(*_arguments, **_options):
        raise PowerCutError

    monkeypatch.setattr(target, name, die)


def test_an_agent_keeps_so_many_models_as_its_site_wants(open_agent, make_config, make_plan, serve):
    serve(make_plan(rounds=4))
    config = make_config().model_copy(update={"keep_models": 2})
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "finished"
    kept = sorted(path.name for path in (config.state_dir / "models").rglob("*.safetensors"))
    assert kept == ["round-0003.safetensors", "round-0004.safetensors"]


def test_a_run_from_join_to_report(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config()
    with open_agent(config) as agent:
        outcomes = agent.work(until_finished=True)
    assert [(one.run, one.status, one.summary) for one in outcomes] == [
        ("derm", "finished", "finished: answered 2 of 2 rounds")
    ]
    record = record_of(config)
    assert record.status == "finished"
    assert [(step.round, step.step) for step in record.steps] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [evaluation.round for evaluation in record.evaluations] == [0, 1, 2]
    assert record.guarantee.epsilon == float("inf")
    assert record.guarantee.steps == 4
    assert kinds(config) == ["agent_started", "unbounded_accepted", "finished"]
    assert statuses(config) == [(1, 1, "committed"), (2, 1, "committed")]
    folder = config.state_dir / "runs" / "derm"
    assert len(record.overlays) == record.held_out_patients
    for name in record.overlays:
        Image.open(folder / name).verify()
    assert [path.name for path in sorted((config.state_dir / "models" / "derm").glob("*.safetensors"))] == [
        f"round-000{round_number}.safetensors" for round_number in range(3)
    ]
    assert list((config.state_dir / "spool" / "derm").iterdir()) == []
    assert service.joins[0].training_patients["skin_lesion"] == record.training_patients


def test_a_classifiers_run_is_scored_by_auroc_and_draws_nothing(open_agent, make_config, make_plan, serve):
    task = "skin_lesion_presence"
    serve(make_plan(task=task))
    config = make_config(allowed_tasks=[task])
    config = config.model_copy(update={"data": {task: config.data["skin_lesion"]}})
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    record = record_of(config)
    assert record.status == "finished"
    assert [evaluation.metric for evaluation in record.evaluations] == ["AUROC"] * 3
    final = record.evaluations[-1]
    assert final.auroc is not None
    assert 0.0 <= final.auroc <= 1.0
    assert {one.crops for one in final.presences} == {9}
    assert record.overlays == ()


def test_only_what_the_plan_makes_public_is_said_while_training(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config()
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    assert service.heartbeats
    for beat in service.heartbeats:
        assert beat.detail == ""
        assert beat.steps_total == 2
    assert {commit.update_digest for commit in service.commits} == set(service.offered)
    assert all(len(commit.ledger_head) == 64 for commit in service.commits)


def test_a_finished_run_is_not_touched_again(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config()
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    before = (config.state_dir / "runs" / "derm" / "site.json").read_bytes()
    calls = len(service.calls)
    with open_agent(config) as agent:
        assert agent.work(until_finished=True)[0].status == "finished"
    assert service.calls[calls:] == ["Join"]
    assert (config.state_dir / "runs" / "derm" / "site.json").read_bytes() == before


def test_a_crash_while_training_costs_the_reservation(open_agent, make_config, make_plan, serve, monkeypatch):
    service, config = serve(make_plan()), make_config()
    with monkeypatch.context() as patch:
        cut_power_at(patch, round_work, "check_update")
        with open_agent(config) as agent, pytest.raises(PowerCutError):
            agent.work(until_finished=True)
    assert service.commits == []
    assert statuses(config) == [(1, 1, "reserved")]
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    assert statuses(config) == [(1, 1, "abandoned"), (1, 2, "committed"), (2, 1, "committed")]
    assert record_of(config).guarantee.steps == 6
    restart = next(event for event in record_of(config).timeline if event.kind == "agent_restarted")
    assert restart.round == 1
    assert "stays charged" in restart.detail


def test_a_crash_before_the_ledgers_seal_discards_the_update(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    service, config = serve(make_plan()), make_config()
    with monkeypatch.context() as patch:
        cut_power_at(patch, LedgerStore, "seal")
        with open_agent(config) as agent, pytest.raises(PowerCutError):
            agent.work(until_finished=True)
    assert service.commits == []
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    assert statuses(config)[:2] == [(1, 1, "abandoned"), (1, 2, "committed")]
    assert "update_discarded" in kinds(config)


def test_a_crash_after_the_seal_sends_the_same_bytes(open_agent, make_config, make_plan, serve, monkeypatch):
    service, config = serve(make_plan()), make_config()
    with monkeypatch.context() as patch:
        cut_power_at(patch, Connection, "push")
        with open_agent(config) as agent, pytest.raises(PowerCutError):
            agent.work(until_finished=True)
    (sealed,) = (config.state_dir / "spool" / "derm").iterdir()
    payload = (sealed / "update.payload").read_bytes()
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    first = service.offered[service.commits[0].update_digest]
    assert b"".join(service.received[one] for one in first.chunk_digests) == payload
    assert statuses(config) == [(1, 1, "committed"), (2, 1, "committed")]
    assert "update_resent" in kinds(config)
    assert len(record_of(config).steps) == 4


def test_a_receipt_lost_in_a_crash_is_asked_for_again(open_agent, make_config, make_plan, serve, monkeypatch):
    service, config = serve(make_plan()), make_config()
    with monkeypatch.context() as patch:
        cut_power_at(patch, LedgerStore, "commit")
        with open_agent(config) as agent, pytest.raises(PowerCutError):
            agent.work(until_finished=True)
    assert service.round == 2
    assert statuses(config) == [(1, 1, "sealed")]
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    assert statuses(config) == [(1, 1, "committed"), (2, 1, "committed")]


def test_an_update_that_the_server_never_got_is_outdated_once_the_round_is_over(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    service, config = serve(make_plan()), make_config()
    with monkeypatch.context() as patch:
        cut_power_at(patch, Connection, "push")
        with open_agent(config) as agent, pytest.raises(PowerCutError):
            agent.work(until_finished=True)
    service.round = 2
    service.faults["CommitUpdate"] = [grpc.StatusCode.FAILED_PRECONDITION]
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    assert statuses(config) == [(1, 1, "sealed"), (2, 1, "committed")]
    assert "update_outdated" in kinds(config)


def test_the_engine_goes_on_where_the_last_sealed_round_ended(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    """Under `partition` with four batches an epoch, two rounds of two steps meet each patient once."""
    drawn = []
    draw = round_work.PrivacyEngine.sample

    def sample(engine, step):
        indices = draw(engine, step)
        drawn.append(indices.tolist())
        return indices

    monkeypatch.setattr(round_work.PrivacyEngine, "sample", sample)
    serve(make_plan())
    config = make_config()
    with monkeypatch.context() as patch:
        cut_power_at(patch, Connection, "push")
        with open_agent(config) as agent, pytest.raises(PowerCutError):
            agent.work(until_finished=True)
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    assert len(drawn) == 4
    every_patient = list(range(record_of(config).training_patients))
    assert sorted(index for batch in drawn for index in batch) == every_patient


def test_a_late_update_is_on_the_record(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config()
    service.outcome = CommitOutcome.LATE
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    assert kinds(config).count("update_late") == 2


def test_a_round_that_the_server_closed_is_left(open_agent, make_config, make_plan, serve, monkeypatch):
    service, config = serve(make_plan(local={"steps": 400, "learning_rate": 0.01})), make_config()
    service.obsolete = True

    with open_agent(config) as agent:
        train = round_work.local_update

        def closed_meanwhile(*arguments, **options):
            service.round = 3
            return train(*arguments, **options)

        monkeypatch.setattr(round_work, "local_update", closed_meanwhile)
        agent.work(until_finished=True)
    assert "round_obsolete" in kinds(config)
    assert statuses(config) == [(1, 1, "reserved")]
    assert record_of(config).steps == ()


def test_a_run_over_the_cap_is_refused_and_the_server_told(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config(accept_unbounded=[])
    with open_agent(config) as agent, capture_logs() as logs:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "refused"
    assert [line["log_level"] for line in logs if line["event"] == "run ended"] == ["warning"]
    assert record_of(config).status == "refused"
    assert record_of(config).guarantee.steps == 0
    assert "policy.accept_unbounded must name it" in outcome.summary
    (said,) = service.heartbeats
    assert said.activity is SiteActivity.REFUSED
    assert said.detail in RULES
    assert statuses(config) == []
    assert "NextTask" not in service.calls


def test_a_plan_that_the_policy_forbids_is_refused(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config(maximum_rounds=1)
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "refused"
    assert "policy.maximum_rounds is 1" in outcome.summary
    assert service.heartbeats[-1].detail in RULES


def test_a_model_of_another_network_ends_the_run_and_says_no_more_than_that(
    open_agent, make_config, make_plan, serve, make_object
):
    service, config = serve(make_plan()), make_config()
    service.base = make_object()
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "failed"
    assert "the plan's network has" in outcome.summary
    assert service.heartbeats[-1].detail == "the site stopped: ModelMismatchError; its own log says more"
    assert statuses(config) == []
    assert "Fetch" not in service.calls


def test_a_forged_receipt_stops_the_agent(open_agent, make_config, make_plan, serve, foreign_consortium):
    service, config = serve(make_plan()), make_config()
    service.key = foreign_consortium.server.key
    with open_agent(config) as agent, pytest.raises(IdentityError, match="signature"):
        agent.work(until_finished=True)
    assert statuses(config) == [(1, 1, "sealed")]


def test_a_run_that_failed_at_the_server_is_on_the_record(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config()
    service.failed = "quorum lost"
    half_received = config.state_dir / "models" / "derm" / "incoming" / "0.partial"
    half_received.parent.mkdir(parents=True)
    half_received.touch()
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert not half_received.exists()
    assert (outcome.status, outcome.summary) == ("failed", "failed: the server says: quorum lost")
    assert record_of(config).status == "failed"


def test_a_contradiction_is_asked_about_again(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config()
    service.faults["CommitUpdate"] = [grpc.StatusCode.FAILED_PRECONDITION]
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "finished"
    assert statuses(config) == [(1, 1, "committed"), (2, 1, "committed")]
    assert "refused_by_server" in kinds(config)


def test_a_server_that_only_contradicts_is_given_up(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config()
    service.faults["NextTask"] = [grpc.StatusCode.FAILED_PRECONDITION] * 20
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "failed"


def test_a_lost_link_and_a_restarted_server_are_on_the_record(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config()
    service.faults["Offer"] = [grpc.StatusCode.UNAVAILABLE] * 2
    with open_agent(config) as agent:
        join = agent._site.connection.join

        def restarted_after_the_first(request):
            answer = join(request)
            service.instance_id = "f" * 32
            return answer

        agent._site.connection.join = restarted_after_the_first
        agent.work(until_finished=True)
    assert "reconnected" in kinds(config)
    assert "server_restarted" in kinds(config)


def test_a_stop_in_the_middle_of_training_ends_cleanly_and_the_next_start_goes_on(
    open_agent, make_config, make_plan, serve
):
    serve(make_plan(local={"steps": 100, "learning_rate": 0.01}, rounds=1))
    config = make_config()
    stopping = threading.Event()
    threading.Timer(0.6, stopping.set).start()
    with open_agent(config, stopping) as agent, pytest.raises(StopRequestedError):
        agent.work(until_finished=True)
    assert kinds(config)[-1] == "agent_stopped"
    assert record_of(config).status == "running"
    assert not list(config.state_dir.rglob("*.partial"))
    with open_agent(config) as agent:
        assert agent.work(until_finished=True)[0].status == "finished"


def test_a_server_without_a_run_for_this_site_is_said(open_agent, make_config):
    with open_agent(make_config()) as agent, pytest.raises(ConfigError, match="no run that names hospital1"):
        agent.work(until_finished=True)


def test_a_plan_changed_under_the_same_name_is_no_continuation(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config()
    service.failed = "to be tried again"
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    service = serve(make_plan(rounds=1))
    service.failed = ""
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "failed"
    assert "a changed plan needs a new name" in outcome.summary


def test_a_refusal_is_said_again_after_joining_again(open_agent, make_config, make_plan, serve):
    service, config = serve(make_plan()), make_config(accept_unbounded=[])
    stopping = threading.Event()
    with open_agent(config, stopping) as agent:
        agent._pause = lambda _seconds: stopping.set() if len(service.joins) == 3 else None
        with pytest.raises(StopRequestedError):
            agent.work(until_finished=False)
    assert [beat.activity for beat in service.heartbeats] == [SiteActivity.REFUSED] * 3


@pytest.mark.parametrize("averaging", [None, {"method": "ema", "decay": 0.9}])
def test_the_record_says_whether_the_last_model_scored_is_an_average(
    open_agent, make_config, make_plan, serve, averaging
):
    plan, config = make_plan(rounds=1, aggregation={"averaging": averaging}), make_config()
    serve(plan)
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    record = read_record(config.state_dir / "runs" / "derm")
    last = "global" if averaging is None else "averaged"
    assert [(one.round, one.weights) for one in record.evaluations] == [(0, "global"), (1, last)]
    path = config.state_dir / "models" / "derm" / "round-0001.safetensors"
    assert read_header(path).description["averaged"] is (averaging is not None)


def test_only_the_trainable_tensors_are_noised_and_sent(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    privacy = {
        "mode": "rigorous",
        "noise_multiplier": 2.0,
        "threshold": {"method": "fixed", "clip_norm": 1.0},
        "sampling": {"mode": "full"},
    }
    plan, config = make_plan(network={"trainable": ["head"]}, privacy=privacy), make_config(epsilon_cap=1e6)
    service = serve(plan)
    stored, first = type(service.base), service.base.arrays()

    def add_up(self, commit):
        update = stored(self.offered[commit.update_digest], self.received).arrays()
        base = self.base.arrays()
        self.base = stored.of({name: base[name] + update.get(name, 0) for name in base})
        self.round += 1

    monkeypatch.setattr(type(service), "_aggregate", add_up)
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "finished", outcome.summary
    sent = [[tensor.name for tensor in manifest.tensors] for manifest in service.offered.values()]
    assert sent == [["head.1.weight", "head.1.bias"]] * 2
    assert service.pushed_bytes == 2 * 4 * 9
    last = service.base.arrays()
    moved = {name for name in first if not np.array_equal(first[name], last[name])}
    assert moved == {"head.1.weight", "head.1.bias"}
