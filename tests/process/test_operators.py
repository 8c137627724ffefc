"""Operators and auditors as a person would work: commands on one machine and calls from another."""

import json
import time

import pytest

pytestmark = pytest.mark.process


@pytest.fixture
def enrolled(federation):
    federation.prepare(federation.plan())
    for name, role in (("alice", "operator"), ("bob", "auditor")):
        bundle = f"{name}.bundle.json"
        federation.command(
            "adpfl_server", "enroll", name, "--role", role, "--config", "server.yaml", "--output", bundle
        )
        federation.command("adpfl_client", "operate", "enroll", bundle, "--identity", name)
    return federation


def operate(federation, *arguments, code=0):
    return federation.command("adpfl_client", "operate", *arguments, code=code)


def test_an_operator_steers_a_live_run_and_an_auditor_follows_it(enrolled):
    run = enrolled.plan()["run"]
    for site in ("hospital1", "hospital2", "hospital3"):
        enrolled.start_agent(site)
    assert "is paused" in operate(enrolled, "pause", run, "--reason", "a look", "--identity", "alice").stdout
    status = json.loads(operate(enrolled, "status", run, "--identity", "bob").stdout)
    assert status["status"] == "paused"
    refused = operate(enrolled, "cancel", run, "--identity", "bob", code=1)
    assert "PERMISSION_DENIED" in refused.stderr
    assert operate(enrolled, "audit-log", "log.jsonl", "--identity", "bob").returncode == 0
    assert "is running" in enrolled.command("adpfl_server", "resume", run).stdout
    for site in ("hospital1", "hospital2", "hospital3"):
        assert enrolled.running[site].wait(120) == 0
    operate(enrolled, "audit-log", "log.jsonl", "--identity", "bob")
    kinds = [json.loads(line)["kind"] for line in (enrolled.root / "log.jsonl").read_text().splitlines()]
    assert kinds.count("update_committed") == 12
    assert {"run_paused", "run_resumed", "run_finished", "enrolled"} <= set(kinds)
    enrolled.command("adpfl_server", "audit-log", "export", "log.signed.jsonl")
    told = enrolled.command("adpfl_server", "audit-log", "verify", "--earlier", "log.signed.jsonl").stdout
    assert "all still there" in told


def test_a_revoked_sites_agent_is_cut_off(enrolled):
    enrolled.start_agent("hospital1")
    enrolled.wait_until(
        lambda: "site_joined" in enrolled.command("adpfl_server", "audit-log", "show").stdout, "hospital1"
    )
    operate(enrolled, "revoke", "hospital1", "--identity", "alice")
    start = time.monotonic()
    assert enrolled.running["hospital1"].wait(60) == 1
    assert time.monotonic() - start < 18  # its long poll would have waited longer
    assert "revoked" in enrolled.command("adpfl_server", "certificates").stdout
