"""The Federation service: each call validated at the edge, decided by the coordinator, stored, then answered.

Nothing here blocks the event loop: rows go through the runner's database thread, bulk data through its file
pool. A long poll is one waiting coroutine.
"""
# ruff: noqa: ARG002, N802 - the contract and gRPC's servicer give the names and the parameters

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog

from adpfl.errors import ProtocolError
from adpfl.federated.run_events import SiteJoined, SiteLeft, SiteReady, SiteRefused, Task
from adpfl.federated.run_state import RunState
from adpfl.federated.site_tasks import obsolete, task_for
from adpfl.wire import limits
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl.wire.bulk import FEDERATION, decode_push, encode_fetch
from adpfl.wire.chunks import Manifest
from adpfl.wire.messages import (
    HeartbeatRequest,
    HeartbeatResponse,
    JoinRequest,
    JoinResponse,
    NextTaskRequest,
    NextTaskResponse,
    ReportMetricsRequest,
    RunOffer,
    RunStatus,
    SiteActivity,
    TaskKind,
)
from adpfl.wire.receipts import Receipt, SignedReceipt
from adpfl.wire.transfers import (
    Chunk,
    CommitUpdateRequest,
    CommitUpdateResponse,
    FetchRequest,
    HaveRequest,
    HaveResponse,
    OfferRequest,
    OfferResponse,
    PushHeader,
    PushResponse,
)
from adpfl_server.interceptors import calling_site, check_caller
from adpfl_server.limits.refusals import CallRefusedError, Code
from adpfl_server.rounds.intake import Intake
from adpfl_server.rounds.norms import UpdateNorms
from adpfl_server.runner import Runner
from adpfl_server.storage.trouble import STORAGE_ERRORS, storage_reason
from adpfl_server.store import CommitRow
from adpfl_server.transfer.receiving import Reception
from adpfl_server.transfer.sending import Outbox
from adpfl_server.transfer.turns import Turns

POLL_HINT_SECONDS = 1
"""How long a site should pause between polls that found nothing."""
CHUNKS_PER_CHECK = 16
"""A stream outlives the check at its start: after so many chunks, the certificate is looked up again."""

_log = structlog.get_logger()


class FederationService(rpc.FederationServicer):
    """All calls of the main port. The caller's site comes from `IdentityInterceptor`."""

    def __init__(self, runner: Runner, intake: Intake, *, version: str, instance_id: str) -> None:
        """Serve the runner's runs.

        Args:
            runner: the runs.
            intake: where updates go.
            version: the server's software version.
            instance_id: random for each start of the server; 32 hexadecimal digits.
        """
        self._runner = runner
        self._intake = intake
        self._norms = UpdateNorms(runner)
        self._version = version
        self._instance_id = instance_id
        self._turns = Turns()
        self._outbox = Outbox(runner, self._turns)

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinResponse:
        """Note the agent's start and its public counts; offer the runs that name the site."""
        join = JoinRequest.from_wire(request)
        site = calling_site()
        if join.site != site:
            raise CallRefusedError(
                Code.PERMISSION_DENIED, f"JoinRequest.site is {join.site}; the certificate is {site}'s"
            )
        if join.run is not None:
            named = [self._run_of(site, join.run)]
        else:
            named = [state for state in self._runner.states.values() if site in state.plan.cohort.sites]
        await self._runner.in_database(
            self._runner.store.declare, site, dict(join.training_patients), self._runner.clock()
        )
        for state in named:
            patients = join.training_patients.get(state.plan.task)
            if (
                patients is not None
            ):  # a site without data for the task is offered the run, and has not joined it
                await self._runner.advance(state.plan.run, SiteJoined(site, join.instance_id, patients))
        offers = tuple(_offer(self._runner.states[state.plan.run]) for state in named)
        row = await self._runner.in_database(self._runner.store.newest_receipt, site)
        return JoinResponse(offers, self._version, self._instance_id, _receipt(row)).to_wire()

    async def NextTask(self, request: pb.NextTaskRequest, context: Any) -> pb.NextTaskResponse:
        """Answer when there is work, or when the asked time is over; the first call makes the site ready."""
        asked = NextTaskRequest.from_wire(request)
        site = calling_site()
        if self._run_of(site, asked.run).site(site).undecided:
            await self._runner.advance(asked.run, SiteReady(site))
        monotonic = asyncio.get_running_loop().time
        until = monotonic() + asked.wait_seconds
        while True:
            task = task_for(self._runner.states[asked.run], site)
            left = until - monotonic()
            if task.kind != "wait" or left <= 0 or self._runner.stopping.is_set():
                return _task_answer(task).to_wire()
            await self._runner.changed(asked.run, min(left, self._runner.sign_of_life_seconds))
            self._runner.heard(site)  # a waiting call is a sign of life: a dead link would have ended it

    async def Have(self, request: pb.HaveRequest, context: Any) -> pb.HaveResponse:
        """Tell a model's manifest and which of its chunks the site lacks."""
        have = HaveRequest.from_wire(request)
        manifest = await self._model(have.run, have.object_digest)
        held = set(have.held_digests)
        missing = [digest for digest in manifest.indices_of if digest not in held]
        return HaveResponse(manifest, tuple(missing[: limits.DIGESTS_PER_REQUEST])).to_wire()

    async def Fetch(self, request: pb.FetchRequest, context: Any) -> AsyncIterator[bytes]:
        """Stream chunks of a model."""
        fetch = FetchRequest.from_wire(request)
        manifest = await self._model(fetch.run, fetch.object_digest)
        for digest in fetch.digests:
            if digest not in manifest.indices_of:
                raise ProtocolError(
                    f"FetchRequest.digests names {digest[:12]}; it is no chunk of {fetch.object_digest[:12]}"
                )
        site, messages = calling_site(), self._outbox.messages(fetch.digests)
        for count, digest in enumerate(fetch.digests):
            if count and count % CHUNKS_PER_CHECK == 0:
                await check_caller()
            message = await anext(messages)
            if message is None:
                await self._model(fetch.run, fetch.object_digest)  # a slow reader's model may be collected
                data = await self._runner.in_files(self._runner.store.blobs.get, digest)
                message = encode_fetch(Chunk(digest, data))
            self._runner.heard(site)
            yield message
            size = manifest.chunk_bytes(manifest.indices_of[digest][0])
            self._runner.book.tally.transferred(site, "sent", size)

    async def Offer(self, request: pb.OfferRequest, context: Any) -> pb.OfferResponse:
        """Check an announced update against the round's base model; ask for what is missing."""
        offer = OfferRequest.from_wire(request)
        site = calling_site()
        self._run_of(site, offer.run)
        missing = await self._runner.in_database(self._intake.offer, site, offer)
        return OfferResponse(missing).to_wire()

    async def Push(
        self, request_iterator: AsyncIterator[PushHeader | Chunk], context: Any
    ) -> pb.PushResponse:
        """Store chunks that were asked for; every check comes before the first byte is written."""
        header = await anext(aiter(request_iterator), None)
        if not isinstance(header, PushHeader):
            raise ProtocolError("PushRequest: the first message of the stream must be the header")
        site = calling_site()
        self._run_of(site, header.run)
        manifest = await self._runner.in_database(
            self._intake.pushed_manifest, site, header.run, header.round, header.update_digest
        )
        if manifest is None:  # too late to count: nothing is missing, and the commit will say so
            return PushResponse(()).to_wire()
        missing = await self._runner.in_files(self._runner.store.missing, manifest)
        received = 0

        async def arrived(size: int) -> None:
            nonlocal received
            received += 1
            if received % CHUNKS_PER_CHECK == 0:
                await check_caller()
            self._runner.book.tally.transferred(site, "received", size)
            self._runner.heard(site)

        reception = Reception(self._runner, self._turns, manifest, missing)
        try:
            async with reception:
                await reception.take_in(request_iterator, arrived)
        finally:  # whoever hung up: what was stored meanwhile may be of an update that is past
            self._runner.spawn(self._end_push(site, header, manifest, reception))
        await check_caller()
        return PushResponse(reception.missing[: limits.DIGESTS_PER_REQUEST]).to_wire()

    async def CommitUpdate(self, request: pb.CommitUpdateRequest, context: Any) -> pb.CommitUpdateResponse:
        """Make an update count; the receipt is on disk before it is sent."""
        commit = CommitUpdateRequest.from_wire(request)
        site = calling_site()
        self._run_of(site, commit.run)
        measured = await self._runner.in_database(self._intake.to_measure, site, commit)
        norm = None if measured is None else await self._norms.of(site, measured)
        row = await self._runner.in_database(self._intake.commit, site, commit, norm)
        return CommitUpdateResponse(Receipt.from_canonical_json(row.receipt_json), row.signature).to_wire()

    async def ReportMetrics(self, request: pb.ReportMetricsRequest, context: Any) -> pb.ReportMetricsResponse:
        """Refuse what the plan does not name; no plan of this version names a metric."""
        report = ReportMetricsRequest.from_wire(request)
        self._run_of(calling_site(), report.run)
        if report.metrics:
            names = ", ".join(sorted(report.metrics))
            raise CallRefusedError(
                Code.PERMISSION_DENIED, f"the plan of {report.run} names no metrics; refused: {names[:500]}"
            )
        return pb.ReportMetricsResponse()

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatResponse:
        """Take a sign of life, a refusal or a leave; say whether the work can still count."""
        beat = HeartbeatRequest.from_wire(request)
        site = calling_site()
        self._run_of(site, beat.run)
        if beat.activity is SiteActivity.REFUSED:
            reason = beat.detail or "no reason given"
            await self._runner.advance(beat.run, SiteRefused(site, reason))
        elif beat.activity is SiteActivity.LEFT:
            await self._runner.advance(beat.run, SiteLeft(site, beat.detail))
        return HeartbeatResponse(obsolete(self._runner.states[beat.run], site, beat.round)).to_wire()

    def _run_of(self, site: str, run: str) -> RunState:
        state = self._runner.states.get(run)
        if state is None:
            raise CallRefusedError(Code.NOT_FOUND, f"there is no run {run}", expected=True)
        if site not in state.plan.cohort.sites:
            raise CallRefusedError(Code.PERMISSION_DENIED, f"run {run} does not name site {site}")
        return state

    async def _model(self, run: str, digest: str) -> Manifest:
        self._run_of(calling_site(), run)
        manifest = await self._runner.in_database(self._find_model, run, digest)
        if manifest is None:
            raise CallRefusedError(Code.NOT_FOUND, f"run {run} keeps no model {digest[:12]}")
        return manifest

    def _find_model(self, run: str, digest: str) -> Manifest | None:
        store = self._runner.store
        return store.manifest(digest) if store.is_model(run, digest) else None

    async def _end_push(
        self, site: str, header: PushHeader, manifest: Manifest, reception: Reception
    ) -> None:
        """Let go of what came for an update that is past."""
        if reception.ended is not None:
            await reception.ended
        try:
            await self._runner.in_database(self._intake.end_push, site, header.run, header.round, manifest)
        except STORAGE_ERRORS as error:
            _log.error("past chunks cannot be let go now", run=header.run, reason=storage_reason(error))


def add_to_server(service: FederationService, server: Any) -> None:
    """Register the service; the two bulk streams with their own encoding, the other calls as generated."""
    handlers = {
        "Push": grpc.stream_unary_rpc_method_handler(
            service.Push,
            request_deserializer=decode_push,
            response_serializer=pb.PushResponse.SerializeToString,
        ),
        "Fetch": grpc.unary_stream_rpc_method_handler(
            service.Fetch, request_deserializer=pb.FetchRequest.FromString
        ),
    }
    rpc.add_FederationServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    server.add_registered_method_handlers(FEDERATION, handlers)  # in the place of the generated ones


def _offer(state: RunState) -> RunOffer:
    return RunOffer(
        run=state.plan.run,
        plan_json=state.plan.canonical_json(),
        plan_digest=state.plan.digest(),
        status=RunStatus[state.shown_status.upper()],
    )


def _receipt(row: CommitRow | None) -> SignedReceipt | None:
    if row is None:
        return None
    return SignedReceipt(Receipt.from_canonical_json(row.receipt_json), row.signature)


def _task_answer(task: Task) -> NextTaskResponse:
    return NextTaskResponse(
        kind=TaskKind[task.kind.upper()],
        round=task.round,
        base_digest=task.base_digest,
        wait_hint_seconds=POLL_HINT_SECONDS if task.kind == "wait" else 0,
        detail=limits.shown_text(task.detail),
    )
