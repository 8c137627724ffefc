"""What a person at the agent's terminal sees of a round."""

import io

from rich.console import Console

from adpfl.wire.messages import SiteActivity
from adpfl_client.rounds.round_display import RoundDisplay


def shown(*, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    with RoundDisplay(console).showing("lesions", 2, rounds=30, steps=8) as one:
        one.activity(SiteActivity.TRAINING)
        one.steps_done(3)
    return console.file.getvalue()


def test_a_terminal_shows_the_round_the_work_and_the_steps():
    text = shown(terminal=True)
    assert "lesions, round 2 of 30: training" in text
    assert "3/8" in text


def test_without_a_terminal_nothing_is_drawn():
    assert shown(terminal=False) == ""


def test_a_display_without_a_console_takes_the_same_calls():
    with RoundDisplay().showing("lesions", 1, rounds=1, steps=1) as one:
        one.activity(SiteActivity.PUSHING)
        one.steps_done(1)
