"""The ledger's rules: what may be spent, in what order, by which runs. No storage, no clock.

`LedgerBook` is the state that the entries of `adpfl.privacy.ledger_chain` add up to. Its `plan_*` methods
check one event against the rules and return the entries to append, or refuse with the rule; `apply` is the
only way it changes. What is reserved stays charged for ever: a crash may waste budget and never reuses it.

The cap. Runs whose parameters are chosen after seeing earlier releases do not simply add up to the best
figure over all orders, because that best order would itself be chosen after the fact. So the ledger fixes
one Renyi order before the first release, and admits a release only while the sum of divergences at that
order certifies an epsilon within the cap: a Renyi filter (Feldman, Zrnic, "Individual Privacy Accounting
via a Renyi Filter", 2021). The order chosen is that at which most copies of the first charge fit under the
cap, so a run planned to the cap fits whole.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from adpfl.errors import BudgetError, PrivacyError, StateError
from adpfl.privacy import accounting, renyi
from adpfl.privacy.events import Charge, UnboundedEvent
from adpfl.privacy.ledger_chain import Entry
from adpfl.privacy.ledger_records import (
    AcceptUnbounded,
    LedgerPolicy,
    Reservation,
    SpendRequest,
    Spent,
)

__all__ = ["AcceptUnbounded", "LedgerBook", "LedgerPolicy", "Reservation", "SpendRequest", "Spent"]

CLOCK_TOLERANCE_MILLIS: Final = 5 * 60 * 1000

NewEntry = tuple[str, dict[str, Any]]
"""Kind and body of an entry that is yet to be numbered, dated and chained."""


@dataclass
class LedgerBook:
    """What the entries so far add up to."""

    last_at_millis: int | None = None
    filter_order: float | None = None
    cohorts: dict[str, frozenset[str]] = field(default_factory=dict)
    accepted_runs: set[tuple[str, str]] = field(default_factory=set)
    reservations: dict[str, Reservation] = field(default_factory=dict)

    # --- reading ---

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

    def spent(self, data_set_id: str, *, delta: float) -> Spent:
        """What a data set has spent over all runs, at `delta`."""
        related = self.related(data_set_id)
        unbounded = [reservation for reservation in related if reservation.is_unbounded]
        finite = [reservation for reservation in related if not reservation.is_unbounded]
        # One plan is fixed in advance and may use the best order; later ones may follow from what was seen.
        one_plan = len({reservation.plan_digest for reservation in finite}) <= 1
        of_finite = accounting.certify(
            _charges(finite), delta, order=None if one_plan else self.filter_order
        ).epsilon
        return Spent(
            data_set_id=data_set_id,
            epsilon=math.inf if unbounded else of_finite,
            epsilon_of_finite_runs=of_finite,
            delta=delta,
            reservations=len(related),
            no_finite_guarantee_since=unbounded[0].reserved_at_millis / 1000.0 if unbounded else None,
        )

    def of_run(self, run: str) -> list[Reservation]:
        """A run's reservations, oldest first."""
        return [reservation for reservation in self.reservations.values() if reservation.run == run]

    # --- deciding ---

    def require_clock(self, at_millis: int) -> None:
        """Refuse a clock that ran backwards.

        Raises:
            BudgetError: by more than five minutes.
        """
        if self.last_at_millis is not None and at_millis < self.last_at_millis - CLOCK_TOLERANCE_MILLIS:
            behind = (self.last_at_millis - at_millis) / 1000.0
            raise BudgetError(
                f"the clock is {behind:.0f} s behind the ledger's newest entry; may be at most 300 s behind, "
                "until an operator acknowledges the change; nothing was spent"
            )

    def plan_reservation(
        self, request: SpendRequest, policy: LedgerPolicy, fingerprints: Iterable[str]
    ) -> tuple[str, list[NewEntry]]:
        """Decide on one attempt at one round.

        Args:
            request: what would be released.
            policy: the site's.
            fingerprints: keyed fingerprints of the request's patients.

        Returns:
            The reservation's id and the entries to append.

        Raises:
            BudgetError: the policy or the cap refuses.
            StateError: the round's bytes are sealed already; they are to be sent again, not made again.
            PrivacyError: the request contradicts itself.
        """
        patients = frozenset(fingerprints)
        if not patients:
            raise PrivacyError("patients is empty; must name every patient whose data the round may touch")
        self._require_unsealed(request)
        charges = self._charges_of(request)
        related = self.related(request.data_set_id, patients)
        entries: list[NewEntry] = []
        if any(isinstance(charge.event, UnboundedEvent) for charge in charges):
            entries += self._accept_unbounded(request, policy, charges)
        else:
            self._require_rigor(request, policy, related)
            order = self.filter_order or _filter_order(charges, policy)
            if self.filter_order is None:
                entries.append(("filter", {"order": order}))
            _require_cap(request, policy, order, related, charges)
        cohort = hashlib.sha256("\n".join(sorted(patients)).encode()).hexdigest()[:32]
        if cohort not in self.cohorts:
            entries.append(("cohort", {"cohort": cohort, "fingerprints": sorted(patients)}))
        reservation_id = f"{request.run}.{request.round_number}.{len(self.of_run(request.run)) + 1}"
        entries.append(("reserved", self._reservation_body(request, reservation_id, cohort, charges)))
        return reservation_id, entries

    def plan_seal(self, reservation_id: str, update_digest: str) -> list[NewEntry]:
        """Bind a reservation to its bytes; nothing to append when it is bound to the same ones already.

        Raises:
            StateError: it is unknown, abandoned, or bound to other bytes.
        """
        reservation = self._known(reservation_id)
        if reservation.status in ("sealed", "committed") and reservation.update_digest == update_digest:
            return []
        if reservation.status != "reserved":
            raise StateError(
                f"reservation {reservation_id} is {reservation.status}; must be reserved to be sealed"
            )
        return [("sealed", {"id": reservation_id, "update_digest": update_digest})]

    def plan_commit(self, reservation_id: str, receipt_json: str) -> list[NewEntry]:
        """Record the server's receipt; nothing to append when the same one is recorded already.

        Raises:
            StateError: the reservation is unknown, not sealed, or has another receipt.
        """
        reservation = self._known(reservation_id)
        if reservation.receipt_json == receipt_json:
            return []
        if reservation.status != "sealed":
            raise StateError(
                f"reservation {reservation_id} is {reservation.status}; must be sealed to take a receipt"
            )
        return [("committed", {"id": reservation_id, "receipt": receipt_json})]

    def plan_abandon(self, reservation_id: str, reason: str) -> list[NewEntry]:
        """Give up on a reservation whose bytes are lost; it stays charged.

        Raises:
            StateError: it is unknown or committed.
        """
        reservation = self._known(reservation_id)
        if reservation.status == "abandoned":
            return []
        if reservation.status == "committed":
            raise StateError(f"reservation {reservation_id} is committed; cannot be abandoned")
        return [("abandoned", {"id": reservation_id, "reason": reason})]

    # --- changing ---

    def apply(self, entry: Entry) -> None:
        """Take one entry into account.

        Raises:
            StateError: its kind is not known to this version.
        """
        body = entry.document()
        match entry.kind:
            case "opened" | "clock_acknowledged":
                pass
            case "filter":
                self.filter_order = body["order"]
            case "cohort":
                self.cohorts[body["cohort"]] = frozenset(body["fingerprints"])
            case "accepted_unbounded":
                self.accepted_runs.add((body["run"], body["data_set"]))
            case "reserved":
                self._apply_reserved(body, entry.at_millis)
            case "sealed":
                self._update(body["id"], status="sealed", update_digest=body["update_digest"])
            case "committed":
                self._update(body["id"], status="committed", receipt_json=body["receipt"])
            case "abandoned":
                self._update(body["id"], status="abandoned")
            case _:
                raise StateError(
                    f"ledger entry {entry.sequence} is of kind {entry.kind}; this version does not know it"
                )
        self.last_at_millis = entry.at_millis

    def _apply_reserved(self, body: dict[str, Any], at_millis: int) -> None:
        fields = {key: value for key, value in body.items() if key != "charges"}
        charges = tuple(Charge.model_validate(charge) for charge in body["charges"])
        new = Reservation(**fields, charges=charges, reserved_at_millis=at_millis)
        for old in self.of_run(new.run):
            if old.round_number == new.round_number and old.status == "reserved":
                self._update(old.id, status="abandoned")
        self.reservations[new.id] = new

    def _update(self, reservation_id: str, **changes: Any) -> None:
        self.reservations[reservation_id] = replace(self.reservations[reservation_id], **changes)

    # --- the rules one by one ---

    def _known(self, reservation_id: str) -> Reservation:
        if reservation_id not in self.reservations:
            raise StateError(f"reservation {reservation_id} is not in the ledger; must be reserved first")
        return self.reservations[reservation_id]

    def _require_unsealed(self, request: SpendRequest) -> None:
        for reservation in self.of_run(request.run):
            same = (reservation.round_number, reservation.base_digest) == (
                request.round_number,
                request.base_digest,
            )
            if same and reservation.status in ("sealed", "committed"):
                raise StateError(
                    f"round {request.round_number} of run {request.run} is {reservation.status} from this "
                    "base model; must be sent again as it is, not made again"
                )

    def _charges_of(self, request: SpendRequest) -> tuple[Charge, ...]:
        end = request.first_step + request.steps
        repeated = any(
            old.first_step < end and request.first_step < old.first_step + old.steps
            for old in self.of_run(request.run)
        )
        return accounting.charges(
            request.privacy,
            unit_count=request.unit_count,
            dimension=request.dimension,
            steps=request.steps,
            first_step=request.first_step,
            repeated=repeated,
        )

    def _accept_unbounded(
        self, request: SpendRequest, policy: LedgerPolicy, charges: Sequence[Charge]
    ) -> list[NewEntry]:
        accepted = next((entry for entry in policy.accept_unbounded if entry.run == request.run), None)
        if accepted is None:
            why = "; ".join(
                charge.event.reason for charge in charges if isinstance(charge.event, UnboundedEvent)
            )
            raise BudgetError(
                f"run {request.run} has no finite guarantee ({why}); policy.accept_unbounded must name it "
                "with a reason and who accepts it; nothing was spent"
            )
        if (request.run, request.data_set_id) in self.accepted_runs:
            return []
        return [("accepted_unbounded", {**accepted.model_dump(), "data_set": request.data_set_id})]

    def _require_rigor(
        self, request: SpendRequest, policy: LedgerPolicy, related: Sequence[Reservation]
    ) -> None:
        mode: str = request.privacy.mode
        if mode != "rigorous" or policy.allow_rigorous_after_unbounded:
            return
        spoiled = next((reservation for reservation in related if reservation.is_unbounded), None)
        if spoiled is not None:
            raise BudgetError(
                f"data set {request.data_set_id} has had no finite guarantee since run {spoiled.run}; a "
                "rigorous run needs policy.allow_rigorous_after_unbounded: true; nothing was spent"
            )

    def _reservation_body(
        self, request: SpendRequest, reservation_id: str, cohort: str, charges: Sequence[Charge]
    ) -> dict[str, Any]:
        attempt = 1 + sum(old.round_number == request.round_number for old in self.of_run(request.run))
        return {
            "id": reservation_id,
            "run": request.run,
            "plan_digest": request.plan_digest,
            "round_number": request.round_number,
            "attempt": attempt,
            "base_digest": request.base_digest,
            "data_set_id": request.data_set_id,
            "cohort": cohort,
            "first_step": request.first_step,
            "steps": request.steps,
            "charges": [charge.model_dump(mode="json") for charge in charges],
        }


def _charges(reservations: Iterable[Reservation]) -> list[Charge]:
    return [charge for reservation in reservations for charge in reservation.charges]


def _filter_order(charges: Sequence[Charge], policy: LedgerPolicy) -> float:
    """The order at which most copies of these charges fit under the cap: largest budget over divergence."""
    curve = accounting.composed_curve(
        Charge(event=charge.event, count=max(charge.count, 1)) for charge in charges
    )
    overhead = renyi.conversion_overhead(accounting.ORDERS, policy.delta)
    copies = (policy.epsilon_cap - overhead) / curve
    return float(accounting.ORDERS[int(np.argmax(copies))])


def _require_cap(
    request: SpendRequest,
    policy: LedgerPolicy,
    order: float,
    related: Sequence[Reservation],
    charges: Sequence[Charge],
) -> None:
    before = [charge for charge in _charges(related) if not isinstance(charge.event, UnboundedEvent)]
    after = accounting.certify([*before, *charges], policy.delta, order=order).epsilon
    if after > policy.epsilon_cap:
        raise BudgetError(
            f"round {request.round_number} of run {request.run} would bring data set {request.data_set_id} "
            f"to epsilon {after:.4g} at delta {policy.delta:g}; policy.epsilon_cap is "
            f"{policy.epsilon_cap:g}; nothing was spent"
        )
