"""The ledger on a real disk: durability, several processes, bad surroundings."""

import json
import os
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
    IntegrityError,
    PrivacyError,
    StateError,
    StorageError,
)
from adpfl.privacy.ledger import SCHEMA, LedgerBook
from adpfl_client.ledger_store import LedgerStore
from tests.client.spending import DIGEST, NOW, POLICY, REQUEST, edit

LEDGERS = Path(__file__).parent / "ledgers"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LedgerStore]:
    with LedgerStore.open(tmp_path, NOW) as store:
        yield store


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
sys.path.insert(0, sys.argv[2])
from tests.client.spending import REQUEST, POLICY, NOW
from adpfl_client.ledger_store import LedgerStore
store = LedgerStore.open(Path(sys.argv[1]), NOW)
store.reserve(REQUEST, POLICY, now=NOW)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_reservation_outlives_the_process_that_made_it(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parents[2])]
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
            patched.setattr("adpfl_client.ledger.ledger_files.os.fsync", _no_space)
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
