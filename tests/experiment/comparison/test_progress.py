"""Time left follows from the pace of this start, and a pipe gets JSON."""

import io
import json

from rich.console import Console

from adpfl.experiment.comparison.folder import CellTiming
from adpfl.experiment.comparison.progress import Watch, shown
from adpfl.experiment.comparison.workers import Outcome

TIMING = CellTiming(
    training_seconds=9.0, evaluation_seconds=0.5, coordination_seconds=0.5, total_seconds=10.0
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_left_counts_only_what_this_start_has_done(tmp_path, comparison_of):
    folder, plan = comparison_of(tmp_path, rounds=10)  # three cells: 30 rounds
    for cell in plan.cells:
        folder.cell(cell.cell).root.mkdir(parents=True)
    folder.cell("fl-seed0").timing.write_text("{}", encoding="utf-8")
    folder.cell("dp-fl-seed0").note_rounds(5)
    clock = Clock()
    watch = Watch(folder, plan, clock)
    assert (watch.total, watch.done, watch.cells_over, watch.seconds_left) == (30, 15, 1, None)
    clock.now += 20.0
    folder.cell("dp-fl-seed0").note_rounds(7)
    folder.cell("adp-fl-seed0").note_rounds(3)
    watch.look()
    assert watch.done == 20
    assert watch.seconds_left == 40.0
    assert watch.running == {"dp-fl-seed0": 7, "adp-fl-seed0": 3}


def test_a_pipe_gets_one_json_object_a_line(tmp_path, comparison_of):
    folder, plan = comparison_of(tmp_path)
    output = io.StringIO()
    with shown(Console(file=output, width=40), folder, plan) as display:
        display.say(
            "comparison", task="skin_lesion", data="a name long enough to be broken by a narrow console"
        )
        display.ended(Outcome("fl-seed0", "finished", timing=TIMING))
        display.ended(Outcome("dp-fl-seed0", "stopped", "image [1] cannot be read"))
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["comparison", "cell_ended", "cell_ended"]
    assert lines[1]["overhead"] == 0.05
    assert lines[2]["detail"] == "image [1] cannot be read"


def test_a_terminal_gets_bars(tmp_path, comparison_of):
    folder, plan = comparison_of(tmp_path)
    output = io.StringIO()
    with shown(Console(file=output, force_terminal=True, width=100), folder, plan) as display:
        folder.cell("fl-seed0").root.mkdir(parents=True)
        folder.cell("fl-seed0").note_rounds(1)
        display.watch.look()
        display.refresh()
        display.ended(Outcome("fl-seed0", "finished", timing=TIMING))
    assert "all rounds" in output.getvalue()
    assert "fl-seed0" in output.getvalue()
