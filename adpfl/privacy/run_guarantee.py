"""The honest figure of one run as it was charged, not as it was planned."""

import math
from collections.abc import Sequence

from adpfl.privacy import accounting, ledger_cap
from adpfl.privacy.events import Charge, UnboundedEvent
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
    epsilon = ledger_cap.group_epsilon(finite, figure.delta, dedicated=dedicated)
    if_fixed = [
        Charge(event=charge.event.if_fixed, count=charge.count)
        for reservation in reservations
        for charge in reservation.charges
        if isinstance(charge.event, UnboundedEvent) and charge.event.if_fixed is not None
    ]
    return figure.model_copy(
        update={
            "epsilon": epsilon if len(finite) == len(reservations) else math.inf,
            "epsilon_if_fixed": accounting.certify(if_fixed, figure.delta).epsilon if if_fixed else None,
        }
    )
