"""What a bad network does to a run: it takes longer, and that is all."""

import signal

import pytest

from adpfl.security.tls import KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS
from tests.faults.invariants import check_all
from tests.faults.link import Mishap
from tests.faults.rig import SITES, Federation
from tests.faults.scaling import FACTOR

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

SIX_MINUTES = 360.0 / FACTOR
AFTER_BYTES = 150_000
"""In the middle of the model or of the update."""


def finish(federation: Federation) -> None:
    federation.finish()
    check_all(federation)


@pytest.mark.parametrize("megabits", [4.0, 30.0])
def test_a_slow_site_is_waited_for(federate, megabits):
    federation = federate()
    federation.links["hospital1"].slow(megabits_per_second=megabits, delay_seconds=0.05)
    federation.start_all()
    finish(federation)
    assert federation.links["hospital1"].dialled <= 2, "a slow link is no dead one"


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("kind", ["truncate", "reset", "duplicate", "corrupt"])
def test_a_stream_that_breaks_midway_is_gone_on_with(federate, kind, direction):
    federation = federate()
    link = federation.links["hospital2"]
    link.expect(Mishap(kind, direction, AFTER_BYTES))
    federation.start_all()
    finish(federation)
    assert link.mishaps_done == [kind]
    assert link.dialled >= 2, "TLS must have noticed"
    # What had arrived was not sent again: a model of 363 KB and half of another is far from three.
    assert link.passed["down"] < 4 * 363_000
    assert link.passed["up"] < 3 * 363_000


@pytest.mark.parametrize(
    ("silent", "forget"),
    [
        pytest.param(True, True, id="black hole, forgotten"),
        pytest.param(True, False, id="black hole, remembered", marks=pytest.mark.full),
        pytest.param(False, True, id="refused", marks=pytest.mark.full),
    ],
)
def test_a_vpn_that_drops_for_minutes_costs_minutes(federate, silent, forget):
    """With a quorum of all, nothing closes without the site; the server says who is missing."""
    federation = federate()
    federation.start_all()
    federation.wait_until(lambda: "training" in federation.events("hospital1"), "hospital1 to train")
    link = federation.links["hospital1"]
    link.cut(silent=silent)
    said = {}

    def waits() -> bool:
        said.update(federation.status())
        return "hospital1 is silent" in said["summary"]

    federation.wait_until(waits, "the server to miss hospital1")
    assert not federation.is_over()
    assert "missing hospital1" in said["summary"]
    link.mend(forget=forget)
    finish(federation)


@pytest.mark.full
def test_a_link_that_is_away_for_six_minutes_comes_back_by_itself(federate):
    federation = federate()
    federation.start_all()
    federation.wait_until(lambda: "training" in federation.events("hospital3"), "hospital3 to train")
    link = federation.links["hospital3"]
    link.cut(silent=True)
    with pytest.raises(TimeoutError):
        federation.wait_until(federation.is_over, "six minutes", SIX_MINUTES)
    link.mend(forget=True)
    finish(federation)
    kinds = [entry["kind"] for entry in federation.record()["timeline"]]
    assert kinds.count("site_lost") == kinds.count("site_returned") == 1


def test_with_a_quorum_the_others_go_on_and_the_record_names_the_missing(federate):
    federation = federate(quorum=2)
    federation.start_all()
    federation.wait_until(lambda: "model received" in federation.events("hospital2"), "hospital2 to begin")
    link = federation.links["hospital2"]
    link.cut(silent=True)
    federation.wait_until(
        lambda: all(federation.running[site].code() == 0 for site in ("hospital1", "hospital3")),
        "the others to finish",
    )
    link.mend(forget=True)
    finish(federation)
    record = federation.record()
    assert any("hospital2" in one["missing"] for one in record["rounds"])
    assert "missing hospital2" in record["summary"]


def test_a_half_open_connection_is_found_out(federate):
    """The agent's end is open, a proxy acknowledges every byte, and behind it nobody is there any more."""
    federation = federate(changes={"rounds": 4})
    federation.start_all()
    federation.wait_until(lambda: "training" in federation.events("hospital1"), "hospital1 to train")
    for link in federation.links.values():
        link.cut(silent=True)
        link.mend(forget=True)
    federation.wait_until(
        lambda: all(link.dialled >= 2 for link in federation.links.values()),
        "the agents to dial anew",
        # A ping goes unanswered; a call under way has its own deadline, and each may begin late.
        seconds=3 * (KEEPALIVE_SECONDS + KEEPALIVE_TIMEOUT_SECONDS) / FACTOR,
    )
    finish(federation)


def test_the_whole_consortiums_network_flaps(federate):
    federation = federate(changes={"rounds": 4})
    federation.start_all()
    for beat in range(12):
        for link in federation.links.values():
            link.drop() if beat % 3 else link.cut(silent=False)
        with pytest.raises(TimeoutError):
            federation.wait_until(lambda: False, "a moment", 0.15)
        for link in federation.links.values():
            link.mend()
    finish(federation)
    assert sorted(federation.record()["rounds"][-1]["sites"]) == sorted(SITES)


def test_a_server_that_was_suspended_takes_nobody_for_lost(federate):
    """A virtual machine that is moved wakes with everybody's words in its sockets, unread."""
    federation = federate(quorum=2)
    federation.links["hospital3"].slow(megabits_per_second=4.0)
    federation.start_all()
    federation.wait_until(lambda: "update committed" in federation.events("hospital1"), "an update")
    server = federation.running["server"]
    server.signal(signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        federation.wait_until(lambda: False, "longer than the server waits for a site", 8.0)
    server.signal(signal.SIGCONT)
    finish(federation)
    kinds = [entry["kind"] for entry in federation.record()["timeline"]]
    assert "site_lost" not in kinds, kinds
    assert "round_partial" not in kinds, kinds
