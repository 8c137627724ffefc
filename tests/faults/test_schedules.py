"""Random storms: whatever goes wrong in whatever order, nothing acknowledged is lost and the run ends."""

from typing import Any

import pytest

from adpfl.kill_points import POINTS
from tests.faults.invariants import check_all
from tests.faults.schedule import HAPPENINGS, ROUNDS, Player, draw

SCHEDULES = 240
SAMPLE = 8
"""So many of them are played by `make test`."""
PATIENCE_SECONDS = 90.0

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]


def seeds() -> list[Any]:
    """The first few as they come; the generator has no memory that would make them special."""
    return [
        pytest.param(seed, marks=[] if seed < SAMPLE else [pytest.mark.full]) for seed in range(SCHEDULES)
    ]


@pytest.mark.parametrize("seed", seeds())
def test_a_storm_loses_nothing_and_ends(federate, seed):
    schedule = draw(seed)
    federation = federate(sites=schedule.sites, quorum=schedule.quorum, changes={"rounds": ROUNDS})
    Player(federation, schedule).play(PATIENCE_SECONDS)
    assert federation.status()["status"] == "finished", federation.scene()
    federation.finish()
    check_all(federation)


def test_a_seed_always_draws_the_same_schedule():
    assert draw(5) == draw(5)
    assert draw(5) != draw(6)
    assert {fault.kind for seed in range(SCHEDULES) for fault in draw(seed).faults} == set(HAPPENINGS)
    died = {point.partition(":")[0] for seed in range(SCHEDULES) for _, point in draw(seed).kill_points}
    assert died == POINTS
