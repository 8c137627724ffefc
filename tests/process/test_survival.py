"""The main job, and what `kill -9` of either side does to it: nothing that the report does not say."""

import json

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(420)]

SITES = ("hospital1", "hospital2", "hospital3")


def kinds(record: dict) -> list[str]:
    return [entry["kind"] for entry in record["timeline"]]


def test_a_killed_agent_and_a_killed_server_come_back_and_the_run_finishes(federation):
    federation.prepare(federation.plan())
    for site in SITES:
        federation.start_agent(site)

    federation.wait_until(lambda: federation.trains("hospital2", 2), "hospital2 to train in round 2")
    federation.kill("hospital2")
    federation.start_agent("hospital2")

    federation.wait_until(lambda: federation.trains("hospital1", 3), "hospital1 to train in round 3")
    federation.kill("server")
    federation.start_server()

    for site in SITES:
        assert federation.finish(site) == 0, federation.log(site)
    assert federation.terminate("server") == 0, federation.log("server")

    server = federation.server_record()
    assert server["status"] == "finished"
    assert [one["round"] for one in server["rounds"]] == [1, 2, 3, 4]
    assert all(sorted(one["sites"]) == list(SITES) and not one["missing"] for one in server["rounds"])
    assert "site_rejoined" in kinds(server)
    assert "server_restarted" in kinds(server)

    # The killed round was charged twice and aggregated once.
    ledger = json.loads(federation.command("adpfl_client", "ledger", "--site", "hospital2", "--json").stdout)
    charged = [(row["round"], row["attempt"], row["status"]) for row in ledger["reservations"]]
    assert charged.count((2, 1, "abandoned")) == 1, charged
    assert charged.count((2, 2, "committed")) == 1, charged
    assert federation.site_record("hospital2")["guarantee"]["steps"] == 5 * 8
    federation.command("adpfl_client", "verify", "--site", "hospital2")

    folders = [str(federation.root / "state" / site) for site in SITES]
    federation.command(
        "adpfl.experiment", "report", str(federation.root / "server"), *folders, "--output", "report.html"
    )
    page = (federation.root / "report.html").read_text(encoding="utf-8")
    assert "hospital2" in page
    assert "restarted" in page


def test_a_sealed_update_is_sent_again_as_the_same_bytes(federation):
    federation.prepare(federation.plan(rounds=1))
    for site in SITES:
        federation.start_agent(site)
    federation.wait_until(lambda: federation.trains("hospital1", 1), "hospital1 to train")
    federation.kill("server")  # the update will be finished and sealed, and find nobody to take it

    def offers_in_vain() -> bool:
        failed = [one for one in federation.logged("hospital1") if one.get("call") in {"Offer", "Push"}]
        return len(failed) >= 2

    federation.wait_until(offers_in_vain, "hospital1 to offer its update")
    spool = federation.root / "state" / "hospital1" / "spool"
    sealed = {path.name: path.read_bytes() for path in spool.rglob("*") if path.is_file()}
    digest = json.loads(sealed["entry.json"])["update_digest"]
    federation.kill("hospital1")
    federation.start_server()
    federation.start_agent("hospital1")
    for site in SITES:
        assert federation.finish(site) == 0, federation.log(site)

    assert "update_resent" in kinds(federation.site_record("hospital1"))
    trained = [one for one in federation.logged("hospital1") if one.get("event") == "training"]
    assert len(trained) == 1
    ledger = json.loads(federation.command("adpfl_client", "ledger", "--site", "hospital1", "--json").stdout)
    assert [(row["status"], row["update_digest"]) for row in ledger["reservations"]] == [
        ("committed", digest)
    ]


def test_sigterm_ends_both_sides_cleanly_and_they_go_on(federation):
    federation.prepare(federation.plan(rounds=2))
    for site in SITES:
        federation.start_agent(site)
    federation.wait_until(lambda: federation.trains("hospital3", 1), "hospital3 to train")
    assert federation.terminate("hospital3") == 0, federation.log("hospital3")
    assert federation.terminate("server") == 0, federation.log("server")
    federation.start_server()
    federation.start_agent("hospital3")
    for site in SITES:
        assert federation.finish(site) == 0, federation.log(site)
    assert federation.server_record()["status"] == "finished"
