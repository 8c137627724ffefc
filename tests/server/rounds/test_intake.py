"""Decisions and rows together: what the database thread does between a call and its answer."""

import sqlite3

import numpy as np
import pytest

from adpfl.federated.coordinator import new_run
from adpfl.federated.round_models import RoundModels
from adpfl.federated.run_events import SiteJoined, SiteReady, TimePassed
from adpfl.federated.run_plan import RunPlan
from adpfl.wire.chunks import iter_chunks, manifest_of_arrays, sha256_hex
from adpfl.wire.receipts import CommitOutcome, Receipt
from adpfl.wire.transfers import CommitUpdateRequest, OfferRequest
from adpfl_server.limits.refusals import CallRefusedError, Code
from adpfl_server.rounds.intake import Intake, RunBook
from adpfl_server.storage.timeline_rows import EVENTS_PER_ROUND
from adpfl_server.store import Store

SITES = ("hospital1", "hospital2", "hospital3")


class Desk:
    """A run book and an intake on a real store, with a clock that a test sets."""

    def __init__(self, store, plan):
        self.store = store
        self.now = 1000.0
        self.seen = []
        self.book = RunBook(store, lambda: self.now, lambda run, moved: self.seen.append((run, moved)))
        self.intake = Intake(self.book, lambda receipt: b"signed " + receipt.canonical_json())
        self.base = self.keep(0)
        self.book.add(new_run(RunPlan.model_validate(plan), self.base.digest, self.now), self.base)

    def keep(self, seed):
        arrays = {"w": np.full(10, seed, np.float32)}
        for chunk in iter_chunks(arrays, 65_536):
            self.store.blobs.put(sha256_hex(chunk), chunk)
        return manifest_of_arrays(arrays, chunk_size=65_536)

    def join_all(self):
        for number, site in enumerate(SITES):
            self.book.advance("demo", SiteJoined(site, f"{number}" * 32, 10))
            self.book.advance("demo", SiteReady(site))
        return self

    def offer(self, site, manifest, round_number=1, base=None):
        return self.intake.offer(site, OfferRequest("demo", round_number, base or self.base.digest, manifest))

    def commit(self, site, manifest, round_number=1, base=None):
        request = CommitUpdateRequest("demo", round_number, base or self.base.digest, manifest.digest)
        return self.intake.commit(site, request)

    def send(self, site, seed):
        manifest = self.keep(seed)
        self.offer(site, manifest)
        return self.commit(site, manifest)

    def kinds(self):
        return [entry.kind for entry in self.store.record("demo").timeline]


@pytest.fixture
def desk(tmp_path, consortium):
    store = Store(tmp_path / "own")
    yield Desk(store, consortium.plan())
    store.close()


def test_a_receipt_is_stored_with_the_transition_it_acknowledges(desk):
    desk.join_all()
    row = desk.send("hospital1", 1)
    receipt = Receipt.from_canonical_json(row.receipt_json)
    assert receipt.outcome is CommitOutcome.ACCEPTED
    assert receipt.received_unix_millis == 1_000_000
    assert row.signature == b"signed " + row.receipt_json
    assert desk.store.commit_row("demo", 1, "hospital1") == row
    assert desk.store.state("demo") == desk.book.states["demo"]


def test_when_the_database_fails_nothing_has_happened(desk, monkeypatch):
    desk.join_all()
    manifest = desk.keep(1)
    desk.offer("hospital1", manifest)
    before, seen = desk.book.states["demo"], len(desk.seen)

    def full(connection, row):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("adpfl_server.rounds.intake.insert_commit", full)
    with pytest.raises(sqlite3.OperationalError):
        desk.commit("hospital1", manifest)
    assert desk.book.states["demo"] == before == desk.store.state("demo")
    assert len(desk.seen) == seen
    monkeypatch.undo()
    assert Receipt.from_canonical_json(desk.commit("hospital1", manifest).receipt_json).round == 1


def test_a_result_whose_chunks_are_gone_is_not_published(desk):
    desk.join_all()
    for seed, site in enumerate(SITES, start=1):
        desk.send(site, seed)
    result = desk.keep(9)
    desk.store.blobs.drop(result.chunk_digests[0])
    assert not desk.book.close_round("demo", 1, RoundModels(result))
    assert desk.book.states["demo"].rounds_closed == 0
    assert desk.book.close_round("demo", 1, RoundModels(desk.keep(9)))
    assert desk.store.model_digest("demo", 1) == result.digest


def test_updates_of_another_history_are_refused_and_noted_in_every_round(desk):
    desk.join_all()
    for seed, site in enumerate(SITES[:2], start=1):
        desk.send(site, seed)
    stranger = desk.keep(77)
    for call in (desk.offer, desk.commit):
        with pytest.raises(CallRefusedError) as refusal:
            call("hospital3", stranger, base="ab" * 32)
        assert refusal.value.code is Code.FAILED_PRECONDITION
    desk.send("hospital3", 3)
    desk.book.close_round("demo", 1, RoundModels(desk.keep(9)))
    with pytest.raises(CallRefusedError, match="another history"):
        desk.intake.commit("hospital3", CommitUpdateRequest("demo", 2, "ab" * 32, stranger.digest))
    assert desk.kinds().count("update_foreign") == 3


def test_repeated_and_contradicting_updates_are_counted_not_kept(desk):
    desk.join_all()
    row = desk.send("hospital1", 1)
    manifest = desk.keep(1)
    for number in range(30):
        assert desk.commit("hospital1", manifest) == row
        with pytest.raises(CallRefusedError) as refusal:
            desk.commit("hospital1", desk.keep(100 + number))
        assert refusal.value.code is Code.ALREADY_EXISTS
        with pytest.raises(CallRefusedError):  # of a round that the caller makes up
            desk.commit("hospital2", manifest, round_number=2 + number)
    kinds = desk.kinds()
    for kind in ("update_repeated", "update_conflicting", "update_foreign"):
        assert kinds.count(kind) == EVENTS_PER_ROUND + 1
    told = [entry for _, moved in desk.seen for entry in moved.timeline]
    assert len(told) == len(kinds) - 3  # the log hears of the same entries, without the three sums


def test_the_update_that_counts_contradicts_itself_from_another_base(desk):
    desk.join_all()
    desk.send("hospital1", 1)
    with pytest.raises(CallRefusedError, match="has committed update") as refusal:
        desk.commit("hospital1", desk.keep(1), base="ab" * 32)
    assert refusal.value.code is Code.ALREADY_EXISTS
    assert desk.kinds()[-1] == "update_conflicting"


def test_the_end_of_a_push_takes_no_chunk_that_a_model_shares(desk):
    """A layer that training left alone is the same chunk in the update as in the model."""
    desk.join_all()
    past = desk.keep(5)
    for manifest in (desk.base, past):
        desk.intake.end_push("hospital1", "demo", 1, manifest)
    assert [desk.store.blobs.has(one.chunk_digests[0]) for one in (desk.base, past)] == [True, False]


def test_a_late_update_needs_no_bytes_and_is_answered_once(desk):
    desk.join_all()
    for seed, site in enumerate(SITES[:2], start=1):
        desk.send(site, seed)
    desk.now += 1e6
    desk.book.advance("demo", TimePassed())
    late = manifest_of_arrays({"w": np.full(10, 5, np.float32)}, chunk_size=65_536)
    assert desk.offer("hospital3", late) == ()
    row = desk.commit("hospital3", late)
    assert Receipt.from_canonical_json(row.receipt_json).outcome is CommitOutcome.LATE
    assert desk.commit("hospital3", late) == row
    assert desk.kinds()[-2:] == ["update_late", "update_repeated"]
    assert desk.intake.pushed_manifest("hospital3", "demo", 1, late.digest) is None


def test_resuming_reads_the_disk_and_says_so(desk):
    desk.join_all()
    desk.send("hospital1", 1)
    before = desk.book.states.pop("demo")
    desk.book.resume("demo")
    assert desk.book.states["demo"] == before
    assert desk.kinds()[-1] == "server_restarted"


def test_an_event_that_changes_nothing_writes_nothing(desk):
    desk.join_all()
    changes = desk.store.connection.total_changes
    desk.book.advance("demo", SiteJoined("hospital1", "0" * 32, 10))
    assert desk.store.connection.total_changes == changes
