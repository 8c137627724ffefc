"""A run's timeline in the database: its first entries one by one, further ones of a site counted.

A site can repeat a refusal, a restart or a wrong update as often as it likes: database, record and memory
grow with the rounds and the sites of a run, never with what a site sends. What an auditor must know of the
timeline stands in the audit log too.
"""

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from adpfl.federated.records import TimelineEvent
from adpfl.security.certificates import Holder
from adpfl_server.identity.audit_log import SERVER, record

EVENTS_PER_ROUND: Final = 5
"""Entries of one kind that one site may cause in a run's timeline in one round; further ones are counted."""

AUDITED_EVENTS: Final = frozenset(
    {
        "run_created",
        "run_started",
        "run_finished",
        "run_failed",
        "server_restarted",
        "site_came_back",
        "site_joined",
        "site_left",
        "site_refused",
        "storage_damaged",
        "update_conflicting",
        "update_refused",
        "update_damaged",
    }
)
"""Kinds of a run's timeline that stand in the audit log too."""

_NO_ROUND: Final = -1
"""Stands for "no round" in a key of the database, where NULL would never equal itself."""


def insert_timeline(
    connection: sqlite3.Connection, run: str, events: Iterable[TimelineEvent], detail: str = ""
) -> tuple[TimelineEvent, ...]:
    """Add entries within a transaction, to the audit log too where they belong there.

    Args:
        connection: in a transaction.
        run: the run's name.
        events: as they happened.
        detail: for the audit log, of entries that have none of their own.

    Returns:
        The entries that are kept; those beyond `EVENTS_PER_ROUND` are counted.
    """
    kept = tuple(event for event in events if event.site is None or _count(connection, run, event))
    connection.executemany(
        "INSERT INTO timeline (run, event_json) VALUES (?, ?)",
        [(run, event.model_dump_json()) for event in kept],
    )
    for event in kept:
        if event.kind in AUDITED_EVENTS:
            record(
                connection,
                datetime.fromtimestamp(event.at_unix_seconds, UTC),
                event.kind,
                actor=SERVER,
                subject=Holder("site", event.site) if event.site else None,
                run=run,
                detail=event.detail or detail,
            )
    return kept


def read_timeline(connection: sqlite3.Connection, run: str) -> tuple[TimelineEvent, ...]:
    """A run's entries, and one for all that were counted of a kind, site and round."""
    rows = connection.execute("SELECT event_json FROM timeline WHERE run = ? ORDER BY sequence", (run,))
    kept = [TimelineEvent.model_validate_json(row["event_json"]) for row in rows]
    summaries = _counted(connection, run)
    if not summaries:
        return tuple(kept)  # as they happened, even where the clock was set back
    return tuple(sorted([*kept, *summaries], key=lambda event: event.at_unix_seconds))


def _counted(connection: sqlite3.Connection, run: str) -> list[TimelineEvent]:
    rows = connection.execute(
        "SELECT * FROM timeline_counts WHERE run = ? AND events > ? ORDER BY last_at",
        (run, EVENTS_PER_ROUND),
    )
    return [
        TimelineEvent(
            at_unix_seconds=row["last_at"],
            kind=row["kind"],
            site=row["site"],
            round=row["round"] if row["round"] != _NO_ROUND else None,
            detail=f"{row['events'] - EVENTS_PER_ROUND} more like these; the last one at this time",
        )
        for row in rows
    ]


def _count(connection: sqlite3.Connection, run: str, event: TimelineEvent) -> bool:
    """Count what a site caused; True while the timeline has room for it."""
    number = _NO_ROUND if event.round is None else event.round
    row = connection.execute(
        "INSERT INTO timeline_counts VALUES (?, ?, ?, ?, 1, ?) ON CONFLICT DO UPDATE "
        "SET events = events + 1, last_at = excluded.last_at RETURNING events",
        (run, event.site, event.kind, number, event.at_unix_seconds),
    ).fetchone()
    return int(row["events"]) <= EVENTS_PER_ROUND
