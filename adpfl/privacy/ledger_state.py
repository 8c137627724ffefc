"""What a ledger's entries add up to. No storage, no clock, no rule on what may come next.

`LedgerState.apply` is the only way it changes; `adpfl.privacy.ledger` decides which entries to append.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import ValidationError

from adpfl.errors import StateError
from adpfl.privacy import ledger_requests
from adpfl.privacy.ledger_chain import Entry
from adpfl.privacy.ledger_records import Approval, Dedication, Exclusion, Reservation, RunTerms

SCHEMA: Final = 1
"""Of the entries: a program refuses a ledger that a newer one began."""


@dataclass
class LedgerState:
    """What the entries so far add up to."""

    latest_at_millis: int | None = None
    """The highest time of any entry since a change of the clock was last acknowledged."""
    cohorts: dict[str, frozenset[str]] = field(default_factory=dict)
    terms: dict[str, RunTerms] = field(default_factory=dict)
    dedications: dict[str, Dedication] = field(default_factory=dict)
    """By plan digest."""
    accepted_runs: set[tuple[str, str]] = field(default_factory=set)
    excluded: dict[str, Exclusion] = field(default_factory=dict)
    """By fingerprint."""
    approvals: dict[str, Approval] = field(default_factory=dict)
    """By plan digest."""
    reservations: dict[str, Reservation] = field(default_factory=dict)

    def related(self, data_set_id: str, patients: frozenset[str] = frozenset()) -> list[Reservation]:
        """Reservations charged together with this data set: the same id, or a patient in common with it.

        An upper bound for each patient: whatever a patient of the set was exposed to is among them.
        """
        members = set(patients)
        for reservation in self.reservations.values():
            if reservation.data_set_id == data_set_id:
                members |= self.cohorts[reservation.cohort]
        return [
            reservation
            for reservation in self.reservations.values()
            if reservation.data_set_id == data_set_id
            or not members.isdisjoint(self.cohorts[reservation.cohort])
        ]

    def of_run(self, run: str) -> list[Reservation]:
        """A run's reservations, oldest first."""
        return [reservation for reservation in self.reservations.values() if reservation.run == run]

    def attempts(self, run: str, round_number: int, metric: str | None) -> list[Reservation]:
        """A run's attempts at one round's update, or at one metric of it, oldest first."""
        return [old for old in self.of_run(run) if (old.round_number, old.metric) == (round_number, metric)]

    def known(self, reservation_id: str) -> Reservation:
        """One reservation by its id.

        Raises:
            StateError: there is none.
        """
        if reservation_id not in self.reservations:
            raise StateError(f"reservation {reservation_id} is not in the ledger; must be reserved first")
        return self.reservations[reservation_id]

    def dedication_of(self, reservations: Iterable[Reservation]) -> Dedication | None:
        """The plan that has a whole cap for itself, where one of these reservations is its."""
        plans = (self.dedications.get(one.plan_digest) for one in reservations if not one.is_unbounded)
        return next((dedication for dedication in plans if dedication is not None), None)

    def apply(self, entry: Entry) -> None:
        """Take one entry into account.

        Raises:
            StateError: a newer version of the program wrote it.
        """
        try:
            self._apply(entry, entry.document())
        except (ValidationError, KeyError, TypeError) as error:
            raise StateError(
                f"ledger entry {entry.sequence} ({entry.kind}) is of another form than this version knows"
            ) from error

    def _apply(self, entry: Entry, body: dict[str, Any]) -> None:
        match entry.kind:
            case "reserved":
                self._apply_reserved(body, entry.at_millis)
            case "sealed":
                self._update(body["id"], status="sealed", update_digest=body["update_digest"])
            case "committed":
                self._update(body["id"], status="committed", receipt_json=body["receipt"])
            case "abandoned":
                self._update(body["id"], status="abandoned")
            case _:
                self._apply_declaration(entry, body)
        # A clock that steps back a little, again and again, must not wander: the highest time counts.
        self.latest_at_millis = max(entry.at_millis, self.latest_at_millis or entry.at_millis)

    def _apply_declaration(self, entry: Entry, body: dict[str, Any]) -> None:
        match entry.kind:
            case "opened":
                if body["schema"] != SCHEMA:
                    raise StateError(f"ledger schema is {body['schema']}; this program knows {SCHEMA}")
            case "clock_acknowledged":
                self.latest_at_millis = None
            case "run":
                self.terms[body["run"]] = RunTerms.model_validate(body)
            case "cohort":
                self.cohorts[body["cohort"]] = frozenset(body["fingerprints"])
            case "dedicated":
                whole = ledger_requests.read_charges(body["whole"])
                self.dedications[body["plan_digest"]] = Dedication(**(body | {"whole": whole}))
            case "accepted_unbounded":
                self.accepted_runs.add((body["run"], body["data_set"]))
            case "excluded":
                self.excluded[body["fingerprint"]] = Exclusion(**body, at_millis=entry.at_millis)
            case "approved":
                self.approvals[body["plan_digest"]] = Approval(**body, at_millis=entry.at_millis)
            case _:
                raise StateError(
                    f"ledger entry {entry.sequence} is of kind {entry.kind}; this version does not know it"
                )

    def _apply_reserved(self, body: dict[str, Any], at_millis: int) -> None:
        read = {"charges": ledger_requests.read_charges(body["charges"]), "orders": tuple(body["orders"])}
        new = Reservation(**(body | read), reserved_at_millis=at_millis)
        for old in self.attempts(new.run, new.round_number, new.metric):
            if old.status == "reserved":
                self._update(old.id, status="abandoned")
        self.reservations[new.id] = new

    def _update(self, reservation_id: str, **changes: Any) -> None:
        self.reservations[reservation_id] = replace(self.reservations[reservation_id], **changes)
