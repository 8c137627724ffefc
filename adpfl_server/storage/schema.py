"""The database's tables, version by version: what each one adds to the one before.

A released version is never edited. A new one is a new tuple at the end, and comes with a dump of the version
before it in `tests/server/databases`.
"""

from typing import Final

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

# When a token was ended, before its time or not: a clock that is set back must not bring it to life again.
# One that has ended by now, and whose request does not stand, is taken to have been ended.
_ENDED_TOKENS = (
    "ALTER TABLE enrollment_tokens ADD COLUMN ended_at REAL",
    """
    UPDATE enrollment_tokens SET ended_at = expires_at
    WHERE expires_at <= CAST(strftime('%s', 'now') AS REAL) AND NOT EXISTS (
        SELECT 1 FROM signing_requests
        WHERE signing_requests.token_sha256 = enrollment_tokens.token_sha256 AND outcome IS NOT 'withdrawn'
    )
    """,
)

# Whoever has seen somebody's signing request can send it too, under the own name: it is a request of each,
# and stands in nobody's way.
_REQUESTS_BY_SUBJECT = (
    """
    CREATE TABLE requests_by_subject (
        request_sha256 TEXT NOT NULL,
        role TEXT NOT NULL,
        name TEXT NOT NULL,
        hosts_json TEXT NOT NULL,
        purpose TEXT NOT NULL,
        request BLOB NOT NULL,
        token_sha256 TEXT,
        asked_at REAL NOT NULL,
        settled_at REAL,
        outcome TEXT CHECK (outcome IN ('signed', 'withdrawn')),
        PRIMARY KEY (request_sha256, role, name),
        CHECK ((settled_at IS NULL) = (outcome IS NULL))
    ) STRICT
    """,
    "INSERT INTO requests_by_subject SELECT * FROM signing_requests ORDER BY rowid",
    "DROP TABLE signing_requests",
    "ALTER TABLE requests_by_subject RENAME TO signing_requests",
    "CREATE INDEX signing_requests_by_holder ON signing_requests (role, name)",
    "CREATE INDEX signing_requests_by_token ON signing_requests (token_sha256)",
)

VERSIONS: Final = (
    _VERSION_1,
    _VERSION_2,
    _VERSION_3,
    _VERSION_4,
    _VERSION_5,
    _SIGNING_REQUESTS,
    _ENDED_TOKENS,
    _REQUESTS_BY_SUBJECT,
)
"""What each schema version adds to the one before."""
SCHEMA_VERSION: Final = len(VERSIONS)
