"""The cap on what one group of patients may spend, over all runs for good.

Runs whose parameters are chosen after seeing earlier releases do not simply add up to the best figure over
all orders and accountants, because that best one would itself be chosen after the fact. Two ways of adding
up stay valid, and which of them holds for a group is settled before its first release.

**The filter.** One Renyi order is fixed for a group of patients before their first release. A release is
admitted while the divergences at that order add up to no more than certifies the cap: a Renyi filter
(Feldman, Zrnic, "Individual Privacy Accounting via a Renyi Filter", 2021). Any number of runs, each chosen
in the light of those before it. The order is that at which most copies of the first plan fit under the cap.

**The dedication.** Where a group has spent nothing and a plan fits the cap only as a whole, by the best
accountant and not by the filter, the whole cap is dedicated to that plan and no other plan is ever
admitted. Within one plan nothing is chosen after the fact but when to stop and what to make again after a
crash. Both only move along a chain of compositions, each containing the one before (`enclosing`), so the
figure of the last member that fits the cap holds for whatever happens. The two grounds exclude each other by
the plan and the policy alone, never by what was released: that is why the choice between them costs nothing.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from adpfl.errors import BudgetError, StateError
from adpfl.privacy import accounting, renyi
from adpfl.privacy.events import Charge, Event, UnboundedEvent
from adpfl.privacy.guarantee import shown_epsilon
from adpfl.privacy.ledger_records import LedgerPolicy, Reservation


@dataclass(frozen=True)
class Admission:
    """The ground on which a spend is let in."""

    orders: tuple[float, ...]
    """What the group is held to from now on; empty where the cap is dedicated."""
    epsilon_after: float
    """Of the whole plan where it is known and begins now, of what is spent by then otherwise."""
    dedicates: bool
    """Whether this very spend dedicates the cap to its plan."""


def admit(
    before: Sequence[Reservation],
    charges: Sequence[Charge],
    policy: LedgerPolicy,
    *,
    plan_digest: str,
    whole: Sequence[Charge] | None,
    dedicated: Sequence[Charge] | None,
) -> Admission:
    """Decide whether one spend keeps a group of patients under the cap.

    Args:
        before: the group's reservations with a finite guarantee, of all runs.
        charges: what would be spent now; finite.
        policy: the site's.
        plan_digest: of the run that asks.
        whole: what the run's plan costs from first to last step, where that is known.
        dedicated: the same, as recorded when the cap was dedicated to this plan; None if it was not.

    Raises:
        BudgetError: it would pass the cap; the message says what epsilon would be reached.
    """
    spent = all_charges(before)
    if dedicated is not None:
        bound = enclosing([*spent, *charges], dedicated)
        return Admission(
            (), _within(accounting.certify(bound, policy.delta).epsilon, policy), dedicates=False
        )
    orders = orders_of(before) or (_best_order(whole or charges, policy),)
    begins = whole is not None and all(one.plan_digest != plan_digest for one in before)
    if not begins or whole is None:
        after = filtered_epsilon([*spent, *charges], policy.delta, orders)
        return Admission(orders, _within(after, policy), dedicates=False)
    after = filtered_epsilon([*spent, *whole], policy.delta, orders)
    if after <= policy.epsilon_cap:
        return Admission(orders, after, dedicates=False)
    if before:
        raise _refusal(after, policy, " by its last round")
    alone = accounting.certify(whole, policy.delta).epsilon
    if alone > policy.epsilon_cap:
        raise _refusal(alone, policy, " by its last round")
    return Admission((), alone, dedicates=True)


def enclosing(spent: Iterable[Charge], whole: Sequence[Charge]) -> tuple[Charge, ...]:
    """The least member of the plan's chain of compositions that contains what was spent.

    Members are ceil(t * counts of the whole) for rising t: each contains the one before, so however the
    releases of the plan came about (stopped early, made again after a crash), they are among those of the
    last member admitted. With a single kind of event the member is the count itself.

    Raises:
        StateError: something was spent that is not part of the plan.
    """
    counts: dict[Event, int] = {}
    for charge in spent:
        if charge.count:
            counts[charge.event] = counts.get(charge.event, 0) + charge.count
    planned: dict[Event, int] = {}
    for charge in whole:
        planned[charge.event] = planned.get(charge.event, 0) + charge.count
    if any(not planned.get(event) for event in counts):
        raise StateError("the cap is dedicated to a plan with other releases than these; nothing was spent")
    share = max((Fraction(count, planned[event]) for event, count in counts.items()), default=Fraction(0))
    return tuple(Charge(event=event, count=math.ceil(share * count)) for event, count in planned.items())


def filtered_epsilon(charges: Sequence[Charge], delta: float, orders: Sequence[float]) -> float:
    """The largest of the epsilons at orders fixed beforehand.

    Several orders are held where groups of patients that began apart are charged together: each patient is
    bounded by the order that was fixed before its own first release.
    """
    return max(accounting.certify(charges, delta, order=order).epsilon for order in orders)


def group_epsilon(
    finite: Sequence[Reservation], delta: float, *, dedicated: Sequence[Charge] | None = None
) -> float:
    """What a group's runs with a finite guarantee add up to, at `delta`."""
    spent = all_charges(finite)
    if dedicated is not None:
        return accounting.certify(enclosing(spent, dedicated), delta).epsilon
    plans = {reservation.plan_digest for reservation in finite}
    events = {charge.event for charge in spent if charge.count}
    orders = orders_of(finite)
    if not orders or (len(plans) == 1 and len(events) <= 1):
        # One plan and one kind of release, all fixed in advance: the best accountant may be used.
        return accounting.certify(spent, delta).epsilon
    return filtered_epsilon(spent, delta, orders)


def all_charges(reservations: Iterable[Reservation]) -> list[Charge]:
    """The finite charges of some reservations."""
    return [
        charge
        for reservation in reservations
        for charge in reservation.charges
        if not isinstance(charge.event, UnboundedEvent)
    ]


def orders_of(reservations: Iterable[Reservation]) -> tuple[float, ...]:
    """The orders that some reservations are held to, ascending."""
    return tuple(sorted({order for reservation in reservations for order in reservation.orders}))


def _best_order(charges: Sequence[Charge], policy: LedgerPolicy) -> float:
    """The order at which most copies of these charges fit under the cap: largest budget over divergence."""
    curve = accounting.composed_curve(
        Charge(event=charge.event, count=max(charge.count, 1)) for charge in charges
    )
    overhead = renyi.conversion_overhead(accounting.ORDERS, policy.delta)
    copies = (policy.epsilon_cap - overhead) / curve
    return float(accounting.ORDERS[int(np.argmax(copies))])


def _within(epsilon: float, policy: LedgerPolicy) -> float:
    if epsilon > policy.epsilon_cap:
        raise _refusal(epsilon, policy, "")
    return epsilon


def _refusal(epsilon: float, policy: LedgerPolicy, when: str) -> BudgetError:
    return BudgetError(
        f"epsilon {shown_epsilon(epsilon)} at delta {policy.delta:g}{when}; policy.epsilon_cap is "
        f"{policy.epsilon_cap:g}; nothing was spent",
        rule="policy.epsilon_cap",
    )
