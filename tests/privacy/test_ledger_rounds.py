"""Which tasks of a run the ledger charges, whatever a server asks for."""

from dataclasses import replace

import pytest

from adpfl.errors import BudgetError, StateError
from adpfl.privacy.ledger import LedgerBook, LedgerPolicy, SpendRequest
from adpfl.privacy.ledger_chain import GENESIS, canonical, link
from adpfl.privacy.ledger_rounds import REASKED_ROUNDS
from adpfl.privacy.plan import FixedThreshold, PaperPrivacy, Sampling

POLICY = LedgerPolicy(epsilon_cap=1000.0, delta=1e-5)
REQUEST = SpendRequest(
    run="first",
    plan_digest="0" * 64,
    privacy=PaperPrivacy(
        mode="paper",
        nominal_epsilon=10.0,
        reading="multiplier",
        threshold=FixedThreshold(method="fixed", clip_norm=1.0),
        sampling=Sampling(mode="full"),
    ),
    round_number=1,
    base_digest="a" * 64,
    data_set_id="clinic",
    patients=("ann",),
    unit_count=10,
    dimension=1000,
    first_step=0,
    steps=1,
    planned_rounds=2,
)


class Book:
    """Takes what the rules decide at once, as the store does."""

    def __init__(self) -> None:
        self.book = LedgerBook()
        self.count = 0

    def reserve(self, round_number: int, base: str, **changes: object) -> str:
        request = replace(REQUEST, round_number=round_number, base_digest=base * 64, **changes)  # type: ignore[arg-type]
        name, entries = self.book.plan_reservation(request, POLICY, request.patients)
        for kind, body in entries:
            self.count += 1
            text = canonical(body)
            self.book.apply(link(b"k", GENESIS, sequence=self.count, at_millis=1, kind=kind, body=text))
        return name


@pytest.mark.parametrize("round_number", [-1, 0, 3, 100_000])
def test_no_round_outside_the_plan_is_charged(round_number: int) -> None:
    book = Book()
    with pytest.raises(BudgetError, match="the approved plan has rounds 1 to 2") as refused:
        book.reserve(round_number, "a")
    assert refused.value.rule == "plan"
    assert book.book.reservations == {}


def test_a_few_rounds_may_be_asked_again_from_another_base_and_no_more() -> None:
    book = Book()
    book.reserve(1, "a")
    book.reserve(2, "b")
    for base in "0123456789"[:REASKED_ROUNDS]:
        book.reserve(2, base)
    with pytest.raises(BudgetError, match=f"task {3 + REASKED_ROUNDS} of a run of 2 rounds") as refused:
        book.reserve(1, "f")
    assert refused.value.rule == "plan"


def test_a_task_that_is_known_is_never_counted_twice() -> None:
    book = Book()
    for base in "abcdef"[: 2 + REASKED_ROUNDS]:
        book.reserve(1, base)
    for _ in range(5):
        book.reserve(1, "a")
    assert len(book.book.reservations) == 2 + REASKED_ROUNDS + 5


def test_the_number_of_rounds_is_declared_once() -> None:
    book = Book()
    book.reserve(1, "a")
    with pytest.raises(StateError, match="planned_rounds is 3; must be 2"):
        book.reserve(3, "a", planned_rounds=3)
