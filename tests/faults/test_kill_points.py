"""`kill -9` at every named point of both sides: after a restart the run finishes, nothing lost or twice."""

import re
from pathlib import Path

import pytest

from adpfl.kill_points import POINTS
from tests.faults.invariants import check_all
from tests.faults.rig import ROOT, Federation

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

AT_A_RESTART = ["server.resumed", "server.sweeping"]
CLIENT = sorted(point for point in POINTS if point.startswith("client."))
SERVER = sorted(point for point in POINTS if point.startswith("server.") and point not in AT_A_RESTART)
LATER_TIMES = {
    "client.stepping": 3,  # after two local steps
    "client.pushing": 4,  # in the middle of the chunks
    "client.receiving": 3,
    "server.chunk_storing": 9,  # of more than one site
    "server.chunk_stored": 5,
    "server.committed": 3,  # the commit that closes the round
    "server.committing": 2,
    "server.aggregating": 3,
    "server.closed": 2,  # the run is over, and nobody has been told
    "server.recording": 2,
}


def run_with_a_death(federation: Federation, victim: str, kill_at: str) -> None:
    federation.start(victim, kill_at=kill_at)
    federation.start_all()
    federation.wait_for_death(victim)
    federation.start(victim)
    federation.finish()
    check_all(federation)


@pytest.mark.parametrize("point", CLIENT)
def test_an_agent_killed_there_comes_back(federate, point):
    run_with_a_death(federate(), "hospital1", point)


@pytest.mark.parametrize("point", SERVER)
def test_a_server_killed_there_comes_back(federate, point):
    run_with_a_death(federate(), "server", point)


@pytest.mark.parametrize("point", sorted(LATER_TIMES))
def test_killed_there_for_the_nth_time_it_comes_back(federate, point):
    victim = "hospital1" if point.startswith("client.") else "server"
    run_with_a_death(federate(), victim, f"{point}:{LATER_TIMES[point]}")


@pytest.mark.parametrize("point", AT_A_RESTART)
def test_a_server_killed_while_it_starts_again_comes_back(federate, point):
    """Twice: what the first death leaves is what the second start clears away."""
    federation = federate()
    federation.start("server", kill_at="server.chunk_storing:9")
    federation.start_all()
    federation.wait_for_death("server")
    federation.start("server", kill_at=point)
    federation.wait_for_death("server")
    federation.start("server")
    federation.finish()
    check_all(federation)


def test_every_point_stands_in_the_code_once():
    found = []
    for package in ("adpfl", "adpfl_server", "adpfl_client"):
        for path in sorted(Path(ROOT, package).rglob("*.py")):
            found += re.findall(r"\breach\(\"([a-z_.]+)\"\)", path.read_text(encoding="utf-8"))
    assert sorted(found) == sorted(POINTS)
