"""Leaving a run at the site: durable, said to the server, nothing more spent, and a way back."""

import threading

import pytest
from typer.testing import CliRunner

from adpfl.errors import ConfigError, IntegrityError, StateError
from adpfl.wire.messages import SiteActivity
from adpfl_client import agent as agent_module
from adpfl_client.cli import app
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.operating import leaving
from adpfl_client.operating.leaving import LEFT_FILE, come_back, leave_run, read_leave
from adpfl_client.rounds import round_work
from adpfl_client.rounds.site_record import read_record
from adpfl_client.state_lock import alone

RUN = "derm"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(leaving, "AGENT_SECONDS", 0.05)
    monkeypatch.setattr(leaving, "_LOOK_SECONDS", 0.01)


def folder(config):
    return config.state_dir / "runs" / RUN


def rows(config):
    with LedgerStore.open(config.state_dir, 0.0) as ledger:
        return [(one.round_number, one.attempt, one.status) for one in ledger.reservations(RUN)]


def told(service):
    return [beat.detail for beat in service.heartbeats if beat.activity is SiteActivity.LEFT]


def leave_at_step(monkeypatch, config, step):
    """Leave, as another process would, when the agent is about to do a step."""
    steps = 0

    def reach(name):
        nonlocal steps
        if name == "client.stepping":
            steps += 1
            if steps == step:
                with alone_elsewhere(config):
                    leave_run(config, RUN, reason="a new scanner")

    monkeypatch.setattr(round_work, "reach", reach)


def stop_in_the_first_round(open_agent, config, monkeypatch):
    stopping = threading.Event()

    def stop(name):
        if name == "client.stepping":
            stopping.set()

    monkeypatch.setattr(round_work, "reach", stop)
    with open_agent(config, stopping) as agent, pytest.raises(agent_module.StopRequestedError):
        agent.work(until_finished=True)


def alone_elsewhere(config):
    """An agent holds the folder's lock while it runs."""
    return alone(config.state_dir)


def test_a_running_agent_stops_at_the_next_step_gives_up_its_reservation_and_tells_the_server(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    service, config = serve(make_plan(rounds=2)), make_config()
    leave_at_step(monkeypatch, config, 2)
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert (outcome.status, outcome.summary) == ("left", "left: a new scanner")
    assert rows(config) == [(1, 1, "abandoned")]
    assert told(service) == ["a new scanner"]
    assert service.commits == []
    record = read_record(folder(config))
    assert (record.status, record.summary) == ("left", "left: a new scanner")
    assert "round_obsolete" not in [event.kind for event in record.timeline]

    with open_agent(config) as agent:  # a restart does not take it back
        (again,) = agent.work(until_finished=True)
    assert again.status == "left"
    assert "NextTask" not in service.calls[service.calls.index("Heartbeat") :]
    assert rows(config) == [(1, 1, "abandoned")]

    assert "joins derm again" in come_back(config, RUN)
    monkeypatch.setattr(round_work, "reach", lambda _name: None)
    with open_agent(config) as agent:
        (back,) = agent.work(until_finished=True)
    assert back.status == "finished"
    assert rows(config) == [(1, 1, "abandoned"), (1, 2, "committed"), (2, 1, "committed")]


def test_a_running_agent_takes_a_run_up_again(open_agent, make_config, make_plan, serve, monkeypatch):
    service, config = serve(make_plan(rounds=1)), make_config()
    leave_at_step(monkeypatch, config, 1)
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
        assert outcome.status == "left"
        come_back(config, RUN)
        agent._join_due = 0.0
        (outcome,) = agent.work(until_finished=True)
        assert outcome.status == "finished"
    assert told(service) == ["a new scanner"]


def test_without_an_agent_the_command_settles_and_tells(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    service, config = serve(make_plan(rounds=2)), make_config()
    stop_in_the_first_round(open_agent, config, monkeypatch)
    assert rows(config) == [(1, 1, "reserved")]
    sent = []
    monkeypatch.setattr(leaving, "_tell_server", lambda _config, mark: sent.append(mark.reason) or False)
    assert leave_run(config, RUN, reason="budget").startswith("left derm; no answer from the server")
    assert sent == ["budget"]
    assert rows(config) == [(1, 1, "abandoned")]
    assert read_record(folder(config)).status == "left"
    with open_agent(config) as agent:  # tells what the command could not
        agent.work(until_finished=True)
    assert told(service) == ["budget"]


def test_a_ledger_that_cannot_be_used_is_not_put_down_to_a_running_agent(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    serve(make_plan(rounds=2))
    config = make_config()
    stop_in_the_first_round(open_agent, config, monkeypatch)

    def newer(_config):
        raise StateError("ledger: has schema version 99")

    monkeypatch.setattr(leaving, "open_ledger", newer)
    with pytest.raises(StateError, match="schema version 99"):
        leave_run(config, RUN, reason="")
    assert read_leave(folder(config)) is not None  # the agent tells the server when it starts


def test_what_is_sealed_is_paid_for_and_sent_by_a_site_that_comes_back(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    service, config = serve(make_plan(rounds=1)), make_config()

    def leave_before_sending(name):
        if name == "client.sealed":
            leave_run(config, RUN, reason="")
            raise agent_module.StopRequestedError

    monkeypatch.setattr(round_work, "reach", leave_before_sending)
    monkeypatch.setattr(leaving, "_tell_server", lambda *_: True)
    with open_agent(config) as agent, pytest.raises(agent_module.StopRequestedError):
        agent.work(until_finished=True)
    assert rows(config) == [(1, 1, "sealed")]
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    assert service.commits == []
    come_back(config, RUN)
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    assert rows(config) == [(1, 1, "committed")]


def test_what_cannot_be_left_or_joined_is_said(open_agent, make_config, make_plan, serve):
    serve(make_plan(rounds=1))
    config = make_config()
    for name in ("other", "../derm"):
        with pytest.raises(ConfigError, match=f"there is no run {name} that this site has a part in"):
            leave_run(config, name, reason="")
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    with pytest.raises(StateError, match="is finished; there is nothing to leave"):
        leave_run(config, RUN, reason="")
    with pytest.raises(StateError, match="has not left run derm"):
        come_back(config, RUN)
    assert not (folder(config) / LEFT_FILE).exists()


@pytest.mark.parametrize("reason", ["a new scanner\nnext year", "budget \u202e", "x" * 5000])
def test_a_reason_that_the_server_would_not_take_is_refused_before_it_is_kept(
    open_agent, make_config, make_plan, serve, monkeypatch, reason
):
    serve(make_plan(rounds=1))
    config = make_config()
    stop_at_a_step(open_agent, config, monkeypatch)
    with pytest.raises(ConfigError, match="--reason has"):
        leave_run(config, RUN, reason=reason)
    assert read_leave(folder(config)) is None
    with open_agent(config) as agent:
        assert [one.status for one in agent.work(until_finished=True)] == ["finished"]


def test_an_odd_reason_that_was_kept_earlier_is_told_as_it_can_be(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    service, config = serve(make_plan(rounds=1)), make_config()
    stop_at_a_step(open_agent, config, monkeypatch)
    mark = leaving.Leave(run=RUN, at_unix_seconds=1.0, reason="a new scanner\nnext year")
    (folder(config) / LEFT_FILE).write_text(mark.model_dump_json())
    with open_agent(config) as agent:
        assert [one.status for one in agent.work(until_finished=True)] == ["left"]
    assert told(service) == ["a new scanner next year"]


def test_a_mark_that_cannot_be_read_ends_its_run_alone(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    serve(make_plan(rounds=1))
    config = make_config()
    stop_at_a_step(open_agent, config, monkeypatch)
    (folder(config) / LEFT_FILE).write_text("{")
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "failed"
    assert "left.json: is not JSON" in outcome.summary
    assert rows(config) == [(1, 1, "reserved")]


def stop_at_a_step(open_agent, config, monkeypatch):
    stopping = threading.Event()

    def stop(name):
        if name == "client.stepping":
            stopping.set()

    with monkeypatch.context() as patch:
        patch.setattr(round_work, "reach", stop)
        with open_agent(config, stopping) as agent, pytest.raises(agent_module.StopRequestedError):
            agent.work(until_finished=True)
    stopping.clear()


def test_what_is_wrong_with_the_ledger_is_not_taken_for_a_running_agent(
    open_agent, make_config, make_plan, serve, monkeypatch
):
    serve(make_plan(rounds=1))
    config = make_config()
    stop_at_a_step(open_agent, config, monkeypatch)

    def contradicted(*_arguments, **_options):
        raise StateError("reservation r1 is unknown")

    monkeypatch.setattr(LedgerStore, "abandon", contradicted)
    with pytest.raises(StateError, match="reservation r1 is unknown"):
        leave_run(config, RUN, reason="budget")


def test_a_mark_that_is_none_stops_the_agent_rather_than_being_overlooked(make_config):
    config = make_config()
    folder(config).mkdir(parents=True)
    (folder(config) / LEFT_FILE).write_text("{")
    with pytest.raises(IntegrityError, match=r"left\.json: is not JSON"):
        read_leave(folder(config))


@pytest.mark.parametrize("command", ["leave", "join"])
def test_the_commands_say_what_they_do(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: adpfl-client {command} derm" in result.output
