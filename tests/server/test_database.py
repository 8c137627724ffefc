"""The database: durable settings, one schema version, all or nothing."""

import sqlite3
import stat

import pytest

from adpfl.errors import StateError
from adpfl_server.database import _VERSION_1, SCHEMA_VERSION, open_database, transaction


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
    with pytest.raises(StateError, match=r"no database .* restore its state folder from the backup"):
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


def test_a_database_of_the_first_version_is_brought_up_to_date(tmp_path):
    path = tmp_path / "server.sqlite"
    older = sqlite3.connect(path, isolation_level=None)
    for statement in _VERSION_1:
        older.execute(statement)
    older.execute("PRAGMA user_version=1")
    older.execute("INSERT INTO declarations VALUES ('a', 'skin_lesion', 10, 0.0)")
    older.close()
    connection = open_database(path)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    assert connection.execute("SELECT count(*) FROM timeline_counts").fetchone()[0] == 0
    assert connection.execute("SELECT training_patients FROM declarations").fetchone()[0] == 10
    connection.close()


def test_opening_locks_nothing(tmp_path):
    path = tmp_path / "server.sqlite"
    writer = open_database(path)
    with transaction(writer):
        writer.execute("INSERT INTO declarations VALUES ('a', 'first', 1, 0.0)")
        reader = open_database(path)  # would wait for the writer if it wanted to write
        assert reader.execute("SELECT count(*) FROM declarations").fetchone()[0] == 0
        reader.close()
    writer.close()


def test_a_full_disk_undoes_the_transaction_and_the_next_one_works(tmp_path):
    connection = open_database(tmp_path / "server.sqlite")
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")
    insert = "INSERT INTO declarations VALUES (?, ?, 1, 0.0)"
    with pytest.raises(sqlite3.OperationalError, match="full"), transaction(connection):
        connection.executemany(insert, [("a", "x" * 1000 + str(number)) for number in range(100)])
    connection.execute("PRAGMA max_page_count=1000000")
    assert connection.execute("SELECT count(*) FROM declarations").fetchone()[0] == 0
    with transaction(connection):
        connection.execute(insert, ("a", "after"))
    connection.close()


def test_a_commit_that_fails_leaves_no_transaction_open(tmp_path):
    connection = open_database(tmp_path / "server.sqlite")
    orphan = (
        "PRAGMA defer_foreign_keys=ON",  # checked by the commit itself
        "INSERT INTO offers VALUES ('no such run', 1, 'a', 'x', 0.0)",
    )

    def write():
        with transaction(connection):
            for statement in orphan:
                connection.execute(statement)

    with pytest.raises(sqlite3.IntegrityError):
        write()
    assert not connection.in_transaction
    with transaction(connection):
        connection.execute("INSERT INTO declarations VALUES ('a', 'b', 1, 0.0)")
    connection.close()
