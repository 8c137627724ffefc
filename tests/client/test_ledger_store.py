"""The ledger on a real disk: durability, tampering, several processes, bad surroundings."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adpfl.errors import (
    BudgetError,
    DiskUnwritableError,
    IdentityError,
    IntegrityError,
    PrivacyError,
    StateError,
    StorageError,
)
from adpfl.privacy.ledger import SCHEMA, LedgerBook, LedgerPolicy, SpendRequest
from adpfl.privacy.plan import FixedThreshold, PaperPrivacy, Sampling
from adpfl_client.ledger_store import LedgerStore

NOW = 1_800_000_000.0
POLICY = LedgerPolicy(epsilon_cap=100.0, delta=1e-5)
PLAN = PaperPrivacy(
    mode="paper",
    nominal_epsilon=1.0,
    reading="multiplier",
    threshold=FixedThreshold(method="fixed", clip_norm=1.0),
    sampling=Sampling(mode="full"),
)
REQUEST = SpendRequest(
    run="first",
    plan_digest="0" * 64,
    privacy=PLAN,
    round_number=1,
    base_digest="b" * 64,
    data_set_id="clinic",
    patients=("ann lee", "bob ray"),
    unit_count=100,
    dimension=1000,
    first_step=0,
    steps=5,
)
DIGEST = "d" * 64
LEDGERS = Path(__file__).parent / "ledgers"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LedgerStore]:
    with LedgerStore.open(tmp_path, NOW) as store:
        yield store


@pytest.fixture
def spent_state(tmp_path: Path) -> Path:
    """A closed ledger with two rounds, the first committed."""
    with LedgerStore.open(tmp_path, NOW) as store:
        made = store.reserve(REQUEST, POLICY, now=NOW)
        store.seal(made.id, DIGEST, now=NOW + 1)
        store.commit(made.id, '{"run":"first"}', now=NOW + 2)
        store.reserve(replace(REQUEST, round_number=2, first_step=5), POLICY, now=NOW + 3)
    return tmp_path


def edit(state_dir: Path, *statements: str) -> None:
    with sqlite3.connect(state_dir / "ledger.sqlite") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def ledger_of_version(version: int, folder: Path) -> dict[str, Any]:
    """Write the files of a ledger that this version of the schema made."""
    document: dict[str, Any] = json.loads((LEDGERS / f"version-{version}.json").read_text(encoding="utf-8"))
    with sqlite3.connect(folder / "ledger.sqlite") as connection:
        connection.execute(document["table"])
        rows = [(*entry[:4], bytes.fromhex(entry[4])) for entry in document["entries"]]
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", rows)
    connection.close()
    (folder / "ledger.key").write_bytes(bytes.fromhex(document["key"]))
    (folder / "ledger.key").chmod(0o600)
    (folder / "ledger.head").write_text(document["head"] + "\n", encoding="ascii")
    return document


def test_a_ledger_of_every_released_version_opens_with_all_that_it_holds(tmp_path: Path) -> None:
    assert {path.name for path in LEDGERS.iterdir()} == {f"version-{n + 1}.json" for n in range(SCHEMA)}
    document = ledger_of_version(1, tmp_path)
    with LedgerStore.open(tmp_path, NOW + 20) as store:
        assert store.head().hex() == document["head"]
        assert [one.status for one in store.reservations("first")] == ["committed", "abandoned", "sealed"]
        assert store.spent("clinic", delta=1e-5).epsilon == pytest.approx(24.656, abs=1e-3)
        assert store.excluded_among(["ann lee", "carl"]) == {"carl"}
        assert [approval.run for approval in store.approvals()] == ["second"]
        made = store.reserve(replace(REQUEST, round_number=3, first_step=10), POLICY, now=NOW + 21)
        assert store.verify().entries == len(document["entries"]) + 1
        assert made.status == "reserved"


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("opened", {"schema": 2}, "ledger schema is 2; this program knows 1"),
        ("loan", {"run": "first"}, "is of kind loan; this version does not know it"),
        ("approved", {"plan_digest": "0" * 64, "until": 9}, "approved. is of another form"),
        ("run", {"run": "first"}, "run. is of another form"),
    ],
)
def test_what_a_newer_program_wrote_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, body: dict[str, Any], message: str
) -> None:
    with LedgerStore.open(tmp_path, NOW) as store, monkeypatch.context() as newer:
        newer.setattr(LedgerBook, "plan_approval", lambda *_, **__: [(kind, body)])
        with pytest.raises(StateError, match=message):
            store.approve("any", "0" * 64, by="a", now=NOW)
    with pytest.raises(StateError, match=message) as refusal:
        LedgerStore.open(tmp_path, NOW)
    assert "\n" not in str(refusal.value)


def test_what_was_spent_is_there_after_reopening(spent_state: Path) -> None:
    with LedgerStore.open(spent_state, NOW) as store:
        first, second = store.reservations("first")
        assert (first.status, first.update_digest, first.receipt_json) == (
            "committed",
            DIGEST,
            '{"run":"first"}',
        )
        assert second.status == "reserved"
        assert store.spent("clinic", delta=1e-5).reservations == 2
        assert store.reservations("other") == ()


def test_a_round_walks_from_reserved_to_committed_and_repeats_change_nothing(store: LedgerStore) -> None:
    made = store.reserve(REQUEST, POLICY, now=NOW)
    heads = [store.head()]
    for _ in range(2):
        store.seal(made.id, DIGEST, now=NOW)
        store.commit(made.id, "{}", now=NOW)
        heads.append(store.head())
    assert len(heads[0]) == 32
    assert heads[0] != heads[1] == heads[2]
    assert store.verify(remembered_head=heads[0]).head == heads[2]


def test_a_refused_reservation_leaves_no_trace(store: LedgerStore) -> None:
    head = store.head()
    with pytest.raises(BudgetError, match="epsilon_cap"):
        store.reserve(REQUEST, POLICY.model_copy(update={"epsilon_cap": 0.1}), now=NOW)
    with pytest.raises(StateError):
        store.seal("first.1.1", DIGEST, now=NOW)
    assert store.head() == head
    assert store.reservations() == ()


def test_files_are_private_and_hold_no_patient(spent_state: Path) -> None:
    for path in spent_state.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
        assert b"ann lee" not in path.read_bytes()
    key = (spent_state / "ledger.key").read_bytes()
    assert key not in (spent_state / "ledger.sqlite").read_bytes()


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (
            ["UPDATE entries SET body = replace(body, '\"steps\":5', '\"steps\":1') WHERE sequence = 4"],
            "entry 4",
        ),
        (["UPDATE entries SET at_millis = at_millis - 1 WHERE sequence = 1"], "entry 1"),
        (["UPDATE entries SET kind = 'opened' WHERE sequence = 5"], "entry 5"),
        (["DELETE FROM entries WHERE sequence = 4"], "entry 4 is missing"),
        (
            [
                "UPDATE entries SET sequence = 99 WHERE sequence = 4",
                "UPDATE entries SET sequence = 4 WHERE sequence = 5",
                "UPDATE entries SET sequence = 5 WHERE sequence = 99",
            ],
            "entry 4",
        ),
        (["DELETE FROM entries WHERE sequence > 4"], "cut off its end"),
        (["DELETE FROM entries"], "cut off its end"),
        (
            ["INSERT INTO entries SELECT 8, at_millis, kind, body, mac FROM entries WHERE sequence = 7"],
            "entry 8",
        ),
    ],
    ids=["edit", "date", "kind", "delete", "reorder", "cut", "empty", "insert"],
)
def test_tampering_stops_the_start(spent_state: Path, statements: list[str], message: str) -> None:
    edit(spent_state, *statements)
    with pytest.raises(IntegrityError, match=message):
        LedgerStore.open(spent_state, NOW)


def test_tampering_under_a_running_agent_stops_the_next_append(spent_state: Path) -> None:
    with LedgerStore.open(spent_state, NOW) as store:
        edit(spent_state, "INSERT INTO entries VALUES (8, 0, 'note', '{}', zeroblob(32))")
        with pytest.raises(IntegrityError, match="entry 8"):
            store.reserve(REQUEST, POLICY, now=NOW + 4)


def test_an_old_copy_put_back_shows(spent_state: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    backup = tmp_path_factory.mktemp("backup") / "ledger.sqlite"
    shutil.copy(spent_state / "ledger.sqlite", backup)
    with LedgerStore.open(spent_state, NOW) as store:
        store.reserve(replace(REQUEST, round_number=3, first_step=10), POLICY, now=NOW + 4)
    shutil.copy(backup, spent_state / "ledger.sqlite")
    with pytest.raises(IntegrityError, match="old copy was put back"):
        LedgerStore.open(spent_state, NOW)


def test_a_whole_folder_put_back_shows_against_the_servers_receipt(
    spent_state: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    backup = tmp_path_factory.mktemp("backup") / "state"
    shutil.copytree(spent_state, backup)
    with LedgerStore.open(spent_state, NOW) as store:
        store.reserve(replace(REQUEST, round_number=3, first_step=10), POLICY, now=NOW + 4)
        receipt_head = store.head()
    with LedgerStore.open(backup, NOW) as rolled_back, pytest.raises(IntegrityError, match="remembered head"):
        rolled_back.verify(remembered_head=receipt_head)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("ledger.sqlite", "remembers a ledger"),
        ("ledger.key", "remembers a ledger"),
        ("ledger.head", "was removed"),
    ],
)
def test_a_missing_file_is_not_taken_for_a_fresh_start(spent_state: Path, missing: str, message: str) -> None:
    (spent_state / missing).unlink()
    with pytest.raises(IntegrityError, match=message):
        LedgerStore.open(spent_state, NOW)


@pytest.mark.parametrize(
    "survivors", [set(), {"ledger.key"}, {"ledger.key", "ledger.sqlite"}], ids=["head", "key", "database"]
)
def test_a_crash_while_the_ledger_is_made_leaves_one_that_opens(tmp_path: Path, survivors: set[str]) -> None:
    LedgerStore.open(tmp_path, NOW).close()
    for path in tmp_path.iterdir():
        if path.name not in survivors:
            path.unlink()
    (tmp_path / "ledger.head").write_text("00" * 32)  # written first, naming no entry
    with LedgerStore.open(tmp_path, NOW) as store:
        assert store.verify().entries == 1
    assert (tmp_path / "ledger.head").read_text() != "00" * 32


@pytest.mark.parametrize("head", [None, "00" * 32])
def test_a_ledger_is_not_begun_anew_beside_the_records_of_runs(spent_state: Path, head: str | None) -> None:
    for path in spent_state.iterdir():
        path.unlink()
    (spent_state / "runs" / "first").mkdir(parents=True)
    if head is not None:
        (spent_state / "ledger.head").write_text(head)
    with pytest.raises(
        IntegrityError, match="runs/first is the record of an earlier run; the ledger was removed"
    ):
        LedgerStore.open(spent_state, NOW)


@pytest.mark.parametrize("left", [{"ledger.key"}, {"ledger.sqlite"}, {"ledger.key", "ledger.sqlite"}])
def test_removed_files_are_not_taken_for_a_half_made_ledger(spent_state: Path, left: set[str]) -> None:
    for path in spent_state.iterdir():
        if path.name not in left:
            path.unlink()
    with pytest.raises(IntegrityError, match=r"ledger\.head: is missing beside .*; it was removed"):
        LedgerStore.open(spent_state, NOW)


def test_a_key_that_others_can_read_is_refused(spent_state: Path) -> None:
    (spent_state / "ledger.key").chmod(0o640)
    with pytest.raises(IdentityError, match=r"mode is 0640; .* chmod 600"):
        LedgerStore.open(spent_state, NOW)


def test_a_file_that_is_no_database_is_named(spent_state: Path) -> None:
    (spent_state / "ledger.sqlite").write_bytes(b"not a database, but as long as one" * 100)
    with pytest.raises(IntegrityError, match=r"ledger\.sqlite: the ledger cannot be opened"):
        LedgerStore.open(spent_state, NOW)


def test_a_full_disk_refuses_the_reservation_and_spends_nothing(store: LedgerStore) -> None:
    store._connection.execute("PRAGMA max_page_count = 5")
    crowd = replace(REQUEST, patients=tuple(f"patient {number}" for number in range(5000)))
    with pytest.raises(StorageError, match=r"nothing may be released: .* full"):
        store.reserve(crowd, POLICY, now=NOW)
    assert store.reservations() == ()
    store._connection.execute("PRAGMA max_page_count = 1000000")
    assert store.reserve(crowd, POLICY, now=NOW).status == "reserved"


def test_a_clock_that_ran_backwards_is_refused_until_acknowledged(store: LedgerStore) -> None:
    store.reserve(REQUEST, POLICY, now=NOW)
    later = replace(REQUEST, round_number=2, first_step=5)
    store.reserve(later, POLICY, now=NOW - 299)
    latest = replace(later, round_number=3, first_step=10)
    with pytest.raises(BudgetError, match=r"clock is 3600 s behind .* acknowledge-clock"):
        store.reserve(latest, POLICY, now=NOW - 3600)
    store.acknowledge_clock(by="Dr. Ada", reason="time zone was wrong", now=NOW - 3600)
    assert store.reserve(latest, POLICY, now=NOW - 3800).status == "reserved"


def test_a_clock_that_steps_back_a_little_again_and_again_is_refused(store: LedgerStore) -> None:
    store.reserve(REQUEST, POLICY, now=NOW)
    store.reserve(replace(REQUEST, round_number=2, first_step=5), POLICY, now=NOW - 250)
    with pytest.raises(BudgetError, match="clock is 500 s behind"):
        store.reserve(replace(REQUEST, round_number=3, first_step=10), POLICY, now=NOW - 500)


def test_two_openings_of_one_ledger_see_each_other(tmp_path: Path) -> None:
    with LedgerStore.open(tmp_path, NOW) as agent, LedgerStore.open(tmp_path, NOW) as command:
        made = agent.reserve(REQUEST, POLICY, now=NOW)
        assert command.reservations()[0].id == made.id
        command.reserve(replace(REQUEST, round_number=2, first_step=5), POLICY, now=NOW)
        agent.seal(made.id, DIGEST, now=NOW)
        assert agent.head() == command.head()
        assert agent.verify().entries == command.verify().entries


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from test_ledger_store import REQUEST, POLICY, NOW
from adpfl_client.ledger_store import LedgerStore
store = LedgerStore.open(Path(sys.argv[1]), NOW)
store.reserve(REQUEST, POLICY, now=NOW)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_reservation_outlives_the_process_that_made_it(tmp_path: Path) -> None:
    here = Path(__file__).parent
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), str(here), str(here.parents[1])]
    killed = subprocess.run(arguments, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert killed.returncode == -9
    with LedgerStore.open(tmp_path, NOW) as store:
        assert [kept.status for kept in store.reservations()] == ["reserved"]
        again = store.reserve(REQUEST, POLICY, now=NOW)
        assert again.attempt == 2
        assert store.spent("clinic", delta=1e-5).reservations == 2


def test_a_disk_too_full_for_the_head_refuses_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LedgerStore.open(tmp_path, NOW) as store:
        entries = store.verify().entries
        with monkeypatch.context() as patched:
            patched.setattr("adpfl_client.ledger_files.os.fsync", _no_space)
            with pytest.raises(StorageError, match="No space left"):
                store.reserve(REQUEST, POLICY, now=NOW)
        assert store.verify().entries == entries
    with LedgerStore.open(tmp_path, NOW) as store:
        assert store.reservations() == ()


@pytest.mark.parametrize(
    ("code", "told"),
    [(sqlite3.SQLITE_IOERR_DIR_FSYNC, StorageError), (sqlite3.SQLITE_FULL, DiskUnwritableError)],
)
def test_a_commit_that_may_have_been_kept_is_not_told_as_if_nothing_was_spent(
    store: LedgerStore, monkeypatch: pytest.MonkeyPatch, code: int, told: type[StorageError]
) -> None:
    class Failing:
        def __getattr__(self, name: str) -> object:
            return getattr(connection, name)

        def execute(self, statement: str, *parameters: object) -> sqlite3.Cursor:
            if statement == "COMMIT":
                error = sqlite3.OperationalError("the disk refuses")
                error.sqlite_errorcode = code
                raise error
            return connection.execute(statement, *parameters)

    connection = store._connection
    monkeypatch.setattr(store, "_connection", Failing())
    with pytest.raises(StorageError) as error:
        store.reserve(REQUEST, POLICY, now=NOW)
    assert error.type is told


def _no_space(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_head_left_behind_by_a_crash_is_mended_at_the_next_start(spent_state: Path) -> None:
    head = spent_state / "ledger.head"
    newest = head.read_text()
    with sqlite3.connect(spent_state / "ledger.sqlite") as connection:
        (older,) = connection.execute("SELECT hex(mac) FROM entries WHERE sequence = 5").fetchone()
    connection.close()
    head.write_text(older.lower())
    LedgerStore.open(spent_state, NOW).close()
    assert head.read_text() == newest
    edit(spent_state, "DELETE FROM entries WHERE sequence > 5")
    with pytest.raises(IntegrityError, match="cut off its end"):
        LedgerStore.open(spent_state, NOW)


def test_a_tail_cut_under_a_running_agent_stops_it(spent_state: Path) -> None:
    with LedgerStore.open(spent_state, NOW) as store:
        edit(spent_state, "DELETE FROM entries WHERE sequence > 4")
        with pytest.raises(IntegrityError, match="is gone or was changed while the ledger was open"):
            store.reserve(replace(REQUEST, round_number=3, first_step=10), POLICY, now=NOW + 4)
        with pytest.raises(IntegrityError):
            store.spent("clinic", delta=1e-5)


def test_a_database_exchanged_under_a_running_agent_stops_it(spent_state: Path) -> None:
    with LedgerStore.open(spent_state, NOW) as store:
        shutil.copy(spent_state / "ledger.sqlite", spent_state / "copy")
        (spent_state / "copy").replace(spent_state / "ledger.sqlite")
        with pytest.raises(IntegrityError, match="was replaced while the ledger was open"):
            store.reserve(replace(REQUEST, round_number=3, first_step=10), POLICY, now=NOW + 4)


REBUILT = (
    "CREATE TABLE copy (sequence INTEGER, at_millis INTEGER, kind TEXT, body TEXT, mac BLOB)",
    "INSERT INTO copy SELECT * FROM entries",
    "DROP TABLE entries",
    "ALTER TABLE copy RENAME TO entries",
)


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TRIGGER forget AFTER INSERT ON entries BEGIN DELETE FROM entries WHERE sequence > 7; END",),
        (*REBUILT, "INSERT INTO entries SELECT * FROM entries WHERE sequence = 5"),
        (*REBUILT, "UPDATE entries SET mac = 'text', at_millis = 'now' WHERE sequence = 5"),
        (
            "ALTER TABLE entries RENAME TO kept",
            "CREATE VIEW entries AS SELECT * FROM kept WHERE sequence < 5",
        ),
    ],
    ids=["trigger", "duplicate", "types", "view"],
)
def test_a_database_of_another_structure_stops_the_start(
    spent_state: Path, statements: tuple[str, ...]
) -> None:
    edit(spent_state, *statements)
    with pytest.raises(IntegrityError, match="another structure"):
        LedgerStore.open(spent_state, NOW)


def test_a_row_of_another_type_under_a_running_agent_stops_it(spent_state: Path) -> None:
    with LedgerStore.open(spent_state, NOW) as store:
        edit(spent_state, *REBUILT, "INSERT INTO entries VALUES (8, 'now', 'note', '{}', 'text')")
        with pytest.raises(IntegrityError, match="not of the ledger's form"):
            store.head()


def test_opening_again_does_not_drop_the_locks_of_the_first(tmp_path: Path) -> None:
    """POSIX drops a process's locks on a file when it closes any descriptor of it."""
    with LedgerStore.open(tmp_path, NOW) as store:
        store._connection.execute("BEGIN IMMEDIATE")
        LedgerStore.open(tmp_path, NOW).close()
        other = [sys.executable, "-c", OTHER_WRITER, str(tmp_path / "ledger.sqlite")]
        assert subprocess.run(other, check=False).returncode == 7
        store._connection.execute("ROLLBACK")


OTHER_WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    connection.execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError:
    sys.exit(7)
"""


def test_an_excluded_patient_is_refused_and_leaves_no_name(store: LedgerStore, tmp_path: Path) -> None:
    store.exclude(" bob ray", reason="withdrew consent", by="Dr. Ada", now=NOW)
    head = store.head()
    store.exclude("bob ray", reason="again", by="Dr. Ada", now=NOW)
    assert store.head() == head
    assert store.excluded_among(["ann lee", "bob ray"]) == {"bob ray"}
    with pytest.raises(PrivacyError, match="1 who are excluded; their data must not be touched") as refused:
        store.reserve(REQUEST, POLICY, now=NOW)
    assert "bob" not in str(refused.value)
    # The place stays: the declared number of units is the same, and so is the charge.
    made = store.reserve(replace(REQUEST, patients=("ann lee",)), POLICY, now=NOW)
    assert made.patients == 1
    terms = store.terms("first")
    assert terms is not None
    assert terms.unit_count == 100
    assert b"bob" not in (tmp_path / "ledger.sqlite").read_bytes()
    (exclusion,) = store.exclusions()
    assert (exclusion.reason, exclusion.by) == ("withdrew consent", "Dr. Ada")


def test_an_approval_is_kept_for_the_very_plan(store: LedgerStore) -> None:
    store.approve("first", "a" * 64, by="Dr. Ada", now=NOW)
    store.approve("first", "a" * 64, by="Dr. Bea", now=NOW)
    (approval,) = store.approvals()
    assert (approval.plan_digest, approval.by) == ("a" * 64, "Dr. Ada")


def test_a_schema_that_is_no_text_any_more_is_damage(spent_state: Path) -> None:
    """SQLite quotes what it cannot parse in its message, and Python cannot decode the quotation."""
    path = spent_state / "ledger.sqlite"
    data = bytearray(path.read_bytes())
    data[data.index(b"CREATE TABLE") - 10] = 0xFF
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        LedgerStore.open(spent_state, NOW)
