"""What a server may ask for under an approved plan, whatever the ledger holds already."""

import pytest

from adpfl.errors import ProtocolError
from adpfl.privacy.ledger import Reservation
from adpfl_client.round_rules import REASKED_ROUNDS, require_in_plan
from adpfl_client.spool import SpoolKey


def task(round_number, base="a"):
    return SpoolKey("derm", round_number, base * 64)


def reserved(*tasks):
    return [
        Reservation(
            id=f"r{place}",
            run="derm",
            plan_digest="0" * 64,
            round_number=one.round,
            attempt=1,
            base_digest=one.base_digest,
            data_set_id="set1",
            cohort="c",
            first_step=0,
            steps=2,
            charges=(),
            status="abandoned",
        )
        for place, one in enumerate(tasks)
    ]


@pytest.mark.parametrize("round_number", [1, 2])
def test_the_rounds_of_the_plan_may_be_asked_for(make_plan, round_number):
    require_in_plan(make_plan(rounds=2), task(round_number), ())


@pytest.mark.parametrize("round_number", [-1, 0, 3, 100_000])
def test_no_other_round_may(make_plan, round_number):
    with pytest.raises(ProtocolError, match="the approved plan has rounds 1 to 2"):
        require_in_plan(make_plan(rounds=2), task(round_number), ())


def test_a_few_rounds_may_be_asked_again_from_another_base_and_no_more(make_plan):
    plan = make_plan(rounds=2)
    had = [task(1, "a"), task(2, "b")]
    for base in "0123456789"[:REASKED_ROUNDS]:
        require_in_plan(plan, task(2, base), reserved(*had))
        had.append(task(2, base))
    with pytest.raises(ProtocolError, match=f"task {3 + REASKED_ROUNDS} of a run of 2 rounds"):
        require_in_plan(plan, task(1, "f"), reserved(*had))


def test_a_task_that_is_known_is_never_counted_twice(make_plan):
    plan = make_plan(rounds=1)
    had = [task(1, base) for base in "abcdef"[: 1 + REASKED_ROUNDS]]
    require_in_plan(plan, task(1, "a"), reserved(*had, *had, *had))
