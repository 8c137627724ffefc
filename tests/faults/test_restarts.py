"""Machines that are started again in every order, in the middle of whatever they do."""

import signal

import pytest

from tests.faults.invariants import check_all
from tests.faults.rig import SITES, Federation

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

ROUNDS = 6


@pytest.fixture
def federation(federate) -> Federation:
    made: Federation = federate(changes={"rounds": ROUNDS})
    made.start_all()
    return made


def count(federation: Federation, site: str, event: str) -> int:
    return federation.events(site).count(event)


def wait_for_round(federation: Federation, number: int) -> None:
    """Until everybody has begun to train so many times since the test began."""
    federation.wait_until(
        lambda: all(count(federation, site, "training") >= number for site in federation.sites),
        f"everybody to train {number} times",
    )


def again(federation: Federation, name: str, *, orderly: bool) -> None:
    if orderly:
        process = federation.running.pop(name)
        process.signal(signal.SIGTERM)
        assert process.wait(30) == 0, federation.scene()
    else:
        federation.kill(name)
    federation.start(name)


@pytest.mark.parametrize("orderly", [True, False], ids=["stopped", "killed"])
def test_first_the_server_then_each_site_then_all(federation, orderly):
    wait_for_round(federation, 1)
    again(federation, "server", orderly=orderly)
    for place, site in enumerate(SITES, start=2):
        federation.wait_until(
            lambda site=site, place=place: count(federation, site, "training") >= place, site
        )
        joined = count(federation, site, "run joined")
        again(federation, site, orderly=orderly)
        federation.wait_until(
            lambda site=site, known=joined: count(federation, site, "run joined") > known, site
        )
    for name in ("server", *SITES):
        if orderly:
            federation.running[name].signal(signal.SIGTERM)
        else:
            federation.kill(name)
    if orderly:
        for name in ("server", *SITES):
            assert federation.running.pop(name).wait(30) == 0, federation.scene()
    federation.start_all()
    federation.finish()
    check_all(federation)
    kinds = [entry["kind"] for entry in federation.record()["timeline"]]
    assert kinds.count("server_restarted") == 2
    assert {
        entry["site"] for entry in federation.record()["timeline"] if entry["kind"] == "site_rejoined"
    } == (set(SITES))


def test_sites_that_come_back_before_the_server_wait_for_it(federation):
    wait_for_round(federation, 2)
    for name in ("server", *SITES):
        federation.kill(name)
    for site in SITES:
        federation.start(site)
    federation.wait_until(
        lambda: all("call failed; will try again" in federation.events(site) for site in SITES), "vain calls"
    )
    federation.start("server")
    federation.finish()
    check_all(federation)


def test_a_server_killed_again_and_again_gets_there(federation):
    for number in range(1, ROUNDS):
        wait_for_round(federation, number)
        federation.kill("server")
        federation.start("server")
    federation.finish()
    check_all(federation)
    assert len(federation.record()["rounds"]) == ROUNDS


def test_a_site_whose_agent_starts_twice_has_one(federation):
    """An administrator starts a second agent on the same folder: it says so, ends, and spends nothing."""
    wait_for_round(federation, 1)
    said = federation.command("adpfl_client", "--site", "hospital1", "--until-finished", code=1)
    assert "another agent of this site is running" in said
    federation.finish()
    check_all(federation)


def test_a_second_server_on_the_same_state_ends_at_once(federation):
    wait_for_round(federation, 1)
    said = federation.command("adpfl_server", "--config", "server.yaml", code=1)
    assert "another adpfl-server is using it" in said
    federation.finish()
    check_all(federation)
