"""Which model an operator gets by which option."""

import pytest

from adpfl.errors import ConfigError, StateError
from adpfl_server.operating.export import Choice, Kind, chosen, export_model
from adpfl_server.storage.weights import read_header
from adpfl_server.store import Store

SITES = ("hospital1", "hospital2", "hospital3")
PLAN = {"rounds": 4, "aggregation": {"averaging": {"method": "ema", "decay": 0.5}}}


@pytest.fixture
def after_three_rounds(consortium):
    consortium.start(consortium.plan(**PLAN))
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    for number in (1, 2, 3):
        task = callers[0].next_task(10)
        for seed, caller in enumerate(callers):
            caller.send(number, task.base_digest, consortium.update(10 * number + seed))
    assert callers[0].next_task(10).round == 4
    consortium.running[-1].stop()
    store = Store(consortium.state_dir)
    store.prepare(2)
    store.close()
    return consortium.running[-1].config


@pytest.mark.parametrize(
    ("options", "round_number", "averaged"),
    [
        ({}, 3, True),
        ({"last": True}, 3, False),
        ({"averaged": True}, 3, True),
        ({"round_number": 2}, 2, False),
        ({"round_number": 2, "averaged": True}, 2, True),
    ],
)
def test_the_options_name_the_model(after_three_rounds, tmp_path, options, round_number, averaged):
    wanted = {"round_number": None, "last": False, "averaged": False} | options
    told = export_model(after_three_rounds, "demo", tmp_path / "w.safetensors", choice=chosen(**wanted))
    assert f"round {round_number} of 4" in told
    found = read_header(tmp_path / "w.safetensors").description
    assert (found["round"], found["averaged"]) == (round_number, averaged)


def test_a_round_that_is_not_kept_names_those_that_are(after_three_rounds, tmp_path):
    with pytest.raises(StateError, match=r"keeps no model of round 1; kept rounds: 2, 3"):
        export_model(after_three_rounds, "demo", tmp_path / "w", choice=Choice(Kind.LAST, 1))
    with pytest.raises(StateError, match=r"keeps no average of the models up to round 0; kept rounds: 2, 3"):
        export_model(after_three_rounds, "demo", tmp_path / "w", choice=Choice(Kind.AVERAGED, 0))
    assert list(tmp_path.glob("w*")) == []


@pytest.mark.parametrize(
    "options",
    [
        {"round_number": None, "last": True, "averaged": True},
        {"round_number": 3, "last": True, "averaged": False},
    ],
)
def test_contradictions_are_refused(options):
    with pytest.raises(ConfigError, match="are both given"):
        chosen(**options)
