"""The database: durable settings, one schema version, all or nothing."""

import sqlite3
import stat

import pytest

from adpfl.errors import StateError
from adpfl_server.database import SCHEMA_VERSION, open_database, transaction


def test_it_is_durable_private_and_checks_foreign_keys(tmp_path):
    connection = open_database(tmp_path / "new" / "server.sqlite")
    values = {
        pragma: connection.execute(f"PRAGMA {pragma}").fetchone()[0]
        for pragma in ("journal_mode", "synchronous", "foreign_keys", "user_version")
    }
    assert values == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "user_version": SCHEMA_VERSION,
    }
    assert stat.S_IMODE((tmp_path / "new" / "server.sqlite").stat().st_mode) == 0o600
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO offers VALUES ('no such run', 1, 'a', 'x', 0.0)")
    connection.close()


def test_it_opens_again(tmp_path):
    for _ in range(2):
        open_database(tmp_path / "server.sqlite").close()


def test_another_version_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "server.sqlite"
    connection = open_database(path)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StateError, match=f"schema version {SCHEMA_VERSION + 1}"):
        open_database(path)


def test_what_is_no_database_is_refused(tmp_path):
    path = tmp_path / "server.sqlite"
    path.write_bytes(b"this is a text, not a database" * 100)
    with pytest.raises(StateError, match="cannot be opened"):
        open_database(path)


def test_a_transaction_is_all_or_nothing(tmp_path):
    connection = open_database(tmp_path / "server.sqlite")
    insert = "INSERT INTO declarations VALUES ('a', ?, 1, 0.0)"
    with pytest.raises(sqlite3.IntegrityError), transaction(connection):
        connection.executemany(insert, [("first",), ("first",)])
    with transaction(connection):
        connection.execute(insert, ("second",))
    assert [row["task"] for row in connection.execute("SELECT task FROM declarations")] == ["second"]
    connection.close()
