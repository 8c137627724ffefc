"""An agent killed again and again, wherever it happens to be: the ledger never counts too little."""

import json
import random
import time

import pytest

pytestmark = [pytest.mark.process, pytest.mark.full, pytest.mark.timeout(900)]

SITES = ("hospital1", "hospital2", "hospital3")
KILLS = 12


def test_the_ledger_never_counts_too_little_and_the_run_goes_on(federation):
    federation.prepare(federation.plan(rounds=6))
    for site in SITES:
        federation.start_agent(site)
    draw = random.Random(20)
    killed = 0
    while killed < KILLS:
        time.sleep(draw.uniform(1.0, 6.0))  # imports, joining, training, spooling, pushing, scoring
        if federation.running["hospital1"].poll() is not None:
            break
        federation.kill("hospital1")
        killed += 1
        federation.start_agent("hospital1")
    for site in SITES:
        assert federation.finish(site, seconds=400) == 0, federation.log(site)
    assert killed >= 5, "the run ended before it was disturbed"

    record = federation.server_record()
    assert record["status"] == "finished"
    assert all("hospital1" in one["sites"] for one in record["rounds"])

    federation.command("adpfl_client", "verify", "--site", "hospital1")
    ledger = json.loads(federation.command("adpfl_client", "ledger", "--site", "hospital1", "--json").stdout)
    rows = ledger["reservations"]
    # Whatever began to train had been charged, each attempt by a row (and so by a key) of its own.
    begun = [
        (one["round"], one["attempt"])
        for one in federation.logged("hospital1")
        if one.get("event") == "training"
    ]
    assert len(set(begun)) == len(begun)
    assert set(begun) <= {(row["round"], row["attempt"]) for row in rows}
    # One update a round was ever signed for; the other rows stay charged without a release.
    for number in range(1, 7):
        signed = [row for row in rows if row["round"] == number and row["status"] == "committed"]
        assert len(signed) == 1, rows
    assert federation.site_record("hospital1")["guarantee"]["steps"] == 8 * len(rows)
