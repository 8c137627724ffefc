"""The audit log: append-only, chained, and compared with what an auditor kept."""

import json
import sqlite3
from datetime import UTC, datetime

import pytest

from adpfl.errors import ConfigError, IntegrityError
from adpfl.security.certificates import Holder, new_key
from adpfl_server.identity import audit_log
from adpfl_server.storage.database import open_database, transaction

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SITE = Holder("site", "hospital1")
PAGE_BYTES = 4096


@pytest.fixture
def database(tmp_path):
    connection = open_database(tmp_path / "server.sqlite")
    yield connection
    connection.close()


@pytest.fixture
def filled(database):
    with transaction(database):
        for number in range(4):
            audit_log.record(database, NOW, "token_issued", subject=SITE, detail=f"number {number}")
    return database


def break_open(database):
    """Do what an administrator with the file could do."""
    database.execute("DROP TRIGGER audit_log_is_never_changed")
    database.execute("DROP TRIGGER audit_log_is_never_cut")


def test_an_empty_log_verifies(database):
    assert audit_log.verify(database) == audit_log.Head(0, audit_log.EMPTY_CHAIN)


def test_entries_are_numbered_and_chained(filled):
    found = audit_log.verify(filled)
    assert found.entries == 4
    assert [entry.sequence for entry in audit_log.entries(filled)] == [1, 2, 3, 4]
    assert [entry.sequence for entry in audit_log.entries(filled, after=1, limit=2)] == [2, 3]
    assert audit_log.head(filled) == found


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET chain = ''", "DELETE FROM audit_log"])
def test_the_database_itself_refuses_changes(filled, statement):
    with pytest.raises(Exception, match="append-only"):
        filled.execute(statement)


def test_an_entry_goes_with_what_it_tells_of(database):
    def fail_after_recording():
        with transaction(database):
            audit_log.record(database, NOW, "revoked", subject=SITE)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_recording()
    assert audit_log.verify(database).entries == 0


def test_an_edited_entry_breaks_the_chain(filled):
    break_open(filled)
    (text,) = filled.execute("SELECT entry_json FROM audit_log WHERE sequence = 2").fetchone()
    document = json.loads(text) | {"detail": "nothing"}
    filled.execute("UPDATE audit_log SET entry_json = ? WHERE sequence = 2", (json.dumps(document),))
    with pytest.raises(IntegrityError, match="entry 2 does not continue the chain"):
        audit_log.verify(filled)


def test_a_removed_entry_is_missed(filled):
    break_open(filled)
    filled.execute("DELETE FROM audit_log WHERE sequence = 3")
    with pytest.raises(IntegrityError, match="entry 4 follows entry 2"):
        audit_log.verify(filled)


def test_an_export_is_signed_and_verifies_by_itself(filled, tmp_path):
    key = new_key()
    path = tmp_path / "log.jsonl"
    head = audit_log.export(filled, path, key)
    lines = audit_log.read_export(path)
    assert audit_log.verify_export(lines, key.public_key(), source="log") == head
    with pytest.raises(IntegrityError, match="not signed by this server"):
        audit_log.verify_export(lines, new_key().public_key(), source="log")
    with pytest.raises(IntegrityError, match="cut short"):
        audit_log.verify_export(lines[:-1], key.public_key(), source="log")
    with pytest.raises(IntegrityError, match=r"do not lead to its head|holds entry"):
        audit_log.verify_export([*lines[:1], *lines[2:]], key.public_key(), source="log")


def test_an_export_that_is_not_there_is_no_broken_one(tmp_path):
    with pytest.raises(ConfigError, match=r"march\.jsonl: there is no such file"):
        audit_log.read_export(tmp_path / "march.jsonl")
    (tmp_path / "march.jsonl").write_bytes(b"\xff")
    with pytest.raises(IntegrityError, match="cannot be read as an exported audit log"):
        audit_log.read_export(tmp_path / "march.jsonl")


def test_a_log_cut_at_its_end_shows_against_an_earlier_export(filled):
    earlier = audit_log.head(filled)
    audit_log.require_continues(filled, earlier, source="march")
    break_open(filled)
    filled.execute("DELETE FROM audit_log WHERE sequence = 4")
    audit_log.verify(filled)  # by itself it looks whole
    with pytest.raises(IntegrityError, match="it was cut"):
        audit_log.require_continues(filled, earlier, source="march")
    with transaction(filled):
        audit_log.record(filled, NOW, "token_issued", detail="another history")
    with pytest.raises(IntegrityError, match="differs from march"):
        audit_log.require_continues(filled, earlier, source="march")


def test_a_page_that_cannot_be_read_is_damage(database, tmp_path):
    with transaction(database):
        for number in range(500):
            audit_log.record(database, NOW, "token_issued", subject=SITE, detail=f"number {number}")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    path = tmp_path / "server.sqlite"
    whole = path.read_bytes()
    place = whole.index(b"number 400")
    page = place - place % PAGE_BYTES
    path.write_bytes(whole[:page] + b"\xff" * PAGE_BYTES + whole[page + PAGE_BYTES :])
    damaged = sqlite3.connect(path)
    damaged.row_factory = sqlite3.Row
    with pytest.raises(IntegrityError, match="the database is damaged"):
        audit_log.verify(damaged)
    damaged.close()
