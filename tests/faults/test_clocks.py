"""Clocks that jump by hours while the daemons run: the whole process sees it, gRPC and TLS included."""

import pytest

from tests.faults.invariants import check_all
from tests.faults.rig import SITES, Federation

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

HOURS = 3600.0


@pytest.fixture
def federation(federate, forge) -> Federation:
    if not forge.moves_clocks:
        pytest.skip("no C compiler: the library that moves the clock cannot be made here")
    made: Federation = federate(changes={"rounds": 3})
    return made


def trains(federation: Federation, site: str, number: int) -> bool:
    return any(
        entry.get("event") == "training" and entry["round"] >= number for entry in federation.logged(site)
    )


def committed(federation: Federation, site: str, number: int) -> bool:
    return any(
        entry.get("event") == "update committed" and entry["round"] >= number
        for entry in federation.logged(site)
    )


def test_the_processes_see_the_clock_that_they_are_given(federation):
    federation.jump("server", 24 * HOURS)
    federation.start("server")
    federation.wait_until(lambda: "serving" in federation.events("server"), "the server to serve")
    federation.jump("hospital1", -24 * HOURS)
    federation.start("hospital1")  # its certificate is of tomorrow, as it thinks
    federation.wait_until(lambda: federation.running["hospital1"].code() is not None, "hospital1 to give up")
    assert federation.running.pop("hospital1").code() == 1
    assert "not valid before" in federation.log("hospital1") or "not yet valid" in federation.log("hospital1")
    (created,) = [one for one in federation.logged("server") if one.get("kind") == "run_created"]
    (listening,) = [one for one in federation.logged("server") if one.get("event") == "serving"]
    assert created["timestamp"][:10] == listening["timestamp"][:10]


@pytest.mark.parametrize("hours", [3.0, -3.0, 0.05, -0.05])
def test_the_servers_clock_jumps_in_the_middle_of_a_round(federation, hours):
    """Backwards the sites' certificates are of the future for it; connections that stand go on."""
    federation.start_all()
    federation.wait_until(lambda: trains(federation, "hospital1", 1), "hospital1 to train")
    federation.jump("server", hours * HOURS)
    federation.finish()
    check_all(federation)


@pytest.mark.parametrize("hours", [3.0, 0.05, -0.05])
def test_a_sites_clock_jumps_in_the_middle_of_a_round(federation, hours):
    federation.start_all()
    federation.wait_until(lambda: trains(federation, "hospital1", 1), "hospital1 to train")
    federation.jump("hospital1", hours * HOURS)
    federation.finish()
    check_all(federation)


def test_a_site_whose_clock_jumps_back_spends_nothing_until_a_person_has_looked(federation):
    federation.start_all()
    federation.wait_until(lambda: trains(federation, "hospital1", 1), "hospital1 to train")
    federation.jump("hospital1", 2 * HOURS)
    federation.wait_until(lambda: committed(federation, "hospital1", 2), "an entry of the future")
    federation.jump("hospital1", 0.0)  # the time server was mended
    federation.wait_until(
        lambda: federation.running["hospital1"].code() is not None or federation.is_over(), "a refusal"
    )
    if federation.running["hospital1"].code() == 0:
        pytest.skip("the run was over before the clock was mended")
    assert federation.running.pop("hospital1").code() == 1
    assert "clock" in federation.log("hospital1")
    status = federation.status()
    assert "hospital1 refuses the run (ledger.clock)" in status["summary"]
    federation.command(
        "adpfl_client", "acknowledge-clock", "--site", "hospital1", "--reason", "a test", "--by", "the test"
    )
    federation.start("hospital1")
    federation.finish()
    check_all(federation)


def test_a_jump_of_the_servers_clock_is_no_silence(federate, forge):
    """A round must not close without a site that is at work, only because the time of day has changed."""
    if not forge.moves_clocks:
        pytest.skip("no C compiler: the library that moves the clock cannot be made here")
    patient = {"cohort": {"sites": list(SITES), "quorum": 2, "round_deadline_seconds": 3600}}
    federation = federate(quorum=2, changes={"rounds": 1} | patient)
    federation.links["hospital3"].slow(megabits_per_second=4.0)
    federation.start_all()
    federation.wait_until(
        lambda: all(committed(federation, site, 1) for site in ("hospital1", "hospital2")), "two updates"
    )
    assert not committed(federation, "hospital3", 1)
    federation.jump("server", 0.5 * HOURS)
    federation.finish()
    check_all(federation)
    (closed,) = federation.record()["rounds"]
    assert closed["missing"] == [], federation.record()["timeline"]


def test_a_server_whose_clock_falls_behind_the_sites_certificates_and_is_mended(federation):
    """No site is let in, none gives up, and the run goes on when the clock is right again."""
    federation.start("server")
    federation.wait_until(lambda: "serving" in federation.events("server"), "the server")
    federation.jump("server", -3 * HOURS)
    federation.start_all()
    federation.wait_until(
        lambda: all("call failed; will try again" in federation.events(site) for site in federation.sites),
        "every site to be turned away",
    )
    federation.jump("server", 0.0)
    federation.finish()
    check_all(federation)


def test_a_server_does_not_start_before_its_own_authority_is_valid(federation):
    federation.jump("server", -3 * HOURS)
    federation.start("server")
    federation.wait_until(lambda: federation.running["server"].code() is not None, "the server to give up")
    assert federation.running.pop("server").code() == 1
    assert "not valid before" in federation.log("server")
    assert federation.log("server").count("\n") == 1
