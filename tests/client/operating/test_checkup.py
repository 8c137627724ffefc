"""What `check` finds out: a revoked site, a ledger that is gone, a clock or a disk that the agent refuses."""

import errno
import os
import re
import shutil
import time

import grpc
import pytest

from adpfl_client.ledger_store import LedgerStore
from adpfl_client.operating import checkup


@pytest.fixture
def findings(make_config, consortium, federation, monkeypatch):
    """Check a site that is enrolled with the stand-in; returns what is said, by subject."""
    monkeypatch.setattr(
        checkup, "load_site_identity", lambda *_arguments, **_options: consortium.site(federation.address)
    )

    def check():
        return {one.subject: one for one in checkup.check_site(make_config())}

    return check


def test_an_enrolled_site_passes_by_asking_for_a_run_that_does_not_exist(findings, federation):
    found = findings()
    assert all(one.passed for one in found.values())
    assert "admits hospital1" in found["server"].finding
    assert federation.service.calls == ["NextTask"]


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "PERMISSION_DENIED", "UNAVAILABLE"])
def test_a_site_that_the_server_does_not_admit_fails(findings, federation, code):
    federation.service.faults["NextTask"] = [grpc.StatusCode[code]]
    found = findings()["server"]
    assert not found.passed
    assert code in found.finding


def test_nothing_spent_is_said_only_where_there_is_no_trace_of_a_ledger(findings, make_config):
    assert findings()["ledger"].finding == "none yet: nothing has been spent"
    state_dir = make_config().state_dir
    with LedgerStore.open(state_dir, 1e9):
        pass
    (state_dir / "ledger.sqlite").unlink()
    found = findings()["ledger"]
    assert not found.passed
    assert "is missing, but ledger.head remembers a ledger" in found.finding


def test_records_of_runs_without_a_ledger_are_a_trace(findings, make_config):
    state_dir = make_config().state_dir
    (state_dir / "runs" / "derm").mkdir(parents=True)
    found = findings()["ledger"]
    assert not found.passed
    assert "runs/derm is the record of an earlier run; the ledger was removed" in found.finding
    shutil.rmtree(state_dir / "runs")
    (state_dir / "ledger.receipt").write_text("{}")
    assert not findings()["ledger"].passed


def test_a_clock_behind_the_ledger_fails_in_the_words_of_the_agent(findings, make_config):
    with LedgerStore.open(make_config().state_dir, time.time() + 404):
        pass
    found = findings()["ledger"]
    assert not found.passed
    assert re.search(r"the clock is \d+ s behind the ledger's latest entry", found.finding)
    assert "adpfl-client acknowledge-clock" in found.finding


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_state_folder_that_takes_nothing_fails_by_name(findings, make_config, monkeypatch, code):
    state_dir = make_config().state_dir
    state_dir.mkdir()

    def refuse(folder):
        assert folder == state_dir
        raise OSError(code, os.strerror(code), str(folder / ".probe.x"))

    assert findings()["state folder"].passed
    assert list(state_dir.iterdir()) == []
    monkeypatch.setattr(checkup, "probe", refuse)
    found = findings()["state folder"]
    assert not found.passed
    assert str(state_dir) in found.finding
    assert os.strerror(code) in found.finding
