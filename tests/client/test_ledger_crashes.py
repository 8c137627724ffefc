"""kill -9 at any moment, and several processes at once: the ledger never counts less than was allowed.

Processes are forked and speak through a pipe: what a child was told by `reserve` reaches the parent before
the child goes on, so the parent knows what might have been released when the child died.
"""

import itertools
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from adpfl.errors import BudgetError
from adpfl.privacy.ledger import LedgerPolicy, SpendRequest
from adpfl.privacy.plan import FixedThreshold, PaperPrivacy, Sampling
from adpfl_client import ledger_store
from adpfl_client.ledger import ledger_files
from adpfl_client.ledger_store import LedgerStore

NOW = 1_800_000_000.0
POLICY = LedgerPolicy(epsilon_cap=1e6, delta=1e-5)
REQUEST = SpendRequest(
    run="first",
    plan_digest="0" * 64,
    privacy=PaperPrivacy(
        mode="paper",
        nominal_epsilon=1.0,
        reading="multiplier",
        threshold=FixedThreshold(method="fixed", clip_norm=1.0),
        sampling=Sampling(mode="full"),
    ),
    round_number=1,
    base_digest="b" * 64,
    data_set_id="clinic",
    patients=("ann lee", "bob ray"),
    unit_count=100,
    dimension=1000,
    first_step=0,
    steps=1,
)
WATCHED = {ledger_files.__file__, ledger_store.__file__}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """In memory where possible: kill -9 spares what the kernel has, so no disk need be waited for."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        return tmp_path / "state"
    return memory / f"adpfl-test-{os.getpid()}-{time.monotonic_ns()}"


@pytest.fixture(autouse=True)
def cleaned(state: Path) -> Any:
    yield
    for path in state.glob("*"):
        path.unlink()
    if state.exists():
        state.rmdir()


Say = Callable[[str], None]


def started(work: Callable[[Say], None]) -> tuple[int, int]:
    """Run `work` in a child; returns its process id and where it can be read."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 3
        try:
            os.close(reader)
            work(lambda text: _write(writer, text))
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.settrace(None)
            os._exit(code)
    os.close(writer)
    return child, reader


def _write(descriptor: int, text: str) -> None:
    os.write(descriptor, f"{text}\n".encode())


def ended(child: int, reader: int) -> tuple[list[str], int]:
    """What a child said, and the signal that ended it, or 0."""
    with os.fdopen(reader) as pipe:
        said = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return said, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def forked(work: Callable[[Say], None]) -> tuple[list[str], int]:
    return ended(*started(work))


def a_round(state: Path, say: Say, number: int = 1) -> None:
    """Everything that the agent asks of the ledger in a round."""
    with LedgerStore.open(state, NOW) as store:
        asked = replace(REQUEST, round_number=number, first_step=number - 1)
        made = store.reserve(asked, POLICY, now=NOW)
        say(f"reserved {made.id}")
        store.seal(made.id, "d" * 64, now=NOW)
        say(f"sealed {made.id}")
        store.commit(made.id, "{}", now=NOW)
        say(f"committed {made.id}")


def kill_at_line(number: int) -> None:
    """Die by SIGKILL before the so many-th line of the ledger's own code from now on."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def lines_of_a_round(state: Path) -> int:
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in WATCHED:
            return None
        count += event == "line"
        return trace

    def work(say: Say) -> None:
        sys.settrace(trace)
        a_round(state, lambda _: None)
        sys.settrace(None)
        say(str(count))

    (said,), _ = forked(work)
    for path in state.iterdir():
        path.unlink()
    return int(said)


RANK = {"reserved": 0, "abandoned": 0, "sealed": 1, "committed": 2}


def check_nothing_is_missing(state: Path, said: list[str]) -> None:
    """Whatever a process was told stands in the ledger, and the ledger can go on."""
    with LedgerStore.open(state, NOW) as store:
        kept = {one.id: one for one in store.reservations()}
        for line in said:
            status, reservation_id = line.split()
            assert reservation_id in kept, f"{line} was told and is not in the ledger"
            assert RANK[kept[reservation_id].status] >= RANK[status]
        assert store.spent("clinic", delta=1e-5).reservations == len(kept)
        before = len(kept)
        number = 1 + max((one.round_number for one in kept.values()), default=0)
        store.reserve(replace(REQUEST, round_number=number, first_step=number - 1), POLICY, now=NOW)
        assert len(store.reservations()) == before + 1


def kill_everywhere(state: Path, stride: int) -> int:
    total = lines_of_a_round(state)
    assert total > 100
    killed = 0
    for line in range(1, total + 1, stride):

        def work(say: Say, line: int = line) -> None:
            kill_at_line(line)
            a_round(state, say)

        said, by = forked(work)
        killed += by == signal.SIGKILL
        check_nothing_is_missing(state, said)
        for path in state.iterdir():
            path.unlink()
    return killed


def test_killed_before_lines_of_its_own_the_ledger_forgets_nothing(state: Path) -> None:
    assert kill_everywhere(state, stride=7) > 20


@pytest.mark.full
def test_killed_before_every_line_of_its_own_the_ledger_forgets_nothing(state: Path) -> None:
    assert kill_everywhere(state, stride=1) > 100


def killed_at_random_moments(state: Path, times: int) -> None:
    draws = random.Random(7)
    told: list[str] = []
    for attempt in range(times):
        seconds = draws.uniform(0.001, 0.03)

        def work(say: Say, first: int = 10_000 * attempt + 1, seconds: float = seconds) -> None:
            # By default the alarm ends the process on the spot, as SIGKILL does.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            if first % 20_000 == 1:  # every other time a whole round comes first, however slow the machine is
                a_round(state, say, first)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            for number in itertools.count(first + 1):
                a_round(state, say, number)

        said, by = forked(work)
        assert by == signal.SIGALRM
        told += said
    assert told
    check_nothing_is_missing(state, told)


def test_killed_at_random_moments_again_and_again_it_forgets_nothing(state: Path) -> None:
    """Also within SQLite and the kernel, where no line of Python runs."""
    killed_at_random_moments(state, 12)


@pytest.mark.full
def test_killed_at_random_moments_many_times_it_forgets_nothing(state: Path) -> None:
    killed_at_random_moments(state, 200)


def test_processes_at_once_share_one_cap(state: Path) -> None:
    """Four processes ask for ever more of one cap: together they get what one alone would have got."""
    policy = LedgerPolicy(epsilon_cap=12.0, delta=1e-5)

    def spend(store: LedgerStore, run: str, say: Say) -> None:
        for number in range(1, 100):
            asked = replace(REQUEST, run=run, round_number=number, first_step=number - 1)
            try:
                say(store.reserve(asked, policy, now=NOW).id)
            except BudgetError:
                return

    alone: list[str] = []
    with LedgerStore.open(state, NOW) as store:
        spend(store, "alone", alone.append)
    for path in state.iterdir():
        path.unlink()
    assert 2 <= len(alone) < 99

    def spend_as(run: str) -> Callable[[Say], None]:
        def work(say: Say) -> None:
            with LedgerStore.open(state, NOW) as store:
                spend(store, run, say)

        return work

    children = [started(spend_as(f"run{index}")) for index in range(4)]
    said = [line for child in children for line in ended(*child)[0]]
    assert len(said) == len(set(said)) == len(alone)
    with LedgerStore.open(state, NOW) as store:
        assert {one.id for one in store.reservations()} == set(said)
        assert store.spent("clinic", delta=1e-5).epsilon <= 12.0
