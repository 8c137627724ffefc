"""A ledger that somebody edited, cut, exchanged or put back, at rest or under a running agent."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from adpfl.errors import (
    IdentityError,
    IntegrityError,
)
from adpfl_client.ledger_store import LedgerStore
from tests.client.spending import NOW, POLICY, REQUEST, edit


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


def test_a_schema_that_is_no_text_any_more_is_damage(spent_state: Path) -> None:
    """SQLite quotes what it cannot parse in its message, and Python cannot decode the quotation."""
    path = spent_state / "ledger.sqlite"
    data = bytearray(path.read_bytes())
    data[data.index(b"CREATE TABLE") - 10] = 0xFF
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        LedgerStore.open(spent_state, NOW)
