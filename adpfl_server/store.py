"""What the server keeps: rows in SQLite, chunks in the blob folder.

Rows are read and written by one thread at a time (the runner owns that thread); blobs by any. Every method
that writes has committed, durably, when it returns.
"""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from adpfl.errors import StateError
from adpfl.federated.records import ServerRound, ServerRunRecord, TimelineEvent
from adpfl.federated.round_models import RoundModels
from adpfl.federated.run_events import RoundClosed, Transition
from adpfl.federated.run_state import RunState, summary
from adpfl.kill_points import reach
from adpfl.security.certificates import Holder
from adpfl.wire import limits
from adpfl.wire.chunks import Manifest
from adpfl.wire.receipts import CommitOutcome, Receipt
from adpfl_server.identity.audit_log import record
from adpfl_server.limits.refusals import CallRefusedError, Code
from adpfl_server.storage.blobs import BlobFolder
from adpfl_server.storage.collection import chunks_in_use, collect, drop_unnamed
from adpfl_server.storage.database import (
    discard_half_copies,
    open_database,
    open_read_only,
    require_sound,
    transaction,
)
from adpfl_server.storage.timeline_rows import insert_timeline, read_timeline
from adpfl_server.storage.trouble import BLOBS_FOLDER

DATABASE_FILE = "server.sqlite"
TASKS_PER_SITE = limits.TASKS_PER_JOIN
"""Tasks for which a site may declare its patients, over all its joins."""
OFFERS_PER_ROUND = 4
"""Different updates that one site may announce for one round; a crash before the spool makes one more."""


@dataclass(frozen=True, slots=True)
class CommitRow:
    """An acknowledged update and the very bytes of its receipt."""

    run: str
    round: int
    site: str
    base_digest: str
    update_digest: str
    ledger_head: str
    receipt_json: bytes
    signature: bytes
    committed_at: float

    @property
    def outcome(self) -> CommitOutcome:
        """What the receipt says of the update."""
        return Receipt.from_canonical_json(self.receipt_json).outcome


class Store:
    """The server's state on disk."""

    def __init__(self, state_dir: Path, *, read_only: bool = False) -> None:
        """Open the state.

        Args:
            state_dir: the server's state folder.
            read_only: write nothing, so that a full or read-only disk can be looked at; otherwise what is
                absent is made, and an older schema is brought up to date.

        Raises:
            StateError: the database is unreadable or of another schema version, or the disk refuses.
        """
        self.state_dir = state_dir
        open_it = open_read_only if read_only else open_database
        self.connection = open_it(state_dir / DATABASE_FILE)
        try:
            self.blobs = BlobFolder(state_dir / BLOBS_FOLDER)
        except OSError as error:
            self.connection.close()
            raise StateError(
                f"{state_dir / BLOBS_FOLDER}: cannot be used: {error.strerror or error}"
            ) from error

    def close(self) -> None:
        """Close the database."""
        self.connection.close()

    # --- runs -----------------------------------------------------------------------------------------

    def create_run(self, created: Transition, manifest: Manifest, now: float) -> None:
        """Keep a new run with its initial model, whose chunks are stored already."""
        plan = created.state.plan
        with transaction(self.connection) as connection:
            state_json = created.state.model_dump_json()
            row = (plan.run, plan.canonical_json().decode(), plan.digest(), state_json, now)
            connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", row)
            _insert_object(connection, manifest)
            _insert_model(connection, plan.run, 0, manifest.digest)
            insert_timeline(connection, plan.run, created.timeline, detail=f"plan {plan.digest()}")

    def plan_digests(self) -> dict[str, str]:
        """The plan's digest of every run in the database."""
        rows = self.connection.execute("SELECT run, plan_digest FROM runs ORDER BY created_at, run")
        return {row["run"]: row["plan_digest"] for row in rows}

    def state(self, run: str) -> RunState:
        """A run's stored state.

        Raises:
            StateError: there is no such run, or its state is of another version.
        """
        row = self.connection.execute("SELECT state_json FROM runs WHERE run = ?", (run,)).fetchone()
        if row is None:
            raise StateError(f"there is no run {run} in the server's database")
        try:
            return RunState.model_validate_json(row["state_json"])
        except ValidationError as error:
            raise StateError(f"the stored state of run {run} cannot be read by this version") from error

    def save(
        self,
        run: str,
        moved: Transition,
        also: Callable[[sqlite3.Connection], None] | None = None,
        result: RoundModels | None = None,
    ) -> tuple[TimelineEvent, ...]:
        """Keep a transition, all of it or nothing.

        Args:
            run: the run's name.
            moved: the new state and what is to be remembered.
            also: writes more rows in the same transaction.
            result: what a closed round made.

        Returns:
            The transition's entries that the timeline keeps; those beyond `EVENTS_PER_ROUND` are counted.
        """
        with transaction(self.connection) as connection:
            connection.execute(
                "UPDATE runs SET state_json = ? WHERE run = ?", (moved.state.model_dump_json(), run)
            )
            kept = insert_timeline(connection, run, moved.timeline)
            for action in moved.actions:
                if isinstance(action, RoundClosed) and result is not None:
                    record = action.record
                    connection.execute(
                        "INSERT INTO rounds VALUES (?, ?, ?)", (run, record.round, record.model_dump_json())
                    )
                    _insert_result(connection, run, record.round, result)
                    reach("server.closing")
            if also is not None:
                also(connection)
        return kept

    def record(self, run: str) -> ServerRunRecord:
        """The run's record: what `run.json` holds.

        Raises:
            StateError: there is no such run.
        """
        state = self.state(run)
        rounds = self.connection.execute(
            "SELECT record_json FROM rounds WHERE run = ? ORDER BY round", (run,)
        )
        closed = [ServerRound.model_validate_json(row["record_json"]) for row in rounds]
        if state.open_round is not None:
            closed.append(_open_round_record(state))
        return ServerRunRecord(
            plan=state.plan,
            plan_digest=state.plan.digest(),
            status=state.shown_status,
            summary=summary(state),
            rounds=tuple(closed),
            training_patients={
                site.site: site.training_patients
                for site in state.sites
                if site.training_patients is not None
            },
            timeline=read_timeline(self.connection, run),
        )

    # --- objects --------------------------------------------------------------------------------------

    def manifest(self, digest: str) -> Manifest | None:
        """The manifest of a stored object."""
        row = self.connection.execute(
            "SELECT manifest_json FROM objects WHERE digest = ?", (digest,)
        ).fetchone()
        return None if row is None else Manifest.from_canonical_json(row["manifest_json"])

    def missing(self, manifest: Manifest) -> tuple[str, ...]:
        """Chunks of a manifest that are not stored, in payload order."""
        return tuple(digest for digest in manifest.indices_of if not self.blobs.has(digest))

    def model_digest(self, run: str, round_number: int) -> str | None:
        """The model that a round made; round 0 is the initial one."""
        row = self.connection.execute(
            "SELECT digest FROM run_models WHERE run = ? AND round = ?", (run, round_number)
        ).fetchone()
        return None if row is None else str(row["digest"])

    def kept_models(self, run: str) -> dict[int, str]:
        """The rounds whose model is still stored, with its digest; round 0 is the initial one."""
        return self._kept("run_models", run)

    def kept_averages(self, run: str) -> dict[int, str]:
        """The rounds whose average is still stored, with its digest."""
        return self._kept("averaged_models", run)

    def _kept(self, table: Literal["run_models", "averaged_models"], run: str) -> dict[int, str]:
        rows = self.connection.execute(
            f"SELECT round, digest FROM {table} WHERE run = ? AND digest IN (SELECT digest FROM objects)",  # noqa: S608 - one of two names
            (run,),
        )
        return {int(row["round"]): str(row["digest"]) for row in rows}

    def is_model(self, run: str, digest: str) -> bool:
        """Whether an object is one of the run's global models, or an average of them."""
        row = self.connection.execute(
            "SELECT 1 FROM run_models WHERE run = :run AND digest = :digest UNION "
            "SELECT 1 FROM averaged_models WHERE run = :run AND digest = :digest",
            {"run": run, "digest": digest},
        )
        return row.fetchone() is not None

    def collect(self, keep_models: int) -> bool:
        """Let go of what no run needs any more: `adpfl_server.storage.collection.collect`."""
        rows = self.connection.execute("SELECT run FROM offers UNION SELECT run FROM server_moments")
        states = {run: self.state(run) for run in [row["run"] for row in rows]}
        return collect(self.state_dir, self.connection, self.blobs, states, keep_models=keep_models)

    def drop_unnamed(self, manifest: Manifest) -> None:
        """Let go of chunks of an object that was itself let go: see `storage.collection.drop_unnamed`."""
        drop_unnamed(self.connection, self.blobs, manifest)

    def check(self) -> None:
        """Read the whole database.

        Raises:
            StateError: it is damaged.
        """
        require_sound(self.connection, self.state_dir / DATABASE_FILE)

    def chunks_in_use(self) -> set[str]:
        """Digests of all chunks that a stored object names."""
        return chunks_in_use(self.connection)

    def prepare(self, keep_models: int) -> None:
        """Check the database whole, collect, and clear what a crash left. Only before serving.

        Raises:
            StateError: the database is damaged.
            OSError, sqlite3.Error: the disk refuses.
        """
        self.check()
        discard_half_copies(self.state_dir / DATABASE_FILE)
        self.collect(keep_models)
        self.sweep()

    def sweep(self) -> None:
        """Remove half-written chunks, and chunks that no object names. Only before serving."""
        self.blobs.sweep(self.chunks_in_use())

    # --- updates --------------------------------------------------------------------------------------

    def add_offer(self, run: str, round_number: int, site: str, manifest: Manifest, now: float) -> None:
        """Keep an announced update, so that its chunks may be pushed. Announcing it again does nothing.

        Raises:
            CallRefusedError: the site has announced too many different updates for this round.
        """
        key = (run, round_number, site)
        with transaction(self.connection) as connection:
            known = connection.execute(
                "SELECT update_digest FROM offers WHERE run = ? AND round = ? AND site = ?", key
            ).fetchall()
            if manifest.digest in {row["update_digest"] for row in known}:
                return
            if len(known) >= OFFERS_PER_ROUND:
                raise CallRefusedError(
                    Code.RESOURCE_EXHAUSTED,
                    f"{site} has announced {len(known)} different updates for round {round_number} of {run}; "
                    f"at most {OFFERS_PER_ROUND} are kept",
                )
            _insert_object(connection, manifest)
            connection.execute("INSERT INTO offers VALUES (?, ?, ?, ?, ?)", (*key, manifest.digest, now))

    def offered(self, run: str, round_number: int, site: str, digest: str) -> Manifest | None:
        """The manifest of an update that this site announced for this round."""
        row = self.connection.execute(
            "SELECT 1 FROM offers WHERE run = ? AND round = ? AND site = ? AND update_digest = ?",
            (run, round_number, site, digest),
        ).fetchone()
        return None if row is None else self.manifest(digest)

    def commit_row(self, run: str, round_number: int, site: str) -> CommitRow | None:
        """The acknowledged update of a site in a round."""
        row = self.connection.execute(
            "SELECT * FROM commits WHERE run = ? AND round = ? AND site = ?", (run, round_number, site)
        ).fetchone()
        return None if row is None else CommitRow(**dict(row))

    def newest_receipt(self, site: str) -> CommitRow | None:
        """The newest commit of a site, over all runs, that carried a ledger head.

        Newest by the order in which the rows were written: the clock may have been set back.
        """
        row = self.connection.execute(
            "SELECT * FROM commits WHERE site = ? AND ledger_head != '' ORDER BY rowid DESC LIMIT 1", (site,)
        ).fetchone()
        return None if row is None else CommitRow(**dict(row))

    # --- declarations ---------------------------------------------------------------------------------

    def declare(self, site: str, training_patients: Mapping[str, int], now: float) -> None:
        """Keep a site's public patient counts; each is declared once and repeated ever after.

        Raises:
            CallRefusedError: a figure differs from the one declared before, or the site has declared itself
                for `TASKS_PER_SITE` tasks already; nothing was kept.
        """
        with transaction(self.connection) as connection:
            rows = connection.execute(
                "SELECT task, training_patients FROM declarations WHERE site = ?", (site,)
            )
            known = {row["task"]: row["training_patients"] for row in rows}
            for task, patients in training_patients.items():
                if known.setdefault(task, patients) != patients:
                    raise CallRefusedError(
                        Code.FAILED_PRECONDITION,
                        f"training_patients[{task}] is {patients}; {site} declared {known[task]} before, "
                        "and the figure may not change",
                    )
                if len(known) > TASKS_PER_SITE:
                    raise CallRefusedError(
                        Code.RESOURCE_EXHAUSTED,
                        f"training_patients names {task}; {site} has declared {TASKS_PER_SITE} tasks, "
                        "and no more are kept",
                    )
                connection.execute(
                    "INSERT OR IGNORE INTO declarations VALUES (?, ?, ?, ?)", (site, task, patients, now)
                )


def insert_commit(connection: sqlite3.Connection, row: CommitRow) -> None:
    """Add an acknowledged update within a transaction."""
    connection.execute(
        "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.run,
            row.round,
            row.site,
            row.base_digest,
            row.update_digest,
            row.ledger_head,
            row.receipt_json,
            row.signature,
            row.committed_at,
        ),
    )
    reach("server.commit_written")
    record(
        connection,
        datetime.fromtimestamp(row.committed_at, UTC),
        "update_committed",
        actor=Holder("site", row.site),
        subject=Holder("site", row.site),
        run=row.run,
        detail=f"round {row.round}, update {row.update_digest}",
    )


def _insert_object(connection: sqlite3.Connection, manifest: Manifest) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO objects VALUES (?, ?)", (manifest.digest, manifest.canonical_json())
    )


def _insert_model(connection: sqlite3.Connection, run: str, round_number: int, digest: str) -> None:
    connection.execute("INSERT INTO run_models VALUES (?, ?, ?)", (run, round_number, digest))


def _insert_result(connection: sqlite3.Connection, run: str, round_number: int, result: RoundModels) -> None:
    for manifest in result.manifests:
        _insert_object(connection, manifest)
    _insert_model(connection, run, round_number, result.model.digest)
    if result.averaged is not None:
        connection.execute(
            "INSERT INTO averaged_models VALUES (?, ?, ?)", (run, round_number, result.averaged.digest)
        )
    if result.moments is not None:
        digests = (manifest.digest for manifest in result.moments)
        connection.execute("INSERT INTO server_moments VALUES (?, ?, ?, ?)", (run, round_number, *digests))


def _open_round_record(state: RunState) -> ServerRound:
    current = state.open_round
    assert current is not None, "only called for a run with an open round"
    return ServerRound(
        round=current.round,
        opened_unix_seconds=current.opened_at,
        closed_unix_seconds=None,
        sites=tuple(update.site for update in current.updates),
        missing=state.absent,
        refused=tuple(current.turned_away),
        base_digest=current.base_digest,
        result_digest=None,
    )
