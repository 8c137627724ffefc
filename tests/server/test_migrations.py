"""Every schema version that was ever released is brought to the newest: rows kept, all of it or nothing.

`databases/version-N.sql` is the dump of a small database as version N of the schema made it, with at least
one row in every table. A new version of the schema comes with the dump of the one before it.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from adpfl.errors import StateError
from adpfl_server.identity import audit_log
from adpfl_server.storage.database import backup_path, open_database, open_read_only
from adpfl_server.storage.schema import SCHEMA_VERSION
from adpfl_server.store import DATABASE_FILE, Store

DUMPS = Path(__file__).parent / "databases"
OLDER = range(1, SCHEMA_VERSION)
RENAMED = {("enrollment_tokens", "site"): "name", ("certificates", "site"): "name"}

KILLED_AT = """
import os, signal, sqlite3, sys
from pathlib import Path
from adpfl_server.storage import database

WRITES = ("BEGIN", "CREATE", "ALTER", "INSERT", "UPDATE", "DROP", "PRAGMA user_version=", "COMMIT")

class Mortal(sqlite3.Connection):
    left = int(sys.argv[2])

    def execute(self, *arguments):
        if arguments[0].lstrip().startswith(WRITES):
            if Mortal.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            Mortal.left -= 1
        return super().execute(*arguments)

real = sqlite3.connect
sqlite3.connect = lambda *a, **k: real(*a, **({"factory": Mortal} | k))
database.open_database(Path(sys.argv[1])).close()
print("done")
"""


def made_by(version, folder):
    path = folder / DATABASE_FILE
    connection = sqlite3.connect(path)
    connection.executescript((DUMPS / f"version-{version}.sql").read_text(encoding="utf-8"))
    connection.close()
    return path


def tables(connection):
    names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    return [name for (name,) in names.fetchall()]


def rows_of(connection):
    """Every row by table, as a mapping of column to value."""
    found = {}
    for table in tables(connection):
        rows = connection.execute(f"SELECT * FROM {table}")
        columns = [RENAMED.get((table, column[0]), column[0]) for column in rows.description]
        found[table] = [dict(zip(columns, tuple(row), strict=True)) for row in rows]
    return found


def columns_of(connection):
    return {
        table: {tuple(row)[1:6] for row in connection.execute(f"PRAGMA table_info({table})")}
        for table in tables(connection)
    }


def version_of(path):
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA user_version").fetchone()[0], rows_of(connection)
    finally:
        connection.close()


@pytest.mark.parametrize("version", OLDER)
def test_rows_are_kept_the_schema_is_the_newest_and_a_copy_is_left(version, tmp_path):
    path = made_by(version, tmp_path)
    _, before = version_of(path)
    assert all(rows for rows in before.values()), "every table of the dump has a row"
    connection = open_database(path)
    after = rows_of(connection)
    for table, rows in before.items():
        kept = [{column: row[column] for column in rows[0]} for row in after[table]]
        assert kept == rows, table
    fresh = open_database(tmp_path / "fresh" / DATABASE_FILE)
    assert columns_of(connection) == columns_of(fresh)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    audit_log.verify(connection)
    connection.close()
    fresh.close()
    assert version_of(backup_path(path, version)) == (version, before)
    assert backup_path(path, version).stat().st_mode & 0o777 == 0o600
    store = Store(tmp_path)
    assert store.state("demo").site("hospital1").training_patients == 10
    assert store.newest_receipt("hospital1").signature == b"sig"
    store.close()


def test_a_token_that_has_ended_stays_so_and_one_whose_request_stands_goes_on(tmp_path):
    path = made_by(6, tmp_path)
    later = time.time() + 3600.0
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM enrollment_tokens")
        connection.executemany(
            "INSERT INTO enrollment_tokens (token_sha256, name, issued_at, expires_at) "
            "VALUES (?, 'a', 0.0, ?)",
            [("ended", 2000.0), ("waits", 2000.0), ("works", later)],
        )
        connection.execute("UPDATE signing_requests SET token_sha256 = 'waits'")
    with closing(open_database(path)) as connection:
        rows = connection.execute("SELECT token_sha256, ended_at FROM enrollment_tokens").fetchall()
    assert {tuple(row) for row in rows} == {("ended", 2000.0), ("waits", None), ("works", None)}


def test_there_is_a_dump_of_every_older_version():
    assert {path.name for path in DUMPS.iterdir()} >= {f"version-{number}.sql" for number in OLDER}


def test_a_newer_version_is_refused_and_left_alone(tmp_path):
    path = made_by(1, tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    for open_it in (open_database, open_read_only):
        with pytest.raises(
            StateError, match=f"schema version 99, and this program knows version {SCHEMA_VERSION}"
        ):
            open_it(path)
    assert version_of(path)[0] == 99
    assert not list(tmp_path.glob("*.version-*"))


def test_a_look_changes_no_older_database(tmp_path):
    path = made_by(3, tmp_path)
    with pytest.raises(StateError, match=r"has schema version 3; start adpfl-server, which brings it to"):
        open_read_only(path)
    assert version_of(path)[0] == 3


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION - 1])
def test_killed_at_any_statement_it_is_the_old_version_or_the_new_one(version, tmp_path):
    steps = 0
    while True:
        folder = tmp_path / str(steps)
        folder.mkdir()
        path = made_by(version, folder)
        _, before = version_of(path)
        child = subprocess.run(
            [sys.executable, "-c", KILLED_AT, str(path), str(steps)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            check=False,
        )
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert version_of(path) == (version, before)
        open_database(path).close()
        assert version_of(path)[0] == SCHEMA_VERSION
        steps += 1
    assert steps >= 3  # begin, at least one statement, the number, commit


def test_without_room_for_the_copy_nothing_is_changed(tmp_path, monkeypatch):
    path = made_by(4, tmp_path)

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("adpfl_server.storage.database.tempfile.mkstemp", full)
        with pytest.raises(StateError, match="No space left"):
            open_database(path)
    assert version_of(path)[0] == 4


def test_what_a_crash_left_of_a_copy_goes_before_serving(tmp_path):
    Store(tmp_path).close()
    kept = tmp_path / "server.sqlite.version-5"
    leftovers = [tmp_path / f".{kept.name}.ab12cd34{suffix}" for suffix in ("", "-journal")]
    for path in (kept, *leftovers):
        path.write_bytes(b"half")
    store = Store(tmp_path)
    store.prepare(2)
    store.close()
    assert kept.exists()
    assert not any(path.exists() for path in leftovers)
