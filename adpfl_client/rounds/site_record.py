"""The site's own record of a run: `runs/<run>/site.json`, whole on the disk after every change.

It holds raw norms, thresholds and Dice of local patients, so it stays at the site. A restarted agent goes on
with the record that it finds.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from adpfl.config import load_json
from adpfl.errors import StateError
from adpfl.federated.records import (
    EvaluationRecord,
    SiteRunRecord,
    StepRecord,
    TimelineEvent,
)
from adpfl.privacy.guarantee import Guarantee
from adpfl_client.durable import discard_partials, make_private_folder, storing, write_bytes

RECORD_FILE = "site.json"
_ROLE = "the record of the run"

Clock = Callable[[], float]
"""Seconds since the Unix epoch."""


class SiteRecorder:
    """Writes one run's record. Every method that changes it writes it, or raises `StorageError`."""

    def __init__(self, folder: Path, record: SiteRunRecord, clock: Clock) -> None:
        self._path = folder / RECORD_FILE
        self._clock = clock
        self._record = record

    @classmethod
    def open(
        cls, folder: Path, fresh: SiteRunRecord, clock: Clock, *, interrupted_round: int | None = None
    ) -> "SiteRecorder":
        """Go on with the record in `folder`, or begin with `fresh` where there is none.

        `interrupted_round` is the round that an earlier process of this agent reserved and did not finish.

        Facts about this site's data are taken from `fresh`; steps, evaluations, overlays and timeline are
        kept.

        Raises:
            StateError: the record there cannot be read, or is of a run of the same name with another plan.
            StorageError: the folder or the record cannot be written.
        """
        with storing(_ROLE):
            make_private_folder(folder)
            discard_partials(folder)
        old = read_record(folder)
        if old is None:
            recorder = cls(folder, fresh, clock)
            recorder.note("agent_started")
            return recorder
        if old.plan_digest != fresh.plan_digest:
            raise StateError(
                f"{folder / RECORD_FILE}: is of plan {old.plan_digest[:12]}; the server offers plan "
                f"{fresh.plan_digest[:12]} under the same name, {fresh.run}; a changed plan needs a new name"
            )
        kept = {
            "steps": old.steps,
            "evaluations": old.evaluations,
            "overlays": old.overlays,
            "timeline": old.timeline,
        }
        recorder = cls(folder, fresh.model_copy(update=kept), clock)
        detail = (
            ""
            if interrupted_round is None
            else "in the middle of a round; what it had reserved stays charged"
        )
        recorder.note("agent_restarted", round_number=interrupted_round, detail=detail)
        return recorder

    @property
    def record(self) -> SiteRunRecord:
        """The record as it stands on the disk."""
        return self._record

    def note(self, kind: str, *, round_number: int | None = None, detail: str = "") -> None:
        """Add an event to the timeline."""
        event = TimelineEvent(
            at_unix_seconds=self._clock(),
            kind=kind,
            site=self._record.site,
            round=round_number,
            detail=detail,
        )
        self._change(timeline=(*self._record.timeline, event))

    def add_steps(self, round_number: int, steps: tuple[StepRecord, ...]) -> None:
        """Record a round's local steps; those of an earlier attempt at the round are replaced."""
        others = tuple(step for step in self._record.steps if step.round != round_number)
        self._change(steps=tuple(sorted((*others, *steps), key=lambda step: (step.round, step.step))))

    def add_evaluation(self, evaluation: EvaluationRecord) -> None:
        """Record what the model after a round scored here; an earlier evaluation of the round is replaced."""
        others = tuple(old for old in self._record.evaluations if old.round != evaluation.round)
        self._change(evaluations=tuple(sorted((*others, evaluation), key=lambda one: one.round)))

    def has_evaluation(self, round_number: int) -> bool:
        """Whether the model after a round has been scored."""
        return any(evaluation.round == round_number for evaluation in self._record.evaluations)

    def set_overlays(self, names: tuple[str, ...]) -> None:
        """Record the overlay images that stand beside this record."""
        self._change(overlays=names)

    def set_guarantee(self, guarantee: Guarantee) -> None:
        """Record what the run has cost this site so far."""
        self._change(guarantee=guarantee)

    def close(self, status: str, summary: str) -> None:
        """Record how the run ended here."""
        self._change(status=status, summary=summary)

    def _change(self, **update: object) -> None:
        record = SiteRunRecord.model_validate(self._record.model_dump() | update)
        with storing(_ROLE):
            write_bytes(self._path, record.model_dump_json(indent=1).encode())
        self._record = record


def read_record(folder: Path) -> SiteRunRecord | None:
    """The record in a run's folder, or None where there is none.

    Raises:
        StateError: the file is not a record of this version.
    """
    path = folder / RECORD_FILE
    if not path.exists():
        return None
    try:
        return SiteRunRecord.model_validate(load_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise StateError(
            f"{path}: cannot be read as a site's record: {str(error).splitlines()[0]}"
        ) from error
