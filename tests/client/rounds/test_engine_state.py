"""The privacy engine's state between rounds: kept with the update, never earlier."""

import pytest

from adpfl.errors import StateError
from adpfl.privacy.engine import EngineState
from adpfl_client.rounds.engine_state import keep_engine_state, read_engine_state
from adpfl_client.spool import SpoolEntry


def entry(round_number, state, digest="c"):
    return SpoolEntry(
        run="derm",
        round=round_number,
        base_digest="a" * 64,
        update_digest=digest * 64,
        reservation="r",
        steps=(),
        engine_state=state.model_dump(mode="json"),
    )


def test_the_state_comes_back_as_it_was(tmp_path):
    state = EngineState(steps_taken=6, unit_count=3, epoch_order=(2, 0, 1))
    keep_engine_state(tmp_path, entry(2, state))
    assert read_engine_state(tmp_path) == state


def test_before_the_first_round_there_is_none(tmp_path):
    assert read_engine_state(tmp_path) is None


def test_the_newest_update_counts_whatever_its_round(tmp_path):
    keep_engine_state(tmp_path, entry(7, EngineState(steps_taken=7)))
    keep_engine_state(tmp_path, entry(5, EngineState(steps_taken=8), digest="d"))
    kept = read_engine_state(tmp_path)
    assert kept is not None
    assert kept.steps_taken == 8


@pytest.mark.parametrize("content", ["", "[]", '{"state": {"unknown": 1}, "update_digest": "c"}'])
def test_a_damaged_state_is_refused_rather_than_begun_anew(tmp_path, content):
    (tmp_path / "engine_state.json").write_text(content)
    with pytest.raises(StateError, match=r"engine_state\.json"):
        read_engine_state(tmp_path)
