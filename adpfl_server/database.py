"""The server's one SQLite database: schema, version, and connections that never lose a commit.

WAL so that readers do not wait, `synchronous=FULL` so that a commit is on disk before it is acknowledged,
foreign keys so that no row outlives what it speaks of. One file holds everything but bulk bytes; those are
content-addressed blobs.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adpfl.errors import StateError

BUSY_TIMEOUT_SECONDS = 30.0

_VERSION_1 = (
    """
    CREATE TABLE enrollment_tokens (
        token_sha256 TEXT PRIMARY KEY,
        site TEXT NOT NULL,
        issued_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        used_at REAL,
        request_sha256 TEXT,
        certificate_pem TEXT
    ) STRICT
    """,
    """
    CREATE TABLE certificates (
        serial TEXT PRIMARY KEY,
        site TEXT NOT NULL,
        not_after REAL NOT NULL,
        issued_at REAL NOT NULL,
        revoked_at REAL,
        pem TEXT NOT NULL
    ) STRICT
    """,
    # One row a run. `state_json` is the coordinator's whole state, written in each transition's transaction.
    """
    CREATE TABLE runs (
        run TEXT PRIMARY KEY,
        plan_json TEXT NOT NULL,
        plan_digest TEXT NOT NULL,
        state_json TEXT NOT NULL,
        created_at REAL NOT NULL
    ) STRICT
    """,
    # Manifests of models and offered updates, by digest.
    """
    CREATE TABLE objects (
        digest TEXT PRIMARY KEY,
        manifest_json BLOB NOT NULL
    ) STRICT
    """,
    # The global models of a run; round 0 is the initial one. The digest outlives the object: a late commit is
    # still checked against the base model that its round had.
    """
    CREATE TABLE run_models (
        run TEXT NOT NULL REFERENCES runs (run),
        round INTEGER NOT NULL,
        digest TEXT NOT NULL,
        PRIMARY KEY (run, round)
    ) STRICT
    """,
    """
    CREATE TABLE offers (
        run TEXT NOT NULL REFERENCES runs (run),
        round INTEGER NOT NULL,
        site TEXT NOT NULL,
        update_digest TEXT NOT NULL REFERENCES objects (digest),
        offered_at REAL NOT NULL,
        PRIMARY KEY (run, round, site, update_digest)
    ) STRICT
    """,
    # One acknowledged update a (run, round, site), with its receipt's very bytes: a repeat gets them again.
    """
    CREATE TABLE commits (
        run TEXT NOT NULL REFERENCES runs (run),
        round INTEGER NOT NULL,
        site TEXT NOT NULL,
        base_digest TEXT NOT NULL,
        update_digest TEXT NOT NULL,
        ledger_head TEXT NOT NULL,
        receipt_json BLOB NOT NULL,
        signature BLOB NOT NULL,
        committed_at REAL NOT NULL,
        PRIMARY KEY (run, round, site)
    ) STRICT
    """,
    # Closed rounds and the timeline, as the run's record has them.
    """
    CREATE TABLE rounds (
        run TEXT NOT NULL REFERENCES runs (run),
        round INTEGER NOT NULL,
        record_json TEXT NOT NULL,
        PRIMARY KEY (run, round)
    ) STRICT
    """,
    """
    CREATE TABLE timeline (
        sequence INTEGER PRIMARY KEY,
        run TEXT NOT NULL REFERENCES runs (run),
        event_json TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX timeline_by_run ON timeline (run, sequence)",
    # Public patient counts, declared once for each task.
    """
    CREATE TABLE declarations (
        site TEXT NOT NULL,
        task TEXT NOT NULL,
        training_patients INTEGER NOT NULL,
        declared_at REAL NOT NULL,
        PRIMARY KEY (site, task)
    ) STRICT
    """,
)

# How often each thing has happened that a site can make happen at will: the timeline keeps the first few.
_VERSION_2 = (
    """
    CREATE TABLE timeline_counts (
        run TEXT NOT NULL REFERENCES runs (run),
        site TEXT NOT NULL,
        kind TEXT NOT NULL,
        round INTEGER NOT NULL,
        events INTEGER NOT NULL,
        last_at REAL NOT NULL,
        PRIMARY KEY (run, site, kind, round)
    ) STRICT, WITHOUT ROWID
    """,
)

# The average of a run's models after a round, where its plan averages.
_VERSION_3 = (
    """
    CREATE TABLE averaged_models (
        run TEXT NOT NULL REFERENCES runs (run),
        round INTEGER NOT NULL,
        digest TEXT NOT NULL,
        PRIMARY KEY (run, round)
    ) STRICT
    """,
)

# Operators and auditors beside sites, certificates that were renewed, commands that wait for the daemon, and
# the audit log.
_VERSION_4 = (
    "ALTER TABLE enrollment_tokens RENAME COLUMN site TO name",
    "ALTER TABLE enrollment_tokens ADD COLUMN role TEXT NOT NULL DEFAULT 'site'",
    "ALTER TABLE certificates RENAME COLUMN site TO name",
    "ALTER TABLE certificates ADD COLUMN role TEXT NOT NULL DEFAULT 'site'",
    "ALTER TABLE certificates ADD COLUMN request_sha256 TEXT",
    """
    CREATE TABLE controls (
        sequence INTEGER PRIMARY KEY,
        run TEXT NOT NULL,
        control TEXT NOT NULL,
        reason TEXT NOT NULL,
        asked_at REAL NOT NULL,
        settled_at REAL,
        outcome TEXT,
        refusal TEXT
    ) STRICT
    """,
    """
    CREATE TABLE audit_log (
        sequence INTEGER PRIMARY KEY,
        entry_json TEXT NOT NULL,
        chain TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TRIGGER audit_log_is_never_changed BEFORE UPDATE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END
    """,
    """
    CREATE TRIGGER audit_log_is_never_cut BEFORE DELETE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END
    """,
)

# The state of a run's server optimizer after its newest round.
_VERSION_5 = (
    """
    CREATE TABLE server_moments (
        run TEXT NOT NULL REFERENCES runs (run),
        round INTEGER NOT NULL,
        first_digest TEXT NOT NULL REFERENCES objects (digest),
        second_digest TEXT NOT NULL REFERENCES objects (digest),
        PRIMARY KEY (run, round)
    ) STRICT
    """,
)

# What waits, or has waited, for an authority whose key is kept offline.
_SIGNING_REQUESTS = (
    """
    CREATE TABLE signing_requests (
        request_sha256 TEXT PRIMARY KEY,
        role TEXT NOT NULL,
        name TEXT NOT NULL,
        hosts_json TEXT NOT NULL,
        purpose TEXT NOT NULL,
        request BLOB NOT NULL,
        token_sha256 TEXT,
        asked_at REAL NOT NULL,
        settled_at REAL,
        outcome TEXT CHECK (outcome IN ('signed', 'withdrawn')),
        CHECK ((settled_at IS NULL) = (outcome IS NULL))
    ) STRICT
    """,
    "CREATE INDEX signing_requests_by_holder ON signing_requests (role, name)",
    "CREATE INDEX signing_requests_by_token ON signing_requests (token_sha256)",
)

_VERSIONS = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5, _SIGNING_REQUESTS)
"""What each schema version adds to the one before."""
SCHEMA_VERSION = len(_VERSIONS)


def open_database(path: Path) -> sqlite3.Connection:
    """Open the database, making file and schema where absent, and bringing an older schema up to date.

    The connection may move between threads but must be used by one at a time. It is in autocommit mode:
    transactions are explicit, by `transaction`.

    Raises:
        StateError: the file is no database, or of another schema version.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        if _version(connection) < SCHEMA_VERSION:  # else nothing is locked: strangers cause openings too
            with transaction(connection):
                _bring_up_to_date(connection)
        version = _version(connection)
    except (sqlite3.DatabaseError, OSError) as error:
        raise StateError(f"{path}: cannot be opened as the server's database: {error}") from error
    if version != SCHEMA_VERSION:
        connection.close()
        raise StateError(f"{path}: has schema version {version}; this program reads version {SCHEMA_VERSION}")
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    for statements in _VERSIONS[_version(connection) :]:  # looked up again: another process may have done it
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing: commits, durably, when the block ends; rolls back when it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may end the transaction by itself, or leave it open when the commit fails.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
