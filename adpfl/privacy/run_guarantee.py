"""The honest figure of one run as it was charged, not as it was planned."""

import math
from collections.abc import Sequence

from adpfl.privacy import accounting, ledger_cap
from adpfl.privacy.events import Charge, RegisteredEvent, UnboundedEvent
from adpfl.privacy.guarantee import Guarantee
from adpfl.privacy.ledger_records import Reservation
from adpfl.privacy.plan import PrivacyPlan


def spent_guarantee(
    privacy: PrivacyPlan,
    reservations: Sequence[Reservation],
    *,
    unit_count: int,
    dimension: int,
    delta: float | None = None,
    dedicated: Sequence[Charge] | None = None,
) -> Guarantee:
    """What one run has cost so far: every attempt is charged, whether or not its update was ever sent.

    Args:
        privacy: the run's plan.
        reservations: all of the run's.
        unit_count: n, as declared.
        dimension: D, trainable parameters of the network.
        delta: at which to state it; the plan's own by default.
        dedicated: what the plan costs as a whole, where the cap is dedicated to it.
    """
    steps = sum(reservation.steps for reservation in reservations)
    figure = accounting.guarantee(
        privacy, unit_count=unit_count, dimension=dimension, steps=steps, delta=delta
    )
    # Steps alone do not tell what a repeated attempt costs under `partition`; the ledger's own charges do.
    finite = [reservation for reservation in reservations if not reservation.is_unbounded]
    unbounded = len(finite) < len(reservations)
    of_patient = ledger_cap.group_epsilon(finite, figure.delta, dedicated=dedicated)
    if figure.records_per_patient is None:
        of_unit = of_patient
    else:
        # The ledger charges patients; the run's own unit is the record.
        of_unit = accounting.certify(_of_one_record(ledger_cap.all_charges(finite)), figure.delta).epsilon
    if_fixed = [
        Charge(event=charge.event.if_fixed, count=charge.count)
        for reservation in reservations
        for charge in reservation.charges
        if isinstance(charge.event, UnboundedEvent) and charge.event.if_fixed is not None
    ]
    return figure.model_copy(
        update={
            "epsilon": math.inf if unbounded else of_unit,
            "epsilon_if_fixed": accounting.certify(if_fixed, figure.delta).epsilon if if_fixed else None,
            "epsilon_per_patient": None if figure.records_per_patient is None else of_patient,
        }
    )


def _of_one_record(charges: Sequence[Charge]) -> list[Charge]:
    """What one record was exposed to, from what a patient of several was."""
    return [
        charge
        if isinstance(charge.event, UnboundedEvent | RegisteredEvent)
        else Charge(event=charge.event.model_copy(update={"records": 1}), count=charge.count)
        for charge in charges
    ]
