"""A disk that changes a byte of a committed update: the real agent sends the same bytes again, at no cost."""

import json

import pytest

from adpfl_server.store import Store

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

SITES = ("hospital1", "hospital2", "hospital3")


def committed(federation, site):
    return [one for one in federation.logged(site) if one.get("event") == "update committed"]


def flip_a_byte_of_the_update_of(federation, site):
    store = Store(federation.root / "server", read_only=True)
    (row,) = store.connection.execute("SELECT update_digest FROM offers WHERE site = ?", (site,)).fetchall()
    digest = store.manifest(row["update_digest"]).chunk_digests[0]
    store.close()
    path = federation.root / "server" / "blobs" / digest[:2] / digest
    data = bytearray(path.read_bytes())
    data[7] ^= 0x10
    path.write_bytes(data)


def test_a_damaged_update_is_sent_again_and_the_run_finishes(federation):
    cohort = {"sites": list(SITES), "quorum": 2, "round_deadline_seconds": 300}
    federation.prepare(federation.plan(rounds=2, cohort=cohort))
    for site in SITES[:2]:
        federation.start_agent(site)
    federation.wait_until(lambda: committed(federation, SITES[0]), "hospital1 to commit")
    flip_a_byte_of_the_update_of(federation, SITES[0])
    federation.start_agent(SITES[2])  # the round waits for it
    for site in SITES:
        assert federation.finish(site) == 0, federation.log(site)
    assert federation.terminate("server") == 0, federation.log("server")

    server = federation.server_record()
    assert server["status"] == "finished"
    assert all(sorted(one["sites"]) == list(SITES) for one in server["rounds"])
    damaged = [entry["site"] for entry in server["timeline"] if entry["kind"] == "update_damaged"]
    assert damaged == [SITES[0]]
    kinds = [entry["kind"] for entry in federation.site_record(SITES[0])["timeline"]]
    assert "update_resent" in kinds
    ledger = json.loads(federation.command("adpfl_client", "ledger", "--site", SITES[0], "--json").stdout)
    charged = [(row["round"], row["attempt"], row["status"]) for row in ledger["reservations"]]
    assert charged == [(1, 1, "committed"), (2, 1, "committed")]
    federation.command("adpfl_client", "verify", "--site", SITES[0])
