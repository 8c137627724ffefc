"""The database: durable settings, one schema version, all or nothing."""

import sqlite3
import stat

import pytest

from adpfl.errors import StateError
from adpfl_server.storage import database
from adpfl_server.storage.database import open_database, open_read_only, require_sound, transaction
from adpfl_server.storage.schema import SCHEMA_VERSION


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


@pytest.mark.parametrize("trace", ["blobs/ab/abcd", "runs/demo/run.json"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_database_that_was_lost_is_not_begun_anew(tmp_path, trace, empty):
    path = tmp_path / "server.sqlite"
    (tmp_path / trace).parent.mkdir(parents=True)
    (tmp_path / trace).write_bytes(b"of an earlier server")
    if empty:
        path.touch()
    with pytest.raises(
        StateError, match=f"is {'empty' if empty else 'missing'}, but {trace} is of an earlier"
    ):
        open_database(path)


def filled(path):
    connection = open_database(path)
    with transaction(connection):
        rows = [("a", f"{number:06}" + "x" * 500) for number in range(400)]
        connection.executemany("INSERT INTO declarations VALUES (?, ?, 1, 0.0)", rows)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def damage_a_page(path):
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(data)


def cut(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [damage_a_page, cut])
def test_a_damaged_database_is_one_line_that_says_what_to_do(tmp_path, damage):
    path = tmp_path / "server.sqlite"
    filled(path)
    damage(path)

    def start():
        connection = open_database(path)
        try:
            require_sound(connection, path)
        finally:
            connection.close()

    with pytest.raises(StateError, match=r"server.sqlite: is damaged.*restore its state folder") as refusal:
        start()
    assert "\n" not in str(refusal.value)


def test_a_sound_database_passes(tmp_path):
    path = tmp_path / "server.sqlite"
    filled(path)
    connection = open_read_only(path)
    require_sound(connection, path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM declarations")
    connection.close()


def test_a_look_that_would_miss_the_newest_rows_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "server.sqlite"
    writer = open_database(path)
    with transaction(writer):
        writer.execute("INSERT INTO declarations VALUES ('a', 'first', 1, 0.0)")
    monkeypatch.setattr(database, "_version", refused_once(database._version))
    with pytest.raises(StateError, match=r"newer rows stand in server.sqlite-wal.*as the server's user"):
        open_read_only(path)
    writer.close()  # which brings them in
    monkeypatch.undo()
    monkeypatch.setattr(database, "_version", refused_once(database._version))
    reader = open_read_only(path)
    assert reader.execute("SELECT count(*) FROM declarations").fetchone()[0] == 1
    reader.close()


def refused_once(version):
    """The first look fails, as for a user who may not make the file that SQLite shares with writers."""
    looks = []

    def look(connection):
        looks.append(connection)
        if len(looks) == 1:
            raise sqlite3.OperationalError("unable to open database file")
        return version(connection)

    return look


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
