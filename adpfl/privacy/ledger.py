"""The ledger's rules: what may be spent, in what order, by which runs. No storage, no clock.

`LedgerBook` is the state that the entries of `adpfl.privacy.ledger_chain` add up to, with the rules on what
may come next. Its `plan_*` methods check one event against them and return the entries to append, or refuse
with the rule; `apply`, of `adpfl.privacy.ledger_state`, is the only way it changes. What is reserved stays
charged for ever: a crash may waste budget and never reuses it. How charges add up against the cap is
`adpfl.privacy.ledger_cap`'s.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from adpfl.errors import BudgetError, PrivacyError, StateError
from adpfl.privacy import accounting, ledger_cap, ledger_requests, ledger_rounds
from adpfl.privacy.events import Charge, UnboundedEvent
from adpfl.privacy.guarantee import Guarantee
from adpfl.privacy.ledger_records import (
    AcceptUnbounded,
    Approval,
    Exclusion,
    Forecast,
    LedgerPolicy,
    Reservation,
    RunTerms,
    SpendRequest,
    Spent,
)
from adpfl.privacy.ledger_state import SCHEMA, LedgerState
from adpfl.privacy.run_guarantee import spent_guarantee

__all__ = [
    "SCHEMA",
    "AcceptUnbounded",
    "Approval",
    "Exclusion",
    "Forecast",
    "LedgerBook",
    "LedgerPolicy",
    "Reservation",
    "RunTerms",
    "SpendRequest",
    "Spent",
]

CLOCK_TOLERANCE_MILLIS: Final = 5 * 60 * 1000

NewEntry = tuple[str, dict[str, Any]]
"""Kind and body of an entry that is yet to be numbered, dated and chained."""


class LedgerBook(LedgerState):
    """What the entries so far add up to, and what may be added to them."""

    # --- reading ---

    def spent(self, data_set_id: str, *, delta: float) -> Spent:
        """What a data set has spent over all runs, at `delta`."""
        related = self.related(data_set_id)
        unbounded = [reservation for reservation in related if reservation.is_unbounded]
        finite = [reservation for reservation in related if not reservation.is_unbounded]
        dedication = self.dedication_of(finite)
        of_finite = ledger_cap.group_epsilon(
            finite, delta, dedicated=None if dedication is None else dedication.whole
        )
        return Spent(
            data_set_id=data_set_id,
            epsilon=math.inf if unbounded else of_finite,
            epsilon_of_finite_runs=of_finite,
            delta=delta,
            reservations=len(related),
            no_finite_guarantee_since=unbounded[0].reserved_at_millis / 1000.0 if unbounded else None,
            dedicated_to=None if dedication is None else dedication.run,
        )

    def guarantee_of(self, run: str, *, delta: float | None = None) -> Guarantee:
        """The honest figure of everything that was charged for one run, crashed attempts included.

        Args:
            run: has spent something.
            delta: at which to state it; the plan's own by default.

        Raises:
            StateError: the run has spent nothing here.
        """
        terms = self.terms.get(run)
        if terms is None:
            raise StateError(f"run {run} is not in the ledger; it has spent nothing here")
        reservations = self.of_run(run)
        dedication = self.dedication_of(reservations)
        return spent_guarantee(
            terms.privacy_plan(),
            reservations,
            unit_count=terms.unit_count,
            dimension=terms.dimension,
            delta=delta,
            dedicated=None if dedication is None else dedication.whole,
        )

    # --- deciding ---

    def refuses_clock(self, at_millis: int) -> bool:
        """Whether a clock ran backwards by more than is borne."""
        latest = self.latest_at_millis
        return latest is not None and at_millis < latest - CLOCK_TOLERANCE_MILLIS

    def require_clock(self, at_millis: int) -> None:
        """Refuse a clock that ran backwards.

        Raises:
            BudgetError: by more than five minutes.
        """
        latest = self.latest_at_millis
        if latest is not None and self.refuses_clock(at_millis):
            behind = (latest - at_millis) / 1000.0
            raise BudgetError(
                f"the clock is {behind:.0f} s behind the ledger's latest entry; may be at "
                "most 300 s behind, until an operator acknowledges the change with: adpfl-client "
                "acknowledge-clock; nothing was spent",
                rule="ledger.clock",
            )

    def require_planned(
        self, run: str, round_number: int, base_digest: str, *, planned_rounds: int | None
    ) -> None:
        """Refuse a task that the approved plan does not have; see `adpfl.privacy.ledger_rounds`.

        Raises:
            BudgetError: the round is not one of the plan's, or the run has had too many tasks.
        """
        ledger_rounds.require_planned(
            self.of_run(run),
            run=run,
            round_number=round_number,
            base_digest=base_digest,
            planned_rounds=planned_rounds,
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
            BudgetError: the policy or the cap refuses, or the plan has no such round.
            StateError: the round's bytes are sealed already; they are to be sent again, not made again.
            PrivacyError: the request contradicts itself.
        """
        patients = frozenset(fingerprints)
        self._require_participants(patients)
        self._require_same_terms(request)
        self._require_unsealed(request)
        if request.metric is None:
            self.require_planned(
                request.run,
                request.round_number,
                request.base_digest,
                planned_rounds=request.planned_rounds,
            )
        charges = self._charges_of(request)
        admission, entries = self._admit(request, policy, patients, charges)
        if request.run not in self.terms:
            entries.append(("run", ledger_requests.terms_body(request)))
        cohort = hashlib.sha256("\n".join(sorted(patients)).encode()).hexdigest()[:32]
        if cohort not in self.cohorts:
            entries.append(("cohort", {"cohort": cohort, "fingerprints": sorted(patients)}))
        reservation_id = f"{request.run}.{request.round_number}.{len(self.of_run(request.run)) + 1}"
        attempts = self.attempts(request.run, request.round_number, ledger_requests.metric_name(request))
        body = ledger_requests.reservation_body(request, charges) | {
            "id": reservation_id,
            "attempt": len(attempts) + 1,
            "cohort": cohort,
            "patients": len(patients),
            "orders": list(admission.orders),
        }
        entries.append(("reserved", body))
        return reservation_id, entries

    def foresee(self, request: SpendRequest, policy: LedgerPolicy, fingerprints: Iterable[str]) -> Forecast:
        """What a run would bring its patients to, before anything of it is reserved.

        Raises:
            As `plan_reservation`: the run could not begin, or could not finish.
        """
        patients = frozenset(fingerprints)
        self._require_participants(patients)
        self._require_same_terms(request)
        admission, _ = self._admit(request, policy, patients, self._charges_of(request))
        held = self.dedication_of(self.related(request.data_set_id, patients)) is not None
        return Forecast(admission.epsilon_after, dedicated=admission.dedicates or held)

    def plan_exclusion(self, fingerprint: str, *, reason: str, by: str) -> list[NewEntry]:
        """Exclude a patient from every later round; nothing to append when excluded already."""
        if fingerprint in self.excluded:
            return []
        return [("excluded", {"fingerprint": fingerprint, "reason": reason, "by": by})]

    def plan_approval(self, run: str, plan_digest: str, *, by: str) -> list[NewEntry]:
        """Consent to the whole cost of one plan; nothing to append when approved already."""
        if plan_digest in self.approvals:
            return []
        return [("approved", {"run": run, "plan_digest": plan_digest, "by": by})]

    def plan_seal(self, reservation_id: str, update_digest: str) -> list[NewEntry]:
        """Bind a reservation to its bytes; nothing to append when it is bound to the same ones already.

        Raises:
            StateError: it is unknown, abandoned, or bound to other bytes.
        """
        reservation = self.known(reservation_id)
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
        reservation = self.known(reservation_id)
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
        reservation = self.known(reservation_id)
        if reservation.status == "abandoned":
            return []
        if reservation.status == "committed":
            raise StateError(f"reservation {reservation_id} is committed; cannot be abandoned")
        return [("abandoned", {"id": reservation_id, "reason": reason})]

    # --- the rules one by one ---

    def _require_participants(self, patients: frozenset[str]) -> None:
        if not patients:
            raise PrivacyError("patients is empty; must name every patient whose data the round may touch")
        withdrawn = len(patients & self.excluded.keys())
        if withdrawn:
            raise PrivacyError(
                f"patients holds {withdrawn} who are excluded; their data must not be touched; nothing was "
                "spent"
            )

    def _require_same_terms(self, request: SpendRequest) -> None:
        """A run keeps its plan and its declared numbers from its first reservation on."""
        known = self.terms.get(request.run)
        if known is None:
            return
        checks: list[tuple[str, object, object]] = [("plan_digest", known.plan_digest, request.plan_digest)]
        if request.metric is None:
            if known.planned_rounds is not None:
                checks.append(("planned_rounds", known.planned_rounds, request.planned_rounds))
            checks.append(("unit_count", known.unit_count, request.unit_count))
            checks.append(("dimension", known.dimension, request.dimension))
        for key, declared, found in checks:
            if declared != found:
                raise StateError(
                    f"run {request.run}: {key} is {found}; must be {declared}, as declared once when the run "
                    "first spent; nothing was spent"
                )

    def _require_unsealed(self, request: SpendRequest) -> None:
        for reservation in self.attempts(
            request.run, request.round_number, ledger_requests.metric_name(request)
        ):
            same = reservation.base_digest == request.base_digest
            if same and reservation.status in ("sealed", "committed"):
                raise StateError(
                    f"round {request.round_number} of run {request.run} is {reservation.status} from this "
                    "base model; must be sent again as it is, not made again"
                )

    def _charges_of(self, request: SpendRequest) -> tuple[Charge, ...]:
        if request.metric is not None:
            if request.steps:
                raise PrivacyError(f"steps is {request.steps}; must be 0 where a metric is released")
            return (request.metric.charge(reports=1),)
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
            records=ledger_requests.records_of_a_patient(request.privacy),
        )

    def _admit(
        self,
        request: SpendRequest,
        policy: LedgerPolicy,
        patients: frozenset[str],
        charges: Sequence[Charge],
    ) -> tuple[ledger_cap.Admission, list[NewEntry]]:
        """Hold a request against policy and cap; returns the ground and what must be recorded for it."""
        if any(isinstance(charge.event, UnboundedEvent) for charge in charges):
            signed = self._accept_unbounded(request, policy, charges)
            return ledger_cap.Admission((), math.inf, dedicates=False), signed
        related = self.related(request.data_set_id, patients)
        self._require_rigor(request, policy, related)
        before = [reservation for reservation in related if not reservation.is_unbounded]
        dedication = self.dedication_of(before)
        if dedication is not None and dedication.plan_digest != request.plan_digest:
            raise BudgetError(
                f"run {request.run}: the whole cap of data set {request.data_set_id} is dedicated to run "
                f"{dedication.run}; no other plan may follow; nothing was spent",
                rule="ledger.dedicated",
            )
        whole = ledger_requests.whole_charges(request)
        try:
            admission = ledger_cap.admit(
                before,
                charges,
                policy,
                plan_digest=request.plan_digest,
                whole=whole,
                dedicated=None if dedication is None else dedication.whole,
            )
        except BudgetError as error:
            raise BudgetError(
                f"round {request.round_number} of run {request.run} would bring data set "
                f"{request.data_set_id} to {error}",
                rule=error.rule,
            ) from error
        if not admission.dedicates:
            return admission, []
        return admission, [("dedicated", ledger_requests.dedication_body(request, whole or ()))]

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
                "with a reason and who accepts it; nothing was spent",
                rule="policy.accept_unbounded",
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
                "rigorous run needs policy.allow_rigorous_after_unbounded: true; nothing was spent",
                rule="policy.allow_rigorous_after_unbounded",
            )
