"""`status --watch` on a terminal, in a pipe, and at Ctrl-C."""

import io
import json
import re

import pytest
from rich.console import Console

from adpfl.errors import StateError
from adpfl_server.operating.live_status import watch_status
from adpfl_server.operating.overview import open_store, status_lines


def interrupted_after(looks):
    """A sleep that ends like Ctrl-C at the last look."""
    left = iter(range(looks))

    def sleep(seconds):
        assert seconds == 3.0
        if next(left) == looks - 1:
            raise KeyboardInterrupt

    return sleep


def watched(config, looks, *, terminal, run=None, width=120):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, highlight=False, soft_wrap=True)
    watch_status(config, run, every_seconds=3.0, sleep=interrupted_after(looks), console=console)
    return out.getvalue()


def test_without_a_terminal_each_look_is_a_json_line_a_run(consortium):
    daemon = consortium.start(consortium.plan(), consortium.plan(run="second"))
    lines = [json.loads(line) for line in watched(daemon.config, 2, terminal=False).splitlines()]
    assert [line["plan"]["run"] for line in lines] == ["demo", "second"] * 2
    assert all(line["at_unix_seconds"] > 1.7e9 and line["rounds_closed"] == 0 for line in lines)


def test_a_terminal_is_redrawn_with_what_has_changed(consortium):
    daemon = consortium.start()
    consortium.caller("hospital1").enter()
    shown = watched(daemon.config, 2, terminal=True)
    assert "hospital1: 10 training patients" in shown
    assert "every 3 s; Ctrl-C ends" in shown
    assert "\x1b[?25h" in shown  # the cursor is back


def test_a_narrow_terminal_folds_what_it_cannot_show_in_one_line(consortium):
    daemon = consortium.start()
    shown = watched(daemon.config, 2, terminal=True, width=40)
    with open_store(daemon.config) as store:
        told = status_lines(store, ["demo"])
    assert any(len(line) > 40 for line in told)
    lines = re.sub(r"\x1b\[[0-9?]*[a-zA-Z]", "", shown.split("\x1b[1A")[0]).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 40
    assert shown.count("\x1b[1A") >= len(lines) - 1, "the next look is drawn over the whole of this one"
    text = " ".join(" ".join(lines).split())
    assert all(" ".join(line.split()) in text for line in told)
    assert "every 3 s; Ctrl-C ends" in text


def test_an_unknown_run_is_named(consortium):
    daemon = consortium.start()
    with pytest.raises(StateError, match="there is no run other"):
        watched(daemon.config, 1, terminal=True, run="other")
