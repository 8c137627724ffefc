"""What the store keeps and forgets: transitions whole, past objects dropped, shared chunks kept."""

import sqlite3

import numpy as np
import pytest

from adpfl.errors import StateError
from adpfl.federated.coordinator import new_run, step
from adpfl.federated.round_models import RoundModels
from adpfl.federated.run_events import (
    AggregationDone,
    SiteFellSilent,
    SiteHeard,
    SiteJoined,
    SiteReady,
    SiteRefused,
    TimePassed,
    Transition,
    UpdateArrived,
)
from adpfl.federated.run_plan import RunPlan
from adpfl.wire.chunks import iter_chunks, manifest_of_arrays, sha256_hex
from adpfl_server.limits.refusals import CallRefusedError, Code
from adpfl_server.storage.database import transaction
from adpfl_server.storage.timeline_rows import EVENTS_PER_ROUND
from adpfl_server.store import TASKS_PER_SITE, CommitRow, Store, insert_commit

CHUNK = 65_536


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path)
    yield opened
    opened.close()


def keep(store, *values):
    """Store an object of one chunk a value."""
    arrays = {"w": np.repeat(np.array(values, np.float32), CHUNK // 4)}
    for chunk in iter_chunks(arrays, CHUNK):
        store.blobs.put(sha256_hex(chunk), chunk)
    return manifest_of_arrays(arrays, chunk_size=CHUNK)


def create(store, consortium, manifest, **changes):
    plan = RunPlan.model_validate(consortium.plan(rounds=5, **changes))
    created = new_run(plan, manifest.digest, 0.0)
    store.create_run(created, manifest, 0.0)
    return created.state


def advance(store, state, event, result=None):
    moved = step(state, event, 1.0)
    store.save(state.plan.run, moved, result=result)
    return moved.state


def test_a_run_comes_back_as_it_was(store, consortium):
    state = create(store, consortium, keep(store, 1.0))
    assert store.state("demo") == state
    state = advance(store, state, SiteJoined("hospital1", "0" * 32, 10))
    assert store.state("demo") == state
    record = store.record("demo")
    assert [entry.kind for entry in record.timeline] == ["run_created", "site_joined"]
    assert record.training_patients == {"hospital1": 10}


def test_a_transition_and_the_rows_beside_it_are_one(store, consortium):
    state = create(store, consortium, keep(store, 1.0))
    moved = step(state, SiteJoined("hospital1", "0" * 32, 10), 1.0)

    def fail(connection):
        raise sqlite3.OperationalError("disk full")

    with pytest.raises(sqlite3.OperationalError):
        store.save("demo", moved, also=fail)
    assert store.state("demo") == state
    assert len(store.record("demo").timeline) == 1


def test_an_unknown_run_is_named(store):
    with pytest.raises(StateError, match="no run other"):
        store.state("other")


def play_round(store, state, update, result, number):
    for site in ("hospital1", "hospital2"):
        store.add_offer("demo", number, site, update, 0.0)
        state = advance(store, state, UpdateArrived(site, number, state.model_digest, update.digest))
    state = advance(store, state, SiteJoined("hospital3", f"{number:032x}", 10))
    state = step(state, TimePassed(), 1e9).state
    state = advance(store, state, AggregationDone(number, result.digest), RoundModels(result))
    assert store.collect(keep_models=2)
    return state


def test_past_rounds_are_forgotten_and_shared_chunks_kept(store, consortium):
    initial, shared = keep(store, 1.0), 100.0
    state = create(store, consortium, initial)
    for number, site in enumerate(("hospital1", "hospital2")):
        state = advance(store, state, SiteJoined(site, f"{number}" * 32, 10))
        state = advance(store, state, SiteReady(site))
    other = keep(store, shared, 7.0)
    create(store, consortium, other, run="other")

    update, first = keep(store, 2.0, shared), keep(store, 3.0)
    state = play_round(store, state, update, first, 1)
    assert store.manifest(update.digest) is None
    assert store.offered("demo", 1, "hospital1", update.digest) is None
    assert not store.blobs.has(update.chunk_digests[0])
    assert store.blobs.has(update.chunk_digests[1])  # the other run's model names it too
    assert store.missing(other) == ()
    assert store.missing(initial) == ()  # the newest two models stay

    second = keep(store, 4.0)
    play_round(store, state, keep(store, 5.0), second, 2)
    assert store.manifest(initial.digest) is None
    assert not store.blobs.has(initial.chunk_digests[0])
    assert store.missing(first) == store.missing(second) == ()
    # What is forgotten is still known by name, so that a late commit's base can be checked.
    assert store.model_digest("demo", 0) == initial.digest


def test_a_sweep_removes_only_what_no_object_names(store, consortium):
    manifest = keep(store, 1.0)
    create(store, consortium, manifest)
    orphan = keep(store, 9.0)
    store.sweep()
    assert store.missing(manifest) == ()
    assert store.missing(orphan) == orphan.chunk_digests


def test_offers_are_bounded_and_repeatable(store, consortium):
    create(store, consortium, keep(store, 1.0))
    offers = [keep(store, 10.0 + number) for number in range(5)]
    for manifest in [*offers[:4], offers[0]]:
        store.add_offer("demo", 1, "hospital1", manifest, 0.0)
    with pytest.raises(CallRefusedError) as refusal:
        store.add_offer("demo", 1, "hospital1", offers[4], 0.0)
    assert refusal.value.code is Code.RESOURCE_EXHAUSTED
    store.add_offer("demo", 1, "hospital2", offers[4], 0.0)
    assert store.offered("demo", 1, "hospital2", offers[0].digest) is None


def test_a_refused_declaration_keeps_nothing(store):
    store.declare("hospital1", {"skin": 10}, 0.0)
    with pytest.raises(CallRefusedError):
        store.declare("hospital1", {"kidney": 5, "skin": 11}, 0.0)
    store.declare("hospital1", {"kidney": 6, "skin": 10}, 0.0)


def test_what_a_site_repeats_is_counted_and_does_not_grow(store, consortium):
    state = create(store, consortium, keep(store, 1.0))
    state = advance(store, state, SiteJoined("hospital1", "0" * 32, 10))
    sizes = []
    for number in range(200):  # an agent that refuses, restarts, and refuses for another reason
        state = advance(store, state, SiteJoined("hospital1", f"{number + 1:032x}", 10))
        moved = step(state, SiteRefused("hospital1", f"{number:03}" + "x" * 900), 2.0 + number)
        kept = store.save("demo", moved)
        assert len(kept) == (number < EVENTS_PER_ROUND)
        state = moved.state
        sizes.append(len(store.record("demo").model_dump_json()))
    assert sizes[199] - sizes[10] < 10
    refusals = [event for event in store.record("demo").timeline if event.kind == "site_refused"]
    assert len(refusals) == EVENTS_PER_ROUND + 1
    assert refusals[-1].detail.startswith("195 more like these")
    assert (refusals[-1].site, refusals[-1].round) == ("hospital1", None)
    assert refusals[-1].at_unix_seconds == 201.0
    (rows,) = store.connection.execute("SELECT count(*) FROM timeline").fetchone()
    assert rows == 2 + 2 * EVENTS_PER_ROUND
    # Others, other kinds and what the server itself has to say are not crowded out.
    moved = step(state, SiteJoined("hospital2", "1" * 32, 10), 300.0)
    assert store.save("demo", moved) == moved.timeline
    assert store.record("demo").timeline[-1].kind == "site_joined"


def test_each_round_has_room_of_its_own(store, consortium):
    state = create(store, consortium, keep(store, 1.0))
    for number, site in enumerate(("hospital1", "hospital2")):
        state = advance(store, state, SiteJoined(site, f"{number}" * 32, 10))
    for number in range(10):
        state = advance(store, state, SiteJoined("hospital1", f"{number:032x}", 10))
    for site in ("hospital1", "hospital2"):
        state = advance(store, state, SiteReady(site))
    assert state.open_round.round == 1
    for _ in range(10):
        state = advance(store, state, SiteFellSilent("hospital2"))
        state = advance(store, state, SiteHeard("hospital2"))
    state = advance(store, state, SiteJoined("hospital1", "f" * 32, 10))
    events = [(event.kind, event.round) for event in store.record("demo").timeline]
    assert events.count(("site_rejoined", None)) == EVENTS_PER_ROUND + 1
    assert events.count(("site_rejoined", 1)) == 1
    assert events.count(("site_lost", 1)) == EVENTS_PER_ROUND + 1


def test_a_site_declares_itself_for_a_bounded_number_of_tasks(store):
    for number in range(TASKS_PER_SITE):
        store.declare("hospital1", {f"task{number}": 1}, 0.0)
    with pytest.raises(CallRefusedError, match="no more are kept") as refusal:
        store.declare("hospital1", {"another": 1}, 0.0)
    assert refusal.value.code is Code.RESOURCE_EXHAUSTED
    store.declare("hospital1", {"task3": 1}, 0.0)
    store.declare("hospital2", {"another": 1}, 0.0)


def test_a_state_folder_that_cannot_be_used_is_one_clear_error(tmp_path):
    (tmp_path / "blobs").write_text("a file where a folder belongs")
    with pytest.raises(StateError, match="blobs: cannot be used"):
        Store(tmp_path)


def test_state_of_another_version_is_refused(store, consortium):
    state = create(store, consortium, keep(store, 1.0))
    store.save("demo", Transition(state))
    store.connection.execute("UPDATE runs SET state_json = json_set(state_json, '$.schema_version', 9)")
    with pytest.raises(StateError, match="cannot be read by this version"):
        store.state("demo")


def test_the_newest_receipt_is_the_last_that_was_written_with_a_head_over_all_runs(store, consortium):
    for run in ("demo", "other"):
        create(store, consortium, keep(store, 1.0), run=run)
    assert store.newest_receipt("hospital1") is None
    written = [
        ("other", 1, "hospital1", "a" * 64, 9.0),
        ("demo", 1, "hospital1", "b" * 64, 3.0),  # the clock was set back
        ("demo", 2, "hospital1", "", 4.0),
        ("demo", 1, "hospital2", "c" * 64, 5.0),
    ]
    for run, number, site, head, at in written:
        with transaction(store.connection) as connection:
            insert_commit(connection, CommitRow(run, number, site, "d" * 64, "e" * 64, head, b"{}", b"s", at))
    assert store.newest_receipt("hospital1").ledger_head == "b" * 64
    assert store.newest_receipt("hospital2").ledger_head == "c" * 64
    assert store.newest_receipt("hospital3") is None
