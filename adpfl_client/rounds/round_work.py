"""One round at this site: base model in, one noised update out.

The order is what makes a crash harmless. The budget is reserved, durably, before a noised byte exists; the
finished update is sealed in the spool before a byte of it leaves; the same bytes are sent until the server
has signed for them. A crash before the seal costs the reservation, a crash after it costs nothing. The newest
update that was signed for is kept until the next one is: a server restored from a backup asks for it again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from torch import Tensor

from adpfl.errors import (
    DiskUnwritableError,
    IntegrityError,
    ModelMismatchError,
    PrivacyError,
    StateError,
    StorageError,
)
from adpfl.federated.run_plan import RunPlan
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kill_points import reach
from adpfl.learning.initial_model import load_weights
from adpfl.learning.local_update import LocalUpdate, TrainingStoppedError, local_update
from adpfl.learning.networks import TensorLayout
from adpfl.privacy.engine import EngineState, PrivacyEngine
from adpfl.privacy.ledger import Reservation
from adpfl.wire.chunks import ELEMENT_BYTES, Manifest
from adpfl.wire.messages import NextTaskResponse, SiteActivity
from adpfl.wire.receipts import CommitOutcome, SignedReceipt, verify_receipt
from adpfl.wire.transfers import CommitUpdateRequest, CommitUpdateResponse, HaveRequest
from adpfl_client.connection import ServerRefusalError, StopRequestedError
from adpfl_client.guard import check_update
from adpfl_client.ledger.receipts import StoredReceipt, keep_receipt
from adpfl_client.link.heartbeat import Heartbeat, beating
from adpfl_client.local_site import Site
from adpfl_client.operating.leaving import has_left
from adpfl_client.rounds.engine_state import keep_engine_state, read_engine_state
from adpfl_client.rounds.local_run import LocalRun, Participants, participants, spend_request
from adpfl_client.rounds.models import StoredModel, tensor_names
from adpfl_client.rounds.round_display import ShownRound
from adpfl_client.spool import SpooledUpdate, SpoolKey

log = structlog.get_logger()


@dataclass(frozen=True)
class _Audience:
    """Who is told how a round goes: the server, and the person at the terminal."""

    heartbeat: Heartbeat
    shown: ShownRound

    def activity(self, activity: SiteActivity) -> None:
        self.heartbeat.activity(activity)
        self.shown.activity(activity)

    def progress(self, *, hidden_from_server: bool) -> Callable[[int, int], None]:
        """What tells of steps done.

        A step takes as long as its batch is large. Under `poisson` the size of a batch is secret, for the
        amplified figure rests on it, and the times at which a count of steps grows would tell it. There the
        server hears that the site trains and no more. Under the other modes every batch's size is public.
        """

        def tell(done: int, _total: int) -> None:
            self.shown.steps_done(done)
            if not hidden_from_server:
                self.heartbeat.steps_done(done)

        return tell


def do_round(site: Site, run: LocalRun, task: NextTaskResponse) -> bool:
    """Answer a TRAIN task: send the update that is already sealed for it, or train one and send that.

    Returns:
        Whether the update was committed; False where the round closed before it was trained.

    Raises:
        BudgetError: the ledger refuses the round, or the approved plan has no such task; nothing was spent.
        ModelMismatchError: the base model is not one of the plan's network.
        StopRequestedError: the agent was asked to stop.
    """
    assert task.base_digest is not None
    key = SpoolKey(run.name, task.round, task.base_digest)
    site.ledger.require_planned(key.run, key.round, key.base_digest, planned_rounds=run.plan.rounds)
    settle_other_tasks(site, run, key)
    total = run.plan.local.steps
    with (
        beating(
            site.connection.heartbeat, run=run.name, round_number=task.round, steps_total=total
        ) as heartbeat,
        site.display.showing(run.name, task.round, rounds=run.plan.rounds, steps=total) as shown,
    ):
        audience = _Audience(heartbeat, shown)
        update = _sealed_update(site, run, key)
        if update is not None:
            run.recorder.note("update_resent", round_number=task.round, detail="the same bytes as before")
        else:
            audience.activity(SiteActivity.FETCHING)
            _check_start(run.plan, task)
            base = fetch_model(site, run, task.round - 1, task.base_digest)
            update = _train(site, run, key, base, audience)
            if update is None:
                return False
        audience.activity(SiteActivity.PUSHING)
        _send(site, run, update)
    return True


def _check_start(plan: RunPlan, task: NextTaskResponse) -> None:
    """The first round of a warm start must start from the very weights that the site approved.

    Raises:
        ModelMismatchError: it starts from others.
    """
    expected = None if plan.warm_start is None else plan.warm_start.model_digest
    if task.round == 1 and expected not in (None, task.base_digest):
        raise ModelMismatchError(
            f"round 1 of run {plan.run} starts from model {str(task.base_digest)[:12]}; "
            f"the plan's warm_start.model_digest is {str(expected)[:12]}"
        )


def fetch_model(
    site: Site, run: LocalRun, round_number: int, digest: str, *, averaged: bool = False
) -> StoredModel:
    """The global model after a round, from the store or from the server.

    `averaged` says that it is the average of the models up to that round, for the file that keeps it.

    Names and shapes are checked before a byte is kept.

    Raises:
        ModelMismatchError: its tensors are not those of the plan's network.
    """
    stored = site.models.find(run.name, round_number, digest)
    if stored is not None:
        return stored
    manifest = site.connection.have(HaveRequest(run.name, digest)).manifest
    _check_tensors(manifest, run.layout)
    incoming = site.models.receive(run.plan, round_number, manifest, averaged=averaged)
    site.connection.fetch(run.name, incoming)
    log.info("model received", run=run.name, round=round_number, bytes=manifest.payload_bytes)
    model = site.models.finish(incoming)
    if site.config.keep_models is not None:
        site.models.let_go(run.name, keep=site.config.keep_models)
    return model


def _check_tensors(manifest: Manifest, layout: Sequence[TensorLayout]) -> None:
    found = {tensor.name: tensor.shape for tensor in manifest.tensors}
    expected = {tensor.name: tensor.shape for tensor in layout}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise ModelMismatchError(
                f"tensor {name} is {_shape(found.get(name))} in the server's model; "
                f"the plan's network has {_shape(expected.get(name))}"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no such tensor" if shape is None else f"shape {list(shape)}"


def _sealed_update(site: Site, run: LocalRun, key: SpoolKey) -> SpooledUpdate | None:
    """The update to send again, if the ledger's row was sealed with it; one that was not is discarded."""
    update = site.spool.find(key)
    if update is None:
        return None
    row = _row(site, update)
    if row.status in {"sealed", "committed"} and row.update_digest == update.entry.update_digest:
        return update
    site.spool.remove(update)
    run.recorder.note(
        "update_discarded", round_number=key.round, detail="its ledger row was never sealed; it stays charged"
    )
    log.warning("unsealed update discarded; it stays charged", run=run.name, round=key.round)
    return None


def settle_other_tasks(site: Site, run: LocalRun, key: SpoolKey | None) -> None:
    """Let go of updates that answered earlier tasks of this run: the server has gone on to `key`, or is done.

    Where a crash came between the server's receipt and the ledger, the receipt is asked for once more. While
    the run goes on, the newest update that the server signed for stays: a server that was restored from a
    backup has forgotten it, and only the same bytes can answer its task again.
    """
    places = {row.id: place for place, row in enumerate(site.ledger.reservations(run.name))}
    others = [update for update in site.spool.sealed(run.name) if update.key != key]
    others.sort(key=lambda update: places.get(update.entry.reservation, -1))
    for update in others:
        signed_for = _settle(site, run, update)
        if key is None or update is not others[-1] or not signed_for:
            site.spool.remove(update)


def _settle(site: Site, run: LocalRun, update: SpooledUpdate) -> bool:
    """Bring an earlier task's update to its end; returns whether the server has signed for it."""
    row = _row(site, update)
    if row.status == "committed":
        # Its engine state was kept before it was sent, and later rounds may have moved on from it.
        return True
    keep_engine_state(run.folder, update.entry)
    if row.status != "sealed":
        return False
    try:
        _commit(site, run, update)
    except ServerRefusalError as error:
        run.recorder.note("update_outdated", round_number=update.entry.round, detail=str(error))
        log.warning("update never reached the server; it stays charged", round=update.entry.round)
        return False
    return True


def _row(site: Site, update: SpooledUpdate) -> Reservation:
    """The ledger's row that pays for an update.

    Raises:
        StateError: there is none: ledger and spool are of different histories.
    """
    for reservation in site.ledger.reservations(update.entry.run):
        if reservation.id == update.entry.reservation:
            return reservation
    raise StateError(f"the spooled update of {update.key} has no row in the ledger; one of them was replaced")


def _train(
    site: Site, run: LocalRun, key: SpoolKey, base: StoredModel, audience: _Audience
) -> SpooledUpdate | None:
    weights = load_weights(base.path, run.layout)
    state = read_engine_state(run.folder)
    with site.spool.room(run.name, ELEMENT_BYTES * run.dimension):
        done = _train_reserved(site, run, key, weights, state, audience=audience)
    if done is None:
        return None
    reservation, trained, new_state = done
    reach("client.trained")
    shapes = {name: tuple(tensor.shape) for name, tensor in trained.delta.items()}
    check_update(shapes, {tensor.name: tensor.shape for tensor in run.trainable})
    with _charged():
        update = site.spool.seal(
            key,
            {name: trained.delta[name].numpy() for name in tensor_names(base.path) if name in trained.delta},
            chunk_size=base.chunk_size,
            reservation=reservation.id,
            steps=trained.steps,
            engine_state=new_state.model_dump(mode="json"),
        )
        reach("client.spooled")
        site.ledger.seal(reservation.id, update.entry.update_digest, now=site.clock())
        reach("client.sealed")
    return update


@contextmanager
def _charged() -> Iterator[None]:
    """Work that budget has been reserved for: done again it costs again, so no disk is waited for in it.

    Raises:
        StorageError: the disk refuses.
    """
    try:
        yield
    except DiskUnwritableError as error:
        raise StorageError(str(error)) from error
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise StorageError(
            f"a local file cannot be used: {error.strerror or error}{where}; what was reserved stays charged"
        ) from error


def _train_reserved(
    site: Site,
    run: LocalRun,
    key: SpoolKey,
    weights: dict[str, Tensor],
    state: EngineState | None,
    *,
    audience: _Audience,
) -> tuple[Reservation, LocalUpdate, EngineState] | None:
    """Reserve the round's budget and do its steps; None where the round closed meanwhile."""
    taking_part, reservation = _reserve(site, run, key, state)
    reach("client.reserved")
    audience.activity(SiteActivity.TRAINING)
    log.info(
        "training", run=run.name, round=key.round, steps=run.plan.local.steps, attempt=reservation.attempt
    )
    # A reservation pays for one draw of noise: the key is made for it and dies with it.
    with _charged(), KeystreamKey.fresh() as secret:
        engine = PrivacyEngine(
            run.plan.privacy,
            unit_count=len(run.units),
            dimension=run.dimension,
            key=secret,
            state=state,
            excluded=taking_part.excluded_units,
        )
        try:
            trained = _run_steps(site, run, key.round, weights, engine=engine, audience=audience)
        except TrainingStoppedError as stopped:
            if site.stopping.is_set():
                raise StopRequestedError from stopped
            if not has_left(run.folder):
                run.recorder.note("round_obsolete", round_number=key.round, detail=str(stopped))
            return None
        return reservation, trained, engine.state


def _run_steps(
    site: Site,
    run: LocalRun,
    round_number: int,
    weights: dict[str, Tensor],
    *,
    engine: PrivacyEngine,
    audience: _Audience,
) -> LocalUpdate:
    return local_update(
        weights,
        plan=run.plan,
        task=run.data.task,
        units=run.units,
        engine=engine,
        round_number=round_number,
        progress=audience.progress(hidden_from_server=run.plan.privacy.sampling.mode == "poisson"),
        should_stop=lambda: _must_stop(site, run, audience.heartbeat),
    )


def _must_stop(site: Site, run: LocalRun, heartbeat: Heartbeat) -> bool:
    reach("client.stepping")
    return site.stopping.is_set() or heartbeat.obsolete or has_left(run.folder)


def _reserve(
    site: Site, run: LocalRun, key: SpoolKey, state: EngineState | None
) -> tuple[Participants, Reservation]:
    while True:
        taking_part = participants(site, run)
        request = spend_request(
            site,
            run,
            taking_part.patients,
            round_number=key.round,
            base_digest=key.base_digest,
            first_step=0 if state is None else state.steps_taken,
        )
        try:
            reservation = site.ledger.reserve(request, site.config.policy.ledger_policy(), now=site.clock())
        except PrivacyError:
            if participants(site, run) == taking_part:
                raise
            continue  # somebody was excluded between the question and the reservation: ask again
        with _charged():
            run.recorder.set_guarantee(site.ledger.guarantee_of(run.name))
        return taking_part, reservation


def _send(site: Site, run: LocalRun, update: SpooledUpdate) -> None:
    if _row(site, update).status != "committed":
        keep_engine_state(run.folder, update.entry)
    run.recorder.add_steps(update.entry.round, update.entry.steps)
    site.connection.push(update)
    reach("client.pushed")
    _commit(site, run, update)


def _commit(site: Site, run: LocalRun, update: SpooledUpdate) -> None:
    """Make a pushed update count, and keep the server's first signed receipt for it in the ledger."""
    entry = update.entry
    head = site.ledger.head().hex()
    request = CommitUpdateRequest(run.name, entry.round, entry.base_digest, entry.update_digest, head)
    answer = site.connection.commit(request)
    _check_receipt(site, request, answer)
    reach("client.receipt_received")
    keep_receipt(site.config.state_dir, SignedReceipt(answer.receipt, answer.signature))
    reach("client.receipt_kept")
    if answer.receipt.ledger_head != head:
        # The server signed an earlier attempt at this commit: the head that it saw then must stand in our
        # chain.
        site.ledger.verify(bytes.fromhex(answer.receipt.ledger_head))
    if _row(site, update).status == "committed":
        log.info("update committed again", run=run.name, round=entry.round)
        return
    receipt = StoredReceipt.of(SignedReceipt(answer.receipt, answer.signature))
    site.ledger.commit(entry.reservation, receipt.text(), now=site.clock())
    reach("client.committed")
    if answer.receipt.outcome is CommitOutcome.LATE:
        run.recorder.note(
            "update_late", round_number=entry.round, detail="recorded by the server, not aggregated"
        )
    log.info("update committed", run=run.name, round=entry.round, outcome=answer.receipt.outcome.name)


def _check_receipt(site: Site, request: CommitUpdateRequest, answer: CommitUpdateResponse) -> None:
    """Accept a receipt only if the server signed it, and signed for these very bytes."""
    receipt = answer.receipt
    verify_receipt(receipt, answer.signature, site.identity.server_certificate)
    ours = (site.name, request.run, request.round, request.base_digest, request.update_digest)
    theirs = (receipt.site, receipt.run, receipt.round, receipt.base_digest, receipt.update_digest)
    if ours != theirs:
        raise IntegrityError(
            f"run {request.run}, round {request.round}: the server's receipt is for another update"
        )
