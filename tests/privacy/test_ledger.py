"""The rules alone: an in-memory book, entries applied as a store would."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from adpfl.errors import BudgetError, PrivacyError, StateError
from adpfl.privacy import accounting
from adpfl.privacy.ledger import (
    AcceptUnbounded,
    LedgerBook,
    LedgerPolicy,
    NewEntry,
    Reservation,
    SpendRequest,
)
from adpfl.privacy.ledger_chain import GENESIS, canonical, link
from adpfl.privacy.plan import PaperPrivacy, Sampling, UnsafeNonePrivacy

Plans = Callable[..., PaperPrivacy]
POLICY = LedgerPolicy(epsilon_cap=19.1, delta=1e-5)
UNSAFE = UnsafeNonePrivacy(mode="none", sampling=Sampling(mode="full"))
DIMENSION = 10**6


class Book:
    """A book with a store's habits: it numbers, dates and applies what the rules decide."""

    def __init__(self) -> None:
        self.book = LedgerBook()
        self.count = 0

    def append(self, entries: list[NewEntry]) -> None:
        for kind, body in entries:
            self.count += 1
            self.book.apply(
                link(
                    b"k", GENESIS, sequence=self.count, at_millis=self.count, kind=kind, body=canonical(body)
                )
            )

    def reserve(self, request: SpendRequest, policy: LedgerPolicy = POLICY) -> Reservation:
        reservation_id, entries = self.book.plan_reservation(request, policy, request.patients)
        self.append(entries)
        return self.book.reservations[reservation_id]


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def request_of(paper_plan: Plans) -> Callable[..., SpendRequest]:
    def build(**changes: object) -> SpendRequest:
        request = SpendRequest(
            run="first",
            plan_digest="0" * 64,
            privacy=paper_plan(),
            round_number=1,
            base_digest="b" * 64,
            data_set_id="clinic",
            patients=("ann", "bob"),
            unit_count=100,
            dimension=DIMENSION,
            first_step=0,
            steps=5,
        )
        return replace(request, **changes)  # type: ignore[arg-type]

    return build


Requests = Callable[..., SpendRequest]


def test_a_run_planned_to_the_cap_fits_whole_and_nothing_after_it(book: Book, request_of: Requests) -> None:
    # Ten steps cost 19.047 in all: the cap of 19.1 lets two rounds of five in, and not one step more.
    first = book.reserve(request_of())
    second = book.reserve(request_of(round_number=2, first_step=5))
    assert (first.status, second.status) == ("reserved", "reserved")
    assert book.book.spent("clinic", delta=1e-5).epsilon == pytest.approx(19.047, abs=1e-3)
    with pytest.raises(BudgetError, match=r"would bring data set clinic to epsilon .*epsilon_cap is 19\.1"):
        book.reserve(request_of(round_number=3, first_step=10, steps=1))
    assert len(book.book.reservations) == 2


def test_renaming_run_and_data_set_resets_nothing_while_a_patient_is_shared(
    book: Book, request_of: Requests
) -> None:
    book.reserve(request_of(steps=10))
    renamed = request_of(run="second", data_set_id="renamed", patients=("bob", "cyd"), steps=1)
    with pytest.raises(BudgetError):
        book.reserve(renamed)
    assert book.reserve(replace(renamed, patients=("cyd", "dan"))).status == "reserved"


def test_one_data_set_id_is_charged_together_whoever_is_in_it(book: Book, request_of: Requests) -> None:
    book.reserve(request_of(steps=10))
    with pytest.raises(BudgetError):
        book.reserve(request_of(run="second", patients=("new",), steps=1))


def test_later_runs_are_held_to_the_order_fixed_before_the_first(
    book: Book, request_of: Requests, paper_plan: Plans
) -> None:
    book.reserve(request_of(steps=5))
    (order,) = book.book.reservations["first.1.1"].orders
    other = paper_plan(nominal_epsilon=20.0, sampling=Sampling(mode="poisson", probability=0.01))
    book.reserve(request_of(run="second", plan_digest="1" * 64, privacy=other, steps=50))
    assert book.book.reservations["second.1.1"].orders == (order,)
    charges = [charge for kept in book.book.reservations.values() for charge in kept.charges]
    spent = book.book.spent("clinic", delta=1e-5).epsilon
    assert spent == accounting.certify(charges, 1e-5, order=order).epsilon
    assert spent >= accounting.certify(charges, 1e-5).epsilon


def test_a_crashed_attempt_stays_charged_and_its_steps_are_charged_again(
    book: Book, request_of: Requests
) -> None:
    crashed = book.reserve(request_of())
    again = book.reserve(request_of())
    assert book.book.reservations[crashed.id].status == "abandoned"
    assert (crashed.attempt, again.attempt) == (1, 2)
    assert book.book.spent("clinic", delta=1e-5).epsilon == pytest.approx(19.047, abs=1e-3)
    with pytest.raises(StateError, match="abandoned"):
        book.append(book.book.plan_seal(crashed.id, "d" * 64))


def test_a_redone_half_epoch_is_charged_although_its_epoch_was_paid_for(
    book: Book, request_of: Requests, paper_plan: Plans
) -> None:
    halves = paper_plan(sampling=Sampling(mode="partition", probability=0.1))
    first = book.reserve(request_of(privacy=halves))
    second = book.reserve(request_of(privacy=halves, round_number=2, first_step=5))
    redone = book.reserve(request_of(privacy=halves, round_number=2, first_step=5))
    assert [made.charges[0].count for made in (first, second, redone)] == [1, 0, 1]


def test_a_sealed_round_is_sent_again_and_not_made_again(book: Book, request_of: Requests) -> None:
    made = book.reserve(request_of())
    book.append(book.book.plan_seal(made.id, "d" * 64))
    assert book.book.plan_seal(made.id, "d" * 64) == []
    with pytest.raises(StateError, match="is sealed; must be reserved"):
        book.book.plan_seal(made.id, "e" * 64)
    with pytest.raises(StateError, match="must be sent again as it is"):
        book.reserve(request_of())
    # Another base model is another history: it is made anew, and charged.
    assert book.reserve(request_of(base_digest="c" * 64)).attempt == 2


def test_a_receipt_needs_sealed_bytes_and_is_taken_once(book: Book, request_of: Requests) -> None:
    made = book.reserve(request_of())
    with pytest.raises(StateError, match="is reserved; must be sealed"):
        book.book.plan_commit(made.id, "{}")
    book.append(book.book.plan_seal(made.id, "d" * 64))
    book.append(book.book.plan_commit(made.id, "{}"))
    assert book.book.plan_commit(made.id, "{}") == []
    with pytest.raises(StateError, match="is committed; must be sealed"):
        book.book.plan_commit(made.id, '{"other":1}')
    with pytest.raises(StateError, match="cannot be abandoned"):
        book.book.plan_abandon(made.id, "lost")


def test_lost_bytes_are_given_up_on_the_record_and_stay_charged(book: Book, request_of: Requests) -> None:
    made = book.reserve(request_of())
    book.append(book.book.plan_seal(made.id, "d" * 64))
    book.append(book.book.plan_abandon(made.id, "disk lost"))
    book.reserve(request_of())
    assert book.book.spent("clinic", delta=1e-5).epsilon == pytest.approx(19.047, abs=1e-3)


def test_a_reservation_that_is_not_known_is_refused(book: Book) -> None:
    with pytest.raises(StateError, match=r"first\.1\.1 is not in the ledger"):
        book.book.plan_seal("first.1.1", "d" * 64)


@pytest.mark.parametrize("kind", ["none", "percentile"])
def test_a_run_without_finite_guarantee_needs_the_sites_signature(
    book: Book, request_of: Requests, paper_plan: Plans, kind: str
) -> None:
    plan = UNSAFE if kind == "none" else paper_plan(threshold={"method": "percentile"})
    request = request_of(privacy=plan)
    with pytest.raises(BudgetError, match=r"run first has no finite guarantee .*accept_unbounded"):
        book.reserve(request)
    assert not book.book.reservations
    signed = AcceptUnbounded(run="first", reason="public images", by="Dr. Ada")
    policy = POLICY.model_copy(update={"accept_unbounded": (signed,)})
    book.reserve(request, policy)
    book.reserve(replace(request, round_number=2, first_step=5), policy)
    with pytest.raises(BudgetError, match="run second has no finite guarantee"):
        book.reserve(replace(request, run="second"), policy)
    spent = book.book.spent("clinic", delta=1e-5)
    assert spent.epsilon == math.inf
    assert spent.epsilon_of_finite_runs == 0.0
    assert spent.no_finite_guarantee_since is not None
    assert book.book.accepted_runs == {("first", "clinic")}


def test_what_finite_runs_spend_stays_visible_beside_an_unbounded_one(
    book: Book, request_of: Requests
) -> None:
    signed = AcceptUnbounded(run="open", reason="public images", by="Dr. Ada")
    policy = POLICY.model_copy(update={"accept_unbounded": (signed,)})
    book.reserve(request_of(run="open", privacy=UNSAFE), policy)
    book.reserve(request_of(steps=10), policy)
    spent = book.book.spent("clinic", delta=1e-5)
    assert (spent.epsilon, spent.reservations) == (math.inf, 2)
    assert spent.epsilon_of_finite_runs == pytest.approx(19.047, abs=1e-3)
    with pytest.raises(BudgetError, match="epsilon_cap"):
        book.reserve(request_of(round_number=2, first_step=10, steps=1), policy)


def test_a_clock_more_than_five_minutes_behind_is_refused(book: Book) -> None:
    book.book.latest_at_millis = 1_000_000
    book.book.require_clock(700_000)
    with pytest.raises(BudgetError, match="clock is 301 s behind"):
        book.book.require_clock(699_000)


def test_a_round_without_patients_is_refused(book: Book, request_of: Requests) -> None:
    with pytest.raises(PrivacyError, match="patients is empty"):
        book.reserve(request_of(patients=()))


def test_entries_of_a_later_version_are_not_skipped(book: Book) -> None:
    with pytest.raises(StateError, match="kind refund; this version does not know it"):
        book.append([("refund", {})])
