"""What `status` tells of a round that waits."""

import json

import pytest

from adpfl.wire.messages import SiteActivity
from adpfl_server.operating.overview import print_status

SITES = ("hospital1", "hospital2", "hospital3")


@pytest.fixture
def waiting(consortium, revoke):
    """An open round: one update is in, one site refuses, one is revoked."""
    consortium.start()
    first, second, third = (consortium.caller(site) for site in SITES)
    for number, caller in enumerate((first, second, third)):
        caller.enter(str(number))
    task = first.next_task()
    first.send(1, task.base_digest, consortium.update(1))
    second.heartbeat(SiteActivity.REFUSED, 1, "policy.epsilon_cap")
    revoke(consortium.state_dir, "hospital3")
    return consortium


def test_status_says_until_when_a_round_waits_and_who_will_not_answer(waiting, capsys):
    print_status(waiting.running[-1].config, None, as_json=False)
    lines = capsys.readouterr().out
    assert "round 1 closes at 20" in lines
    assert "UTC at the latest, given the quorum of 2 updates; it has 1" in lines
    assert "hospital1: 10 training patients\n" in lines
    assert (
        "hospital2: 10 training patients; its update is missing: it refuses the run (policy.epsilon_cap)"
        in lines
    )
    assert "hospital3: 10 training patients; its update is missing: its certificate is revoked" in lines


def test_status_says_that_the_configuration_no_longer_names_a_run(waiting, capsys):
    config = waiting.running[-1].config
    print_status(config, None, as_json=False)
    assert "no longer names it" not in capsys.readouterr().out
    print_status(config.model_copy(update={"runs": ()}), None, as_json=False)
    assert "the configuration no longer names it under runs" in capsys.readouterr().out


def test_status_says_it_to_a_program_too(waiting, capsys):
    print_status(waiting.running[-1].config, "demo", as_json=True)
    (run,) = json.loads(capsys.readouterr().out)
    assert run["round_deadline_unix_seconds"] > 1.7e9
    assert run["update_missing"] == ["hospital2", "hospital3"]
    assert run["not_answering"] == {
        "hospital2": "it refuses the run (policy.epsilon_cap)",
        "hospital3": "its certificate is revoked",
    }
