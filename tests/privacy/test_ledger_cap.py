"""The cap: a filter for runs that follow one another, a dedication for one plan that fits only as a whole."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from adpfl.errors import BudgetError, ConfigError, PrivacyError, StateError
from adpfl.privacy import accounting, ledger_cap
from adpfl.privacy.events import Charge, GaussianEvent, LaplaceL1Event
from adpfl.privacy.ledger import LedgerBook, LedgerPolicy, Reservation, SpendRequest
from adpfl.privacy.ledger_chain import GENESIS, canonical, link
from adpfl.privacy.metrics import MetricPlan
from adpfl.privacy.plan import PaperPrivacy, RigorousPrivacy

CAP = 2.0
DELTA = 1e-5
POLICY = LedgerPolicy(epsilon_cap=CAP, delta=DELTA)
ROUNDS, STEPS = 10, 2
EXACT = {"total_steps": ROUNDS * STEPS, "target_epsilon": CAP}


def gaussian(**changes: Any) -> RigorousPrivacy:
    document = {
        "mode": "rigorous",
        "mechanism": "gaussian",
        "threshold": {"method": "fixed", "clip_norm": 1.0},
        "sampling": {"mode": "full"},
        "delta": DELTA,
    }
    return RigorousPrivacy.model_validate(document | changes)


def request(**changes: Any) -> SpendRequest:
    made = SpendRequest(
        run="exact",
        plan_digest="e" * 64,
        privacy=gaussian(**EXACT),
        round_number=1,
        base_digest="b" * 64,
        data_set_id="clinic",
        patients=("ann", "bob"),
        unit_count=100,
        dimension=1000,
        first_step=0,
        steps=STEPS,
        planned_steps=ROUNDS * STEPS,
    )
    return replace(made, **changes)


def later(**changes: Any) -> SpendRequest:
    """Another plan, whose whole is small."""
    small = {"privacy": gaussian(noise_multiplier=200.0), "run": "later", "plan_digest": "1" * 64}
    return request(**(small | {"planned_steps": STEPS} | changes))


class Book(LedgerBook):
    """Numbers, dates and applies what the rules decide, as a store would."""

    count = 0

    def reserve(self, asked: SpendRequest, policy: LedgerPolicy = POLICY) -> Reservation:
        reservation_id, entries = self.plan_reservation(asked, policy, asked.patients)
        for kind, body in entries:
            self.count += 1
            self.apply(link(b"k", GENESIS, sequence=self.count, at_millis=1, kind=kind, body=canonical(body)))
        return self.reservations[reservation_id]

    def run_all(self, first: int = 1, **changes: Any) -> None:
        for number in range(first, ROUNDS + 1):
            self.reserve(request(round_number=number, first_step=STEPS * (number - 1), **changes))


def test_a_run_calibrated_exactly_to_the_cap_finishes() -> None:
    book = Book()
    book.run_all()
    spent = book.spent("clinic", delta=DELTA)
    assert 0.99 * CAP < spent.epsilon <= CAP
    assert spent.dedicated_to == "exact"
    with pytest.raises(BudgetError, match=r"would bring data set clinic to epsilon .*epsilon_cap is 2"):
        book.reserve(request(round_number=ROUNDS + 1, first_step=ROUNDS * STEPS))


def test_by_the_filter_alone_it_would_have_been_stopped_short() -> None:
    book = Book()
    with pytest.raises(BudgetError, match="epsilon_cap is 2"):
        book.run_all(planned_steps=None)
    assert 1 <= len(book.reservations) < ROUNDS
    assert not book.dedications


@pytest.mark.parametrize(
    "changes", [{}, {"data_set_id": "renamed", "patients": ("bob", "cyd")}, {"patients": ("new",)}]
)
def test_once_dedicated_no_other_plan_follows_even_if_the_run_stops_early(changes: dict[str, Any]) -> None:
    book = Book()
    book.reserve(request())
    with pytest.raises(BudgetError, match=r"whole cap of data set .* is dedicated to run exact"):
        book.reserve(later(**changes))
    assert book.reserve(later(data_set_id="other", patients=("cyd",))).status == "reserved"


def test_a_group_that_has_spent_anything_cannot_be_dedicated() -> None:
    book = Book()
    book.reserve(later())
    with pytest.raises(BudgetError, match="by its last round"):
        book.reserve(request())
    assert len(book.reservations) == 1


def test_a_run_that_could_not_finish_is_refused_before_its_first_round() -> None:
    book = Book()
    with pytest.raises(BudgetError, match=r"by its last round; policy\.epsilon_cap is 2; nothing was spent"):
        book.reserve(request(planned_steps=2 * ROUNDS * STEPS))
    assert not book.reservations
    assert not book.terms
    with pytest.raises(ConfigError, match="planned_steps is 1; must be at least the 2"):
        book.reserve(request(planned_steps=1))


def test_a_plan_that_fits_the_filter_leaves_room_for_others() -> None:
    book = Book()
    book.reserve(later(planned_steps=STEPS))
    assert not book.dedications
    second = book.reserve(later(run="second", plan_digest="2" * 64, privacy=gaussian(noise_multiplier=50.0)))
    assert second.orders == book.reservations["later.1.1"].orders != ()
    assert book.spent("clinic", delta=DELTA).epsilon <= CAP


def test_the_last_round_of_a_dedicated_run_is_lost_to_a_crash_and_nothing_is_passed() -> None:
    book = Book()
    book.reserve(request())
    book.reserve(request())  # made again after a crash: charged again
    with pytest.raises(BudgetError, match="epsilon_cap"):
        book.run_all(2)
    assert book.spent("clinic", delta=DELTA).epsilon <= CAP
    assert max(one.round_number for one in book.reservations.values()) == ROUNDS - 1


def test_a_lower_cap_counts_at_once() -> None:
    book = Book()
    book.reserve(request())
    lower = POLICY.model_copy(update={"epsilon_cap": 0.5})
    with pytest.raises(BudgetError, match=r"epsilon_cap is 0\.5"):
        book.reserve(request(round_number=2, first_step=STEPS), lower)


def test_groups_that_began_apart_are_held_to_both_their_orders() -> None:
    book = Book()
    strong = gaussian(noise_multiplier=300.0)
    weak = gaussian(mechanism="laplace_l2", noise_multiplier=20.0)
    apart = {"data_set_id": "left", "patients": ("ann",), "planned_steps": None}
    book.reserve(later(privacy=strong, **apart), POLICY.model_copy(update={"epsilon_cap": 0.2}))
    apart = {"data_set_id": "right", "patients": ("bob",), "planned_steps": None}
    book.reserve(later(run="weak", plan_digest="2" * 64, privacy=weak, **apart))
    left, right = (one.orders for one in book.reservations.values())
    assert left != right
    joined = later(run="joined", plan_digest="3" * 64, data_set_id="both", planned_steps=None)
    assert book.reserve(joined).orders == tuple(sorted({*left, *right}))
    charges = ledger_cap.all_charges(book.reservations.values())
    worst = max(accounting.certify(charges, DELTA, order=order).epsilon for order in (*left, *right))
    assert book.spent("both", delta=DELTA).epsilon == worst


G = GaussianEvent(sensitivity=1, scale_bits=10, dimension=5)
M = LaplaceL1Event(sensitivity=1, scale_bits=10, dimension=1)


@pytest.mark.parametrize(
    ("spent", "member"),
    [((0, 0), (0, 0)), ((1, 0), (1, 1)), ((10, 2), (10, 2)), ((5, 2), (10, 2)), ((11, 0), (11, 3))],
)
def test_the_enclosing_member_of_the_chain(spent: tuple[int, int], member: tuple[int, int]) -> None:
    whole = (Charge(event=G, count=10), Charge(event=M, count=2))
    found = ledger_cap.enclosing([Charge(event=G, count=spent[0]), Charge(event=M, count=spent[1])], whole)
    assert tuple(charge.count for charge in found) == member


def test_what_is_not_part_of_the_dedicated_plan_is_refused() -> None:
    with pytest.raises(StateError, match="other releases"):
        ledger_cap.enclosing([Charge(event=M, count=1)], [Charge(event=G, count=1)])


def test_a_planned_metric_is_part_of_the_whole_and_is_charged() -> None:
    metric = MetricPlan(epsilon=0.05, every_rounds=5)
    planned = (metric.charge(reports=metric.reports(ROUNDS)),)
    looser = gaussian(total_steps=ROUNDS * STEPS, target_epsilon=1.9)
    book = Book()
    begin = {"privacy": looser, "planned_metrics": planned}
    book.reserve(request(**begin))
    before = book.spent("clinic", delta=DELTA).epsilon
    report = {"metric": metric, "steps": 0, "round_number": 5, "unit_count": 20, "patients": ("held out",)}
    made = book.reserve(request(privacy=looser, **report))
    assert (made.metric, made.charges) == ("mean_dice", (metric.charge(reports=1),))
    assert book.spent("clinic", delta=DELTA).epsilon > before
    with pytest.raises(PrivacyError, match="steps is 2; must be 0 where a metric is released"):
        book.reserve(request(privacy=looser, **(report | {"steps": 2})))


def test_a_metric_cannot_begin_a_run() -> None:
    with pytest.raises(StateError, match="has not trained yet"):
        Book().reserve(request(metric=MetricPlan(epsilon=0.01), steps=0, planned_steps=None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan_digest": "f" * 64}, "plan_digest is f+; must be e+, as declared once"),
        ({"unit_count": 99}, "unit_count is 99; must be 100, as declared once"),
        ({"dimension": 7}, "dimension is 7; must be 1000"),
    ],
)
def test_a_run_keeps_what_it_declared(changes: dict[str, Any], message: str) -> None:
    book = Book()
    book.reserve(request())
    with pytest.raises(StateError, match=message):
        book.reserve(request(round_number=2, first_step=STEPS, **changes))


def test_rigorous_runs_are_refused_after_an_unbounded_one_unless_the_policy_says_otherwise(
    paper_plan: Callable[..., PaperPrivacy],
) -> None:
    book = Book()
    signed = {"run": "open", "reason": "public images", "by": "Dr. Ada"}
    policy = LedgerPolicy.model_validate(POLICY.model_dump() | {"accept_unbounded": (signed,)})
    adaptive = paper_plan(threshold={"method": "percentile"})
    book.reserve(request(run="open", plan_digest="0" * 64, privacy=adaptive), policy)
    with pytest.raises(BudgetError, match=r"no finite guarantee since run open.*allow_rigorous_after_unbou"):
        book.reserve(request(), policy)
    generous = policy.model_copy(update={"allow_rigorous_after_unbounded": True})
    book.reserve(request(), generous)
    spent = book.spent("clinic", delta=DELTA)
    assert spent.epsilon == math.inf
    assert 0 < spent.epsilon_of_finite_runs < CAP


def test_foresight_tells_what_the_whole_run_would_take_and_changes_nothing() -> None:
    book = Book()
    forecast = book.foresee(request(), POLICY, ("ann", "bob"))
    assert forecast.dedicated
    assert 0.99 * CAP < forecast.epsilon_after <= CAP
    assert not book.reservations
    shared = book.foresee(later(), POLICY, ("ann", "bob"))
    assert not shared.dedicated
    with pytest.raises(BudgetError, match="by its last round"):
        book.foresee(request(planned_steps=100), POLICY, ("ann", "bob"))


def test_patients_are_charged_for_all_their_records() -> None:
    book = Book()
    plan = gaussian(noise_multiplier=400.0, unit="record", records_per_patient=4)
    book.reserve(later(privacy=plan))
    figure = book.guarantee_of("later")
    assert figure.epsilon_per_patient == book.spent("clinic", delta=DELTA).epsilon
    assert figure.epsilon_per_patient > 3 * figure.epsilon > 0
    planned = accounting.guarantee(plan, unit_count=100, dimension=1000, steps=STEPS)
    assert (figure.epsilon, figure.epsilon_per_patient) == (planned.epsilon, planned.epsilon_per_patient)
