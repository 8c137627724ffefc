"""How much one caller may take: rates and counts, with a clock that a test sets."""

import asyncio

import pytest

from adpfl.security.certificates import Holder
from adpfl_server.limits import admission
from adpfl_server.limits.admission import Admission, Pace, Paces
from adpfl_server.limits.limits_config import LimitsConfig
from adpfl_server.limits.refusals import CallRefusedError, Code

FETCH = "/adpfl.v1.Federation/Fetch"
POLL = "/adpfl.v1.Federation/NextTask"
A, B = Holder("site", "a"), Holder("site", "b")


def test_a_burst_passes_and_then_calls_come_evenly():
    pace = Pace(per_second=10.0, burst=5, now=0.0)
    waits = []
    for _ in range(8):
        waits.append(pace.wait_seconds(0.0))
        pace.take(0.0)
    assert waits == pytest.approx([0, 0, 0, 0, 0, 0.1, 0.2, 0.3])
    assert pace.wait_seconds(1.0) == 0.0


def test_quiet_earns_no_more_than_one_burst():
    pace = Pace(per_second=1.0, burst=2, now=0.0)
    for _ in range(2):
        assert pace.wait_seconds(1e6) == 0.0
        pace.take(1e6)
    assert pace.wait_seconds(1e6) == pytest.approx(1.0)


def test_asking_takes_nothing():
    pace = Pace(per_second=1.0, burst=1, now=0.0)
    pace.take(0.0)
    assert [pace.wait_seconds(0.0) for _ in range(3)] == pytest.approx([1.0, 1.0, 1.0])


def test_the_callers_that_are_known_are_bounded():
    paces = Paces(1.0, 1, kept=3)
    paces["a"].take(0.0)
    for key in ("b", "c", "a", "d"):  # b was heard longest ago
        paces[key].take(0.0)
    assert paces["a"].wait_seconds(0.0) > 0.5
    assert len(paces._paces) == 3
    assert paces["b"].wait_seconds(0.0) == 0.0  # begins anew


def fill(gate, holder, method, count):
    held = [gate.counted(holder, method) for _ in range(count)]
    for one in held:
        one.__enter__()
    return held


@pytest.mark.parametrize(
    ("holder", "method", "key"),
    [
        (A, POLL, "calls_at_once is 6"),
        (A, FETCH, "transfers_at_once is 3"),
        (B, FETCH, "transfers_in_all is 5"),
    ],
)
def test_one_call_too_many_is_refused_by_the_limits_name(holder, method, key):
    gate = Admission(LimitsConfig(calls_at_once=6, transfers_at_once=3, transfers_in_all=5))
    held = fill(gate, A, FETCH, 3) + fill(gate, B, FETCH, 2) + fill(gate, A, POLL, 3 if method == POLL else 2)
    with pytest.raises(CallRefusedError, match=f"limits.{key}") as refusal, gate.counted(holder, method):
        pass
    assert refusal.value.code is Code.RESOURCE_EXHAUSTED
    assert refusal.value.metadata == (("retry-after-millis", "1000"),)
    assert held


def test_a_call_that_ends_makes_room_however_it_ends():
    gate = Admission(LimitsConfig(calls_at_once=4, transfers_at_once=1))
    for _ in range(10):
        with pytest.raises(KeyError), gate.counted(A, FETCH):
            raise KeyError
    assert not gate._calls
    assert not gate._transfers
    held = fill(gate, A, POLL, 4)
    with gate.counted(B, POLL):  # others are not concerned
        assert held


def test_a_call_over_the_rate_waits_and_one_that_would_wait_long_is_refused(monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(round(seconds, 9))

    monkeypatch.setattr(admission.asyncio, "sleep", sleep)
    gate = Admission(LimitsConfig(calls_per_second=2.0), lambda: 50.0)

    async def calls():
        for _ in range(8):
            await gate.turn(A)
        with pytest.raises(CallRefusedError, match=r"limits\.calls_per_second, 2") as refusal:
            await gate.turn(A)
        assert refusal.value.metadata == (("retry-after-millis", "2500"),)
        await gate.turn(B)

    asyncio.run(calls())
    assert slept == [0.5, 1.0, 1.5, 2.0]
