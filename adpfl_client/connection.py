"""The site's side of the wire: every call of the Federation service, retried until the link is back.

The site always dials. A call that fails because of the link (`RETRIED`) is tried again for ever, with
exponential backoff and full jitter; an answer of the server that no retry can change is raised at once.
Streams carry no wall-clock deadline: they are given up only when nothing has moved for `PROGRESS_SECONDS`,
and go on with the chunks that are still missing.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import structlog

from adpfl.errors import AdpflError, ConfigError, IdentityError, IntegrityError, ProtocolError
from adpfl.kill_points import reach
from adpfl.wire import limits
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl.wire.bulk import FETCH_METHOD, PUSH_METHOD, decode_fetch, encode_push
from adpfl.wire.messages import (
    HeartbeatRequest,
    HeartbeatResponse,
    JoinRequest,
    JoinResponse,
    NextTaskRequest,
    NextTaskResponse,
)
from adpfl.wire.operations import RenewRequest, RenewResponse
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
from adpfl_client.link.backoff import Backoff
from adpfl_client.link.overlap import overlapped
from adpfl_client.link.proxy import UNNAMED, Route
from adpfl_client.rounds.models import IncomingModel
from adpfl_client.spool import SpooledUpdate

CALL_SECONDS = 30.0
"""Deadline of a short call; a long poll gets what it may wait on top."""
HEARTBEAT_SECONDS = 10.0
PROGRESS_SECONDS = 60.0
"""A stream in which nothing has moved for so long is cut off and resumed."""
WATCH_INTERVAL_SECONDS = 0.2
CHUNKS_AHEAD = 3
"""Of a stream, that have come and are not yet written, or are read and not yet sent."""

RETRIED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        # A middlebox that resets a stream shows as one of these two; so does a server that fails and is
        # mended.
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Codes that say nothing of the request: the link or the server is in trouble, and the call is tried
again."""

_HANDSHAKE_MARKS = (
    "CERTIFICATE_VERIFY_FAILED",
    "Hostname Verification Check failed",
    "certificate verify failed",
)

LONGEST_PUSHBACK_SECONDS = 60.0
"""The server may ask a site to come back later, but not to stay away."""

LINK_ERRORS = (grpc.RpcError, grpc.FutureCancelledError)

Answer = TypeVar("Answer")
log = structlog.get_logger()


class StopRequestedError(Exception):
    """The agent was asked to stop while it waited; nobody's error."""


class ServerRefusalError(ProtocolError):
    """The server answered a call with a code that no retry changes."""

    def __init__(self, message: str, code: grpc.StatusCode) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class _ActiveCall:
    """A call under way, and when it is given up for lack of progress."""

    call: Any
    monotonic: Callable[[], float]
    progress_seconds: float | None
    """None for calls that carry a deadline of their own."""

    def __post_init__(self) -> None:
        self.moved()

    def moved(self) -> None:
        """Something was sent or received: the deadline starts anew."""
        if self.progress_seconds is not None:
            self._deadline = self.monotonic() + self.progress_seconds

    def is_stalled(self) -> bool:
        """Whether nothing has moved for too long."""
        return self.progress_seconds is not None and self.monotonic() > self._deadline


class Connection:
    """One mutually authenticated channel to the server.

    Methods block; the heartbeat thread may call beside the main one.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        stopping: threading.Event,
        *,
        backoff: Backoff | None = None,
        pause: Callable[[float], object] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        progress_seconds: float = PROGRESS_SECONDS,
        route: Route = UNNAMED,
    ) -> None:
        """Take over an open channel.

        Args:
            channel: as `adpfl.security.tls` opens it.
            stopping: set by a signal handler; every wait then ends with `StopRequestedError` within a second.
            backoff: how long to wait between attempts.
            pause: waits so many seconds, or until `stopping`; tests put their own here.
            monotonic: a clock in seconds that never runs backwards.
            progress_seconds: see `PROGRESS_SECONDS`.
            route: how the channel dials.
        """
        self.outages = 0
        """How many times the link was lost and came back."""
        self.last_outage_seconds = 0.0
        self._use(channel)
        self._stopping = stopping
        self._backoff = backoff or Backoff()
        self._pause = pause or stopping.wait
        self._monotonic = monotonic
        self._progress_seconds = progress_seconds
        self.route = route
        """By which a channel that follows this one dials, too."""
        self._active: list[_ActiveCall] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._ever_answered = False
        self._lost_since: float | None = None
        self._watcher = threading.Thread(target=self._watch, name="connection-watch", daemon=True)
        self._watcher.start()

    def _use(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._stub: Any = rpc.FederationStub(channel)  # type: ignore[no-untyped-call]
        self._identity: Any = rpc.IdentityStub(channel)  # type: ignore[no-untyped-call]
        # The two bulk streams have their own encoding: see `adpfl.wire.bulk`.
        self._fetching: Any = channel.unary_stream(
            FETCH_METHOD, request_serializer=pb.FetchRequest.SerializeToString
        )
        self._pushing: Any = channel.stream_unary(
            PUSH_METHOD, response_deserializer=pb.PushResponse.FromString
        )

    def change_channel(self, channel: grpc.Channel) -> None:
        """Go on over another channel, as after a renewal; the old one is closed. Not during a stream."""
        old = self._channel
        self._use(channel)
        old.close()

    def close(self) -> None:
        """Close the channel and end the watching thread."""
        self._closed.set()
        self._channel.close()
        self._watcher.join()

    def join(self, request: JoinRequest) -> JoinResponse:
        """Declare this agent; learn which runs name the site."""
        return self._retried("Join", lambda: JoinResponse.from_wire(self._call("Join", request.to_wire())))

    def next_task(self, request: NextTaskRequest) -> NextTaskResponse:
        """Ask for the next thing to do; the server may hold the answer back for the seconds asked for."""
        deadline = CALL_SECONDS + request.wait_seconds
        return self._retried(
            "NextTask",
            lambda: NextTaskResponse.from_wire(self._call("NextTask", request.to_wire(), deadline=deadline)),
        )

    def have(self, request: HaveRequest) -> HaveResponse:
        """Learn an object's manifest.

        Raises:
            IntegrityError: the manifest is not that of the object asked for.
        """
        answer = self._retried("Have", lambda: HaveResponse.from_wire(self._call("Have", request.to_wire())))
        if answer.manifest.digest != request.object_digest:
            raise IntegrityError(
                f"the server's manifest of object {request.object_digest[:12]} "
                f"is that of object {answer.manifest.digest[:12]}"
            )
        return answer

    def commit(self, request: CommitUpdateRequest) -> CommitUpdateResponse:
        """Make a pushed update count; idempotent."""
        return self._retried(
            "CommitUpdate",
            lambda: CommitUpdateResponse.from_wire(self._call("CommitUpdate", request.to_wire())),
        )

    def heartbeat(self, request: HeartbeatRequest) -> HeartbeatResponse | None:
        """Say once what the site does; None where that did not arrive, because the next one comes soon."""
        try:
            message = self._call("Heartbeat", request.to_wire(), deadline=HEARTBEAT_SECONDS)
        except LINK_ERRORS as error:
            log.debug("heartbeat lost", code=_code(error).name)
            return None
        return HeartbeatResponse.from_wire(message)

    def renew(self, request: RenewRequest) -> RenewResponse:
        """Ask once for the next certificate.

        Raises:
            IdentityError: the server refuses, or the link is in trouble; the same request may be sent again.
        """
        try:
            message = self._identity.Renew(request.to_wire(), timeout=CALL_SECONDS)
        except LINK_ERRORS as error:
            raise IdentityError(f"Renew: {_code(error).name}: {_details(error)}") from error
        return RenewResponse.from_wire(message)

    def stand_aside(self, request: HeartbeatRequest) -> None:
        """Tell the server, until it has heard it, that this site refuses a run."""
        self._retried("Heartbeat", lambda: self._call("Heartbeat", request.to_wire()))

    def fetch(self, run: str, incoming: IncomingModel) -> None:
        """Receive every chunk that is still missing, over as many streams as the link makes of it.

        Raises:
            IntegrityError: a chunk's bytes are not what its name says.
            ProtocolError: the server sent what was not asked for, or ended without sending what was.
        """
        while incoming.missing:
            self._retried("Fetch", lambda: self._fetch_some(run, incoming))

    def _fetch_some(self, run: str, incoming: IncomingModel) -> None:
        wanted = incoming.missing[: limits.DIGESTS_PER_REQUEST]
        if not wanted:  # the link broke between the last chunk and the stream's end
            return
        request = FetchRequest(run, incoming.manifest.digest, wanted)
        with self._watched(self._fetching(request.to_wire()), self._progress_seconds) as active:
            for _ in overlapped(
                lambda chunk: incoming.write(chunk.digest, chunk.data),
                self._chunks_of(active),
                ahead=CHUNKS_AHEAD,
            ):
                active.moved()
        if incoming.missing[:1] == wanted[:1]:
            raise ProtocolError(f"Fetch: the server ended without sending chunk {wanted[0][:12]}")

    def _chunks_of(self, active: _ActiveCall) -> Iterator[Chunk]:
        for message in active.call:
            active.moved()
            self._answered()
            yield decode_fetch(message)

    def push(self, update: SpooledUpdate) -> None:
        """Offer an update and stream what the server lacks, until it lacks nothing.

        Every attempt begins with an offer, whose answer names the chunks that the server really has not got.

        Raises:
            IntegrityError: the spooled bytes have changed on disk.
            ProtocolError: the server still asks for what it has just received.
        """
        while not self._retried("Push", lambda: self._push_some(update)):
            pass

    def _push_some(self, update: SpooledUpdate) -> bool:
        """Stream one answer's worth of missing chunks; True when nothing was missing."""
        key = update.key
        offer = OfferRequest(key.run, key.round, key.base_digest, update.manifest)
        missing = OfferResponse.from_wire(self._call("Offer", offer.to_wire())).missing
        reach("client.offered")
        if not missing:
            return True
        parts = _PushParts(update, missing)
        with self._watched(self._pushing.future(iter(parts)), self._progress_seconds) as active:
            parts.on_progress = active.moved
            try:
                message = active.call.result()
            except LINK_ERRORS:
                if parts.failure is not None:
                    raise parts.failure from None
                raise
        still_missing = PushResponse.from_wire(message).missing
        if missing[0] in still_missing:
            raise ProtocolError(
                f"Push: the server still asks for chunk {missing[0][:12]}, which it has received"
            )
        return False

    def _call(self, name: str, message: Any, *, deadline: float = CALL_SECONDS) -> Any:
        with self._watched(getattr(self._stub, name).future(message, timeout=deadline), None) as active:
            return active.call.result()

    def _retried(self, name: str, attempt: Callable[[], Answer]) -> Answer:
        while True:
            if self._stopping.is_set():
                raise StopRequestedError
            try:
                answer = attempt()
            except LINK_ERRORS as error:
                self._after_failure(name, error)
            else:
                self._answered()
                return answer

    def _answered(self) -> None:
        self._ever_answered = True
        self._backoff.reset()
        if self._lost_since is not None:
            self.last_outage_seconds = self._monotonic() - self._lost_since
            self.outages += 1
            self._lost_since = None
            log.info("link is back", outage_seconds=round(self.last_outage_seconds, 1))

    def _after_failure(self, name: str, error: Exception) -> None:
        """Wait before the next attempt, or raise what no attempt can change."""
        code, details = _code(error), _details(error)
        if self._stopping.is_set():
            raise StopRequestedError from None
        pushback = _pushback_seconds(error) if code is grpc.StatusCode.RESOURCE_EXHAUSTED else None
        if code not in RETRIED and pushback is None:
            raise _final_error(name, code, details) from error
        refused_by_proxy = self.route.refused(details)
        if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
            details = self.route.explained(details)
        if not self._ever_answered and refused_by_proxy:
            raise ConfigError(f"{name}: {details}") from error
        if not self._ever_answered and any(mark in details for mark in _HANDSHAKE_MARKS):
            # Once the server has been reached, a failed handshake is likelier a captive portal than a wrong
            # bundle.
            raise IdentityError(f"the server's certificate was not accepted: {details}") from error
        if self._lost_since is None and pushback is None:  # a busy server is no lost link
            self._lost_since = self._monotonic()
        seconds = (pushback or 0.0) + self._backoff.next_wait_seconds()
        log.warning(
            "call failed; will try again",
            call=name,
            code=code.name,
            details=details,
            attempt=self._backoff.attempts,
            wait_seconds=round(seconds, 2),
        )
        self._pause(seconds)

    @contextmanager
    def _watched(self, call: Any, progress_seconds: float | None) -> Iterator[_ActiveCall]:
        active = _ActiveCall(call, self._monotonic, progress_seconds)
        with self._lock:
            self._active.append(active)
        try:
            yield active
        finally:
            with self._lock:
                self._active.remove(active)
            call.cancel()  # a stream left half-read would hold its buffers; a finished call ignores it

    def _watch(self) -> None:
        """Cancel calls that stall, and all of them when the agent stops: gRPC's own waits know neither."""
        while not self._closed.wait(WATCH_INTERVAL_SECONDS):
            stopping = self._stopping.is_set()
            with self._lock:
                doomed = [active.call for active in self._active if stopping or active.is_stalled()]
            for call in doomed:
                call.cancel()


class _PushParts:
    """The messages of one push stream; gRPC draws them from a thread of its own."""

    def __init__(self, update: SpooledUpdate, digests: tuple[str, ...]) -> None:
        self._update = update
        self._digests = digests
        self.failure: AdpflError | None = None
        """What went wrong on this side: gRPC would report it as a failed link."""
        self.on_progress: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Any]:
        key = self._update.key
        yield encode_push(PushHeader(key.run, key.round, self._update.manifest.digest))
        try:
            for message in overlapped(self._message, self._digests, ahead=CHUNKS_AHEAD):
                yield message
                reach("client.pushing")
                self.on_progress()  # the part before has found its place in the window
        except AdpflError as error:
            self.failure = error
            raise

    def _message(self, digest: str) -> bytes:
        return encode_push(Chunk(digest, self._update.chunk(digest)))


def _code(error: Exception) -> grpc.StatusCode:
    code = error.code() if isinstance(error, grpc.Call) else None
    return code or grpc.StatusCode.CANCELLED


def _details(error: Exception) -> str:
    details = error.details() if isinstance(error, grpc.Call) else None
    return limits.shown_text(" ".join((details or "the call was cancelled").split()))


def _pushback_seconds(error: Exception) -> float | None:
    """How long the server asks this site to wait before the same call; None where it does not."""
    found = dict(error.trailing_metadata() or ()) if isinstance(error, grpc.Call) else {}
    text = str(found.get(limits.RETRY_AFTER_METADATA, ""))
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    return min(int(text) / 1000, LONGEST_PUSHBACK_SECONDS)


def _final_error(name: str, code: grpc.StatusCode, details: str) -> AdpflError:
    message = f"{name}: the server answered {code.name}: {details}"
    if code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
        return IdentityError(message)
    return ServerRefusalError(message, code)
