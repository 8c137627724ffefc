"""Cells are played by several processes, each once, and end alone."""

import pytest

from adpfl.errors import ConfigError
from adpfl.experiment.comparison import workers
from adpfl.experiment.comparison.claim import working_on
from adpfl.experiment.comparison.folder import load_comparison
from adpfl.experiment.comparison.workers import play, require_backend, run_cells


def test_several_processes_play_every_cell(tmp_path, comparison_of):
    folder, plan = comparison_of(tmp_path)
    outcomes = list(run_cells(folder, plan, [cell.cell for cell in plan.cells], workers=2))
    assert {outcome.cell for outcome in outcomes} == {cell.cell for cell in plan.cells}
    assert {outcome.status for outcome in outcomes} == {"finished"}
    assert load_comparison(tmp_path).unfinished == ()


def test_a_cell_that_is_over_is_not_played_again(tmp_path, comparison_of):
    folder, plan = comparison_of(tmp_path)
    first = play(tmp_path, plan, "fl-seed0", 1)
    record = folder.cell("fl-seed0").record.read_bytes()
    assert play(tmp_path, plan, "fl-seed0", 1) == first
    assert folder.cell("fl-seed0").record.read_bytes() == record


def test_a_cell_that_cannot_go_on_ends_alone(tmp_path, comparison_of):
    folder, plan = comparison_of(tmp_path)
    place = folder.cell("dp-fl-seed0")
    place.root.mkdir(parents=True)
    place.checkpoint.write_bytes(b"no checkpoint")
    outcomes = {
        outcome.cell: outcome for outcome in run_cells(folder, plan, ["dp-fl-seed0", "fl-seed0"], workers=1)
    }
    assert outcomes["dp-fl-seed0"].status == "stopped"
    assert "is no checkpoint" in outcomes["dp-fl-seed0"].detail
    assert outcomes["fl-seed0"].status == "finished"
    assert load_comparison(tmp_path).unfinished == ("dp-fl-seed0", "adp-fl-seed0")


def test_a_cell_on_which_another_process_works_waits_and_then_gives_up(tmp_path, comparison_of, monkeypatch):
    monkeypatch.setattr(workers, "_ORPHAN_SECONDS", 0.0)
    folder, plan = comparison_of(tmp_path)
    place = folder.cell("fl-seed0")
    place.root.mkdir(parents=True)
    with working_on(place.root / ".lock") as alone:
        assert alone
        outcome = play(tmp_path, plan, "fl-seed0", 1)
    assert outcome.status == "stopped"
    assert "still works on this cell" in outcome.detail


def test_ray_is_refused_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"adpfl\[ray\]"):
        require_backend("ray")
    require_backend("local")
