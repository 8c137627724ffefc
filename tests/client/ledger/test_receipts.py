"""A ledger that was put back to an older state, and who finds it out: the kept receipt, and the server."""

import shutil
from dataclasses import replace

import pytest

from adpfl.errors import IdentityError, IntegrityError
from adpfl.wire import receipts
from adpfl_client.ledger import ledger_check
from adpfl_client.ledger.ledger_check import verify_ledger
from adpfl_client.ledger.ledger_files import RECEIPT_NAME
from adpfl_client.ledger.receipts import keep_receipt, kept_receipt
from adpfl_client.ledger_store import LedgerStore

LEDGER = "ledger.*"


def save(config, folder):
    folder.mkdir()
    for path in config.state_dir.glob(LEDGER):
        shutil.copy2(path, folder)


def put_back(config, folder):
    for path in config.state_dir.glob(LEDGER):
        path.unlink()
    for path in folder.iterdir():
        shutil.copy2(path, config.state_dir)


@pytest.fixture
def rolled_back(open_agent, make_config, make_plan, serve, tmp_path):
    """A finished run, another that begins, and every file of the ledger as it was before them."""
    service, config = serve(make_plan()), make_config()
    service.failed = "not yet"
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    save(config, tmp_path / "backup")
    service.failed = ""
    with open_agent(config) as agent:
        assert agent.work(until_finished=True)[0].status == "finished"
    save(config, tmp_path / "newest")
    put_back(config, tmp_path / "backup")
    serve(make_plan(run="next"))
    return service, config, tmp_path / "newest"


def test_all_files_of_the_ledger_put_back_stop_the_agent_before_any_spend(open_agent, rolled_back):
    service, config, newest = rolled_back
    commits = len(service.commits)
    assert not (config.state_dir / RECEIPT_NAME).exists()
    words = (
        r"the server holds a signed receipt \(run derm, round 2\) for a ledger state that this ledger does"
    )
    with open_agent(config) as agent, pytest.raises(IntegrityError, match=words) as refused:
        agent.work(until_finished=True)
    assert "restore the newest copy of ledger.sqlite" in str(refused.value)
    assert refused.value.exit_code == 1
    assert len(service.commits) == commits
    with LedgerStore.open(config.state_dir, 2e9) as ledger:
        assert ledger.reservations() == ()
    put_back(config, newest)
    with open_agent(config) as agent:
        agent.work(until_finished=True)


def test_the_receipt_beside_the_ledger_finds_it_out_without_the_server(open_agent, rolled_back):
    service, config, newest = rolled_back
    service.committed.clear()  # the server has forgotten too
    shutil.copy2(newest / RECEIPT_NAME, config.state_dir)
    with open_agent(config) as agent, pytest.raises(IntegrityError, match=r"ledger\.receipt holds a signed"):
        agent.work(until_finished=True)


def test_verify_says_without_a_link_that_the_kept_receipt_is_newer(rolled_back, monkeypatch, consortium):
    service, config, newest = rolled_back
    monkeypatch.setattr(
        ledger_check, "load_site_identity", lambda *_arguments, **_options: consortium.site("127.0.0.1:1")
    )
    put_back(config, newest)
    assert "2 receipts, each signed by the server; ledger.receipt agrees" in verify_ledger(config)
    (config.state_dir / RECEIPT_NAME).unlink()
    assert "there is no ledger.receipt to compare with" in verify_ledger(config)
    put_back(config, newest.with_name("backup"))
    shutil.copy2(newest / RECEIPT_NAME, config.state_dir)
    with pytest.raises(IntegrityError, match=r"ledger\.receipt holds a signed receipt \(run derm, round 2\)"):
        verify_ledger(config)
    assert len(service.commits) == 2


def test_a_ledger_removed_with_its_records_is_not_begun_anew_unseen(open_agent, rolled_back):
    service, config, _ = rolled_back
    for path in config.state_dir.glob(LEDGER):
        path.unlink()
    shutil.rmtree(config.state_dir / "runs")
    with (
        open_agent(config) as agent,
        pytest.raises(IntegrityError, match="the server holds a signed receipt"),
    ):
        agent.work(until_finished=True)
    assert len(service.commits) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [({"site": "hospital2"}, "is hospital2's; this is hospital1"), ({}, "signature is not")],
)
def test_a_receipt_that_is_not_this_sites_or_not_the_servers_stops_the_agent(
    open_agent, make_config, make_plan, serve, foreign_consortium, change, message
):
    service, config = serve(make_plan()), make_config()
    head = "a" * 64
    receipt = receipts.Receipt(
        "derm", 1, "hospital1", head, head, head, receipts.CommitOutcome.ACCEPTED, received_unix_millis=1
    )
    receipt = replace(receipt, **change)
    key = service.key if change else foreign_consortium.server.key
    service.newest_receipt = receipts.SignedReceipt(receipt, receipts.sign_receipt(receipt, key))
    with open_agent(config) as agent, pytest.raises(IdentityError, match=message):
        agent.work(until_finished=True)
    assert service.commits == []


def test_the_newest_receipt_is_kept_and_an_older_one_does_not_replace_it(consortium, tmp_path):
    key, digest = consortium.server.key, "a" * 64
    for millis in (5, 9, 7):
        receipt = receipts.Receipt(
            "derm", 1, "hospital1", digest, digest, digest, receipts.CommitOutcome.ACCEPTED, millis
        )
        keep_receipt(tmp_path, receipts.SignedReceipt(receipt, receipts.sign_receipt(receipt, key)))
    kept = kept_receipt(tmp_path)
    assert kept.verified(consortium.server.certificate).received_unix_millis == 9
    changed = kept.model_copy(update={"receipt": kept.receipt | {"ledger_head": "b" * 64}})
    with pytest.raises(IdentityError, match="signature is not"):
        changed.verified(consortium.server.certificate)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"receipt": {}, "signature": ""}'])
def test_a_kept_receipt_that_is_none_is_named(tmp_path, consortium, content):
    (tmp_path / RECEIPT_NAME).write_bytes(content)
    with pytest.raises(Exception, match=r"receipt") as refused:
        kept_receipt(tmp_path).verified(consortium.server.certificate)
    assert refused.value.__class__.__name__ in {"IntegrityError", "ConfigError"}
