"""Which rounds of a run may be charged: those of the plan that was approved, and no more.

What a site approves is the cost of the plan's rounds. Every task that is new draws noise and is one more
release, so a server that counts on, or asks one round from ever new base models, would take releases that
nobody approved. The cap bounds what they cost; this rule refuses them before anything is reserved.
"""

from collections.abc import Iterable
from typing import Final

from adpfl.errors import BudgetError
from adpfl.privacy.ledger_records import Reservation

REASKED_ROUNDS: Final = 3
"""Tasks beyond the plan's rounds that a run may have. A server that was restored from a backup has forgotten
some rounds and asks them again; where other sites answer otherwise than before, the base model differs."""


def require_planned(
    reservations: Iterable[Reservation],
    *,
    run: str,
    round_number: int,
    base_digest: str,
    planned_rounds: int | None,
) -> None:
    """Refuse a task that the approved plan does not have.

    A task is a round and the base model that it starts from. One that the ledger knows already is not counted
    again: the same bytes answer it, or an attempt that was never sealed is made anew. One that was abandoned
    counts: the site cannot tell whether its noise was drawn.

    Args:
        reservations: everything that the ledger holds of this run, whatever became of it.
        run: the run's name.
        round_number: of the task.
        base_digest: of the task.
        planned_rounds: how many rounds were approved; None where that is not known here.

    Raises:
        BudgetError: the round is not one of the plan's, or the run has had `REASKED_ROUNDS` tasks more than
            the plan has rounds.
    """
    if planned_rounds is None:
        return
    if not 1 <= round_number <= planned_rounds:
        raise BudgetError(
            f"round {round_number} of run {run} is asked for; the approved plan has rounds 1 to "
            f"{planned_rounds}; nothing was spent",
            rule="plan",
        )
    tasks = {(one.round_number, one.base_digest) for one in reservations if one.metric is None}
    tasks.add((round_number, base_digest))
    most = planned_rounds + REASKED_ROUNDS
    if len(tasks) > most:
        raise BudgetError(
            f"round {round_number} of run {run} is asked for from yet another base model; that would be task "
            f"{len(tasks)} of a run of {planned_rounds} rounds, which may have at most {most}; nothing was "
            "spent",
            rule="plan",
        )
