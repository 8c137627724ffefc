"""Transitions and updates, decided and stored in one step: everything here runs in the one database thread.

`RunBook` holds the coordinator's states beside their stored copies; `Intake` is what a site's announced and
committed updates go through. Neither answers before the database has committed.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import replace

import structlog

from adpfl.errors import StateError
from adpfl.federated.aggregation import check_update_tensors
from adpfl.federated.coordinator import judge, step
from adpfl.federated.round_models import RoundModels
from adpfl.federated.run_events import (
    Event,
    ServerRestarted,
    Transition,
    UpdateArrived,
    UpdateNoted,
    UpdateRefused,
    Verdict,
)
from adpfl.federated.run_state import RunState
from adpfl.kill_points import reach
from adpfl.wire import limits
from adpfl.wire.chunks import Manifest
from adpfl.wire.receipts import CommitOutcome, Receipt
from adpfl.wire.transfers import CommitUpdateRequest, OfferRequest
from adpfl_server.limits.refusals import CallRefusedError, Code
from adpfl_server.rounds.tally import Tally
from adpfl_server.store import CommitRow, Store, insert_commit

_log = structlog.get_logger()


class RunBook:
    """The served runs' states; the memory never runs ahead of the disk."""

    def __init__(
        self, store: Store, clock: Callable[[], float], on_transition: Callable[[str, Transition], None]
    ) -> None:
        """Keep states for the runs that `add` and `resume` name.

        Args:
            store: where states are kept.
            clock: Unix seconds.
            on_transition: called after each stored transition, in the database thread.
        """
        self.store = store
        self.clock = clock
        self.states: dict[str, RunState] = {}
        self.tally = Tally()
        """What happened since this start."""
        self._on_transition = on_transition

    def add(self, created: Transition, manifest: Manifest) -> None:
        """Begin a run that the database does not know."""
        run = created.state.plan.run
        self.store.create_run(created, manifest, self.clock())
        self.states[run] = created.state
        self._on_transition(run, created)

    def resume(self, run: str) -> None:
        """Go on with a run from the database; its timeline says that the server restarted."""
        self.states[run] = self.store.state(run)
        self.advance(run, ServerRestarted())
        reach("server.resumed")

    def advance(
        self,
        run: str,
        event: Event,
        also: Callable[[sqlite3.Connection], None] | None = None,
        result: RoundModels | None = None,
    ) -> Transition:
        """Let an event happen: state, records and the rows that `also` writes are stored together."""
        before = self.states[run]
        moved = step(before, event, self.clock())
        if moved.state is before and not moved.timeline and also is None:
            return moved
        moved = replace(moved, timeline=self.store.save(run, moved, also, result))
        self.states[run] = moved.state
        self._on_transition(run, moved)
        return moved

    def close_round(self, run: str, round_number: int, result: RoundModels) -> bool:
        """Publish a round's result; False where chunks of it are gone and it must be added up again."""
        if any(self.store.missing(manifest) for manifest in result.manifests):
            return False
        reach("server.added_up")
        self.advance(run, result.done(round_number), result=result)
        reach("server.closed")
        return True


class Intake:
    """What becomes of the updates that sites announce and commit."""

    def __init__(self, book: RunBook, sign: Callable[[Receipt], bytes]) -> None:
        """Take updates in.

        Args:
            book: the states.
            sign: signs a receipt with the server certificate's key.
        """
        self._book = book
        self._store = book.store
        self._sign = sign

    def offer(self, site: str, request: OfferRequest) -> tuple[str, ...]:
        """Check and keep an announced update; returns the first chunks to push.

        Empty also where the update can no longer count: its commit then gets a receipt that says so.

        Raises:
            CallRefusedError: another update of this round counts already, or this one is of another history.
            ModelMismatchError: its tensors are not the trainable ones of the base model.
        """
        manifest = request.manifest
        event = UpdateArrived(site, request.round, request.base_digest, manifest.digest)
        if self._verdict(request.run, event) is not Verdict.ACCEPTED:
            return ()
        base = self._store.manifest(request.base_digest)
        if base is None:
            raise StateError(f"the base model of round {request.round} of {request.run} is not stored")
        check_update_tensors(manifest, base, self._book.states[request.run].plan.network)
        self._store.add_offer(request.run, request.round, site, manifest, self._book.clock())
        reach("server.offer_kept")
        return self._store.missing(manifest)[: limits.DIGESTS_PER_REQUEST]

    def pushed_manifest(self, site: str, run: str, round_number: int, digest: str) -> Manifest | None:
        """The manifest of an announced update whose chunks may be pushed; None where it can no longer count.

        Raises:
            CallRefusedError: the site announced no such update.
        """
        state = self._book.states[run]
        current = state.open_round
        closing = current is not None and (current.aggregating or site in current.done)
        if state.over or closing or round_number <= state.rounds_closed:
            return None
        manifest = self._store.offered(run, round_number, site, digest)
        if manifest is None:
            raise CallRefusedError(
                Code.FAILED_PRECONDITION,
                f"update {digest[:12]} of round {round_number} of {run} was not announced; call Offer first",
            )
        return manifest

    def end_push(self, site: str, run: str, round_number: int, manifest: Manifest) -> None:
        """Let go of what a push stored after its announced update was collected: nothing else would.

        To be called once nothing of the push is being stored any more.
        """
        if self._store.offered(run, round_number, site, manifest.digest) is None:
            self._store.drop_unnamed(manifest)

    def to_measure(self, site: str, request: CommitUpdateRequest) -> Manifest | None:
        """The update whose norm `commit` must be told; None where the norm decides nothing."""
        state = self._book.states[request.run]
        event = UpdateArrived(site, request.round, request.base_digest, request.update_digest)
        if state.plan.aggregation.max_update_norm is None or judge(state, event) is not Verdict.ACCEPTED:
            return None
        manifest = self._store.offered(request.run, request.round, site, request.update_digest)
        return None if manifest is None or self._store.missing(manifest) else manifest

    def commit(self, site: str, request: CommitUpdateRequest, norm: float | None = None) -> CommitRow:
        """Make an update count, once; the same commit again returns the same receipt.

        An update that was found damaged and sent again counts under the receipt that it has.

        Args:
            site: who commits.
            request: the update and its key.
            norm: the update's, where `to_measure` asked for it.

        Raises:
            CallRefusedError: another update counts under this key, chunks are missing, the update is of
                another history, or its norm is above the plan's bound.
            StateError: the norm is not known and must be.
        """
        event = UpdateArrived(site, request.round, request.base_digest, request.update_digest)
        verdict = self._verdict(request.run, event)
        known = self._store.commit_row(request.run, request.round, site)
        if verdict is Verdict.REPEATED:
            if known is None:
                raise StateError(f"round {request.round} of {request.run} counts an update without a receipt")
            self._note(request.run, event, verdict)
            return known
        if verdict is Verdict.ACCEPTED:
            self._check_complete(site, request)
            if known is not None:  # it was accepted once, and so measured
                self._book.advance(request.run, event)
                return known
            self._check_norm(request.run, event, norm)
        outcome = CommitOutcome.ACCEPTED if verdict is Verdict.ACCEPTED else CommitOutcome.LATE
        row = self._receipt_row(site, request, outcome)
        reach("server.committing")
        self._book.advance(request.run, event, also=lambda connection: insert_commit(connection, row))
        reach("server.committed")
        self._book.tally.update(request.run, verdict)
        return row

    def _verdict(self, run: str, event: UpdateArrived) -> Verdict:
        """ACCEPTED, LATE or REPEATED; everything else is noted in the timeline and refused."""
        state = self._book.states[run]
        known = self._store.commit_row(run, event.round, event.site)
        if known is not None:
            same = (known.base_digest, known.update_digest) == (event.base_digest, event.update_digest)
            if same:  # what is judged to be new all the same was lost to a damaged disk
                counts = known.outcome is CommitOutcome.ACCEPTED and judge(state, event) is Verdict.ACCEPTED
                return Verdict.ACCEPTED if counts else Verdict.REPEATED
            self._note(run, event, Verdict.CONFLICTING)
            raise CallRefusedError(
                Code.ALREADY_EXISTS,
                f"{event.site} has committed update {known.update_digest[:12]} for round {event.round} "
                f"of {run}; {event.update_digest[:12]} is another one",
            )
        verdict = judge(state, event)
        base = self._store.model_digest(run, event.round - 1)
        if verdict is Verdict.FOREIGN or base != event.base_digest:
            self._note(run, event, Verdict.FOREIGN)
            raise CallRefusedError(Code.FAILED_PRECONDITION, _why_foreign(state, event, base))
        if verdict is Verdict.REFUSED:
            self._note(run, event, verdict)
            assert state.open_round is not None, "only a site of the open round is turned away"
            raise _turned_away(event, state.open_round.turned_away[event.site])
        return verdict

    def _note(self, run: str, event: UpdateArrived, verdict: Verdict) -> None:
        noted = UpdateNoted(event.site, event.round, event.base_digest, event.update_digest, verdict)
        self._book.advance(run, noted)
        self._book.tally.update(run, verdict)

    def _check_norm(self, run: str, event: UpdateArrived, norm: float | None) -> None:
        """Refuse, for the rest of the round, an update that would move the model further than is allowed."""
        bound = self._book.states[run].plan.aggregation.max_update_norm
        if bound is None:
            return
        if norm is None:  # the round opened between measuring and deciding
            raise StateError(f"round {event.round} of {run} has just opened; commit the update again")
        _log.info("update measured", run=run, round=event.round, site=event.site, norm=norm, bound=bound)
        if norm <= bound:
            return
        reason = f"its norm is {norm:.6g}; aggregation.max_update_norm is {bound:g}"
        refused = UpdateRefused(event.site, event.round, event.base_digest, event.update_digest, reason)
        self._book.advance(run, refused)
        self._book.tally.update(run, Verdict.REFUSED)
        raise _turned_away(event, reason)

    def _check_complete(self, site: str, request: CommitUpdateRequest) -> None:
        manifest = self._store.offered(request.run, request.round, site, request.update_digest)
        if manifest is None:
            raise CallRefusedError(
                Code.FAILED_PRECONDITION,
                f"update {request.update_digest[:12]} of round {request.round} of {request.run} "
                "was not announced; call Offer first",
            )
        missing = self._store.missing(manifest)
        if missing:
            raise CallRefusedError(
                Code.FAILED_PRECONDITION,
                f"update {request.update_digest[:12]} lacks {len(missing)} of {len(manifest.indices_of)} "
                "chunks; push them first",
            )

    def _receipt_row(self, site: str, request: CommitUpdateRequest, outcome: CommitOutcome) -> CommitRow:
        now = self._book.clock()
        receipt = Receipt(
            run=request.run,
            round=request.round,
            site=site,
            base_digest=request.base_digest,
            update_digest=request.update_digest,
            ledger_head=request.ledger_head,
            outcome=outcome,
            received_unix_millis=int(now * 1000),
        )
        return CommitRow(
            run=request.run,
            round=request.round,
            site=site,
            base_digest=request.base_digest,
            update_digest=request.update_digest,
            ledger_head=request.ledger_head,
            receipt_json=receipt.canonical_json(),
            signature=self._sign(receipt),
            committed_at=now,
        )


def _turned_away(event: UpdateArrived, reason: str) -> CallRefusedError:
    return CallRefusedError(
        Code.INVALID_ARGUMENT,
        f"round {event.round} takes no update of {event.site} any more: one was refused, {reason}",
    )


def _why_foreign(state: RunState, event: UpdateArrived, base: str | None) -> str:
    run = state.plan.run
    if base is None:
        current = state.open_round
        where = f"round {current.round} is open" if current else f"{state.rounds_closed} rounds are closed"
        return f"round {event.round} of {run} has not opened; {where}"
    if base != event.base_digest:
        return (
            f"round {event.round} of {run} has base model {base[:12]}; "
            f"the update was made from {event.base_digest[:12]}, which is of another history"
        )
    return f"run {run} is {state.status} and does not take an update of round {event.round} from {event.site}"
