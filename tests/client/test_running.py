"""Starting an agent: its parts, alone on its state folder, stopped by signals."""

import os
import signal
import threading

import pytest

from adpfl.errors import StateError
from adpfl_client import running
from adpfl_client.running import open_site, run_agent


@pytest.fixture(autouse=True)
def _enrolled(monkeypatch, consortium, federation):
    monkeypatch.setattr(
        running, "load_site_identity", lambda *_arguments, **_options: consortium.site(federation.address)
    )


def test_two_agents_cannot_share_a_state_folder(make_config):
    config = make_config()
    with (
        open_site(config, threading.Event()),
        pytest.raises(StateError, match="another agent"),
        open_site(config, threading.Event()),
    ):
        pytest.fail("a second agent was let in")
    with open_site(config, threading.Event()) as site:
        assert site.name == "hospital1"


def test_leftovers_of_a_crash_are_cleared_at_the_start(make_config):
    config = make_config()
    half = config.state_dir / "spool" / "derm" / "round-0001-aaaaaaaaaaaaaaaa.partial"
    half.mkdir(parents=True)
    with open_site(config, threading.Event()):
        assert not half.exists()


def test_an_agent_runs_to_the_end(make_config, make_plan, serve):
    serve(make_plan())
    (outcome,) = run_agent(make_config(), until_finished=True)
    assert outcome.status == "finished"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_agent_cleanly(make_config, federation, number):
    before = signal.getsignal(number)
    threading.Timer(1.0, os.kill, (os.getpid(), number)).start()
    assert run_agent(make_config(), until_finished=False) is None
    assert signal.getsignal(number) is before
    assert federation.service.calls == ["Join"]
