"""Children are started, watched and stopped; a failing one shows the end of its log."""

import os
import signal
import sys
import threading
import time

import pytest

from adpfl.experiment.demo import processes
from adpfl.experiment.demo.folder import claimed
from adpfl.experiment.demo.processes import ChildFailedError, answers, free_ports, troupe


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A claimed folder with a module `actor` beside it that children run."""
    (tmp_path / "actor.py").write_text(
        "import signal, sys, time\n"
        "if sys.argv[1] == 'fail':\n"
        "    print('\\n'.join(f'line {n}' for n in range(40))); sys.exit(3)\n"
        "if sys.argv[1] == 'deaf':\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "if sys.argv[1] != 'end':\n"
        "    time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with claimed(tmp_path / "demo") as claimed_folder:
        yield claimed_folder


def begun(children, child):
    children.wait_until(lambda: "ready" in child.log.read_text(), seconds=20, what="the actor", child=child)


def test_a_command_runs_to_its_end(folder):
    with troupe(folder) as children:
        children.complete("good", "actor", "end")
    assert folder.log("good").read_text() == "ready\n"


def test_a_failing_command_shows_the_end_of_its_log(folder):
    with (
        pytest.raises(ChildFailedError, match="bad ended with exit code 3") as caught,
        troupe(folder) as children,
    ):
        children.complete("bad", "actor", "fail")
    assert caught.value.log_tail[-1] == "line 39"
    assert len(caught.value.log_tail) == processes.LOG_LINES_SHOWN
    assert caught.value.exit_code == 1


def test_a_daemon_must_not_end_by_itself(folder):
    with troupe(folder) as children:
        child = children.start("daemon", "actor", "end")
        child.process.wait(20)
        with pytest.raises(ChildFailedError, match="daemon ended with exit code 0"):
            child.check(may_finish=False)


@pytest.mark.parametrize("manner", ["stay", "deaf"])
def test_all_end_with_the_block(folder, monkeypatch, manner):
    monkeypatch.setattr(processes, "STOP_SECONDS", 1.0)
    with troupe(folder) as children:
        child = children.start("actor", "actor", manner)
        begun(children, child)
        assert child.process.poll() is None
    assert child.process.returncode == -(signal.SIGKILL if manner == "deaf" else signal.SIGTERM)


def test_sigterm_stops_the_children_too(folder):
    before = signal.getsignal(signal.SIGTERM)
    started = []

    def perform():
        with troupe(folder) as children:
            started.append(children.start("actor", "actor", "stay"))
            begun(children, started[0])
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
            time.sleep(20)

    with pytest.raises(KeyboardInterrupt):
        perform()
    (child,) = started
    assert child.process.returncode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_children_run_this_interpreter_with_one_thread(folder, tmp_path):
    (tmp_path / "actor.py").write_text("import os, sys; print(sys.executable, os.environ['OMP_NUM_THREADS'])")
    with troupe(folder) as children:
        children.complete("who", "actor")
    assert folder.log("who").read_text().split() == [sys.executable, "1"]


def test_ports_are_free_and_two():
    ports = free_ports()
    assert ports.main != ports.enrollment
    assert not answers(ports.main)
