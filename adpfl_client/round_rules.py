"""Which rounds a server may ask this site for: those of the plan that was approved, and no more.

What a site approves is the cost of `plan.rounds` rounds. Every task that is new draws noise and is one more
release, so a server that counts on, or asks one round from ever new base models, would take releases that
nobody approved. The ledger's cap bounds what they cost; these rules refuse them before anything is reserved.
"""

from collections.abc import Iterable

from adpfl.errors import ProtocolError
from adpfl.federated.run_plan import RunPlan
from adpfl.privacy.ledger import Reservation
from adpfl_client.spool import SpoolKey

REASKED_ROUNDS = 3
"""Tasks beyond the plan's rounds that a run may have. A server that was restored from a backup has forgotten
some rounds and asks them again; where other sites answer otherwise than before, the base model differs."""


def require_in_plan(plan: RunPlan, key: SpoolKey, reservations: Iterable[Reservation]) -> None:
    """Refuse a task that the approved plan does not have.

    A task that the ledger knows already is not counted again: the same bytes answer it, or an attempt that
    was never sealed is made anew.

    Args:
        plan: as the site approved it.
        key: the task: round and base model.
        reservations: everything that the ledger holds of this run, whatever became of it.

    Raises:
        ProtocolError: the round is not one of the plan's, or the run has had `REASKED_ROUNDS` tasks more
            than the plan has rounds.
    """
    if not 1 <= key.round <= plan.rounds:
        raise ProtocolError(
            f"the server asks for round {key.round} of run {plan.run}; the approved plan has rounds 1 to "
            f"{plan.rounds}"
        )
    tasks = {(reservation.round_number, reservation.base_digest) for reservation in reservations}
    tasks.add((key.round, key.base_digest))
    most = plan.rounds + REASKED_ROUNDS
    if len(tasks) > most:
        raise ProtocolError(
            f"the server asks for round {key.round} of run {plan.run} from yet another base model; that "
            f"would be task {len(tasks)} of a run of {plan.rounds} rounds, which may have at most {most}"
        )
