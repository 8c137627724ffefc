"""Who calls, what its role may call, and how an error answers: common to all calls of the main port.

The caller is whom the client certificate names, which must be known to this server, unrevoked and unexpired
at each call, not only when the connection was made, and again and again within a stream; `drop` ends the
calls of somebody who was revoked meanwhile. A method that no role is given is refused to all. Our errors
become the contract's status codes; a disk or database in trouble becomes UNAVAILABLE, which a site retries.
How much one caller may take is `admission`'s business, and comes before everything that costs anything.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import grpc
import structlog

from adpfl.errors import (
    AdpflError,
    IdentityError,
    IntegrityError,
    ModelMismatchError,
    ProtocolError,
    StateError,
)
from adpfl.security.certificates import ROLES, Holder, Role
from adpfl.security.identity import PeerCertificate, peer_certificate
from adpfl_server.admission import Admission
from adpfl_server.incoming import Incoming, stalled
from adpfl_server.limits_config import LimitsConfig
from adpfl_server.refusals import CallRefusedError, Code
from adpfl_server.sparse_log import SparseLog
from adpfl_server.storage import STORAGE_ERRORS, STORAGE_FAILURE, storage_reason

OUR_PREFIX: Final = "/adpfl.v1."
HELD_SECONDS: Final = 0.5
"""An answer that sends a caller away until later is held back so long: refusing must not be cheaper to ask
for than serving."""

_READERS: Final = frozenset({"operator", "auditor"})
ALLOWED_ROLES: Final[dict[str, frozenset[str]]] = {
    "/adpfl.v1.Federation/": frozenset({"site"}),
    "/adpfl.v1.Identity/": frozenset(ROLES),
    "/adpfl.v1.Operations/": frozenset({"operator"}),
    "/adpfl.v1.Operations/GetStatus": _READERS,
    "/adpfl.v1.Operations/ReadAuditLog": _READERS,
}
"""Who may call what: a method's own line, or else its service's. What has neither is refused to everybody."""

_caller: ContextVar[PeerCertificate] = ContextVar("adpfl_caller")
_check: ContextVar[Callable[[], Awaitable[None]]] = ContextVar("adpfl_check_caller")
_log = structlog.get_logger()

_CODES: tuple[tuple[type[AdpflError], Any], ...] = (
    (IdentityError, grpc.StatusCode.UNAUTHENTICATED),
    (ProtocolError, grpc.StatusCode.INVALID_ARGUMENT),
    (ModelMismatchError, grpc.StatusCode.INVALID_ARGUMENT),
    (IntegrityError, grpc.StatusCode.DATA_LOSS),
    (StateError, grpc.StatusCode.FAILED_PRECONDITION),
)


def calling_site() -> str:
    """The site whose certificate made the call that is being served; only for methods of sites alone."""
    return _caller.get().holder.name


def caller() -> PeerCertificate:
    """The certificate that made the call that is being served."""
    return _caller.get()


def allowed_roles(method: str) -> frozenset[str]:
    """The roles that may call a method, by its full name; empty where nobody may."""
    service = method[: method.rindex("/") + 1]
    return ALLOWED_ROLES.get(method, ALLOWED_ROLES.get(service, frozenset()))


async def check_caller() -> None:
    """Check the caller's certificate again, as at the start of the call that is being served.

    Raises:
        IdentityError: it has been revoked or has expired since.
    """
    await _check.get()()


def status_of(error: AdpflError) -> Any:
    """The gRPC status code of one of our errors."""
    if isinstance(error, CallRefusedError):
        return grpc.StatusCode[error.code.value]
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.INTERNAL


class IdentityInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpc ships no types
    """Admits known callers to what their role may call; other people's services (health) are only bounded."""

    def __init__(
        self,
        check_certificate: Callable[[PeerCertificate], Awaitable[None]],
        heard: Callable[[str], None],
        clock: Callable[[], float],
        limits: LimitsConfig,
    ) -> None:
        """Admit calls.

        Args:
            check_certificate: raises IdentityError for a certificate that is unknown or revoked.
            heard: told the site of each admitted call of a site.
            clock: Unix seconds.
            limits: the operator's.
        """
        self._check_certificate = check_certificate
        self._heard = heard
        self._clock = clock
        self._stall_seconds = limits.stall_seconds
        self._admission = Admission(limits)
        self._told = SparseLog()
        self._under_way: dict[asyncio.Task[Any], Holder] = {}
        self._dropped: set[asyncio.Task[Any]] = set()

    def drop(self, holders: Collection[Holder]) -> int:
        """End every call under way of these holders, streams and long polls too; returns how many."""
        doomed = [task for task, holder in self._under_way.items() if holder in holders]
        self._dropped.update(doomed)
        for task in doomed:
            task.cancel()
        return len(doomed)

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Wrap the handler of a call.

        Every call of ours is taken as a stream of raw messages (`incoming`).
        """
        handler = await continuation(details)
        if handler is None:
            return None
        if not details.method.startswith(OUR_PREFIX):
            return self._foreign(handler, details.method)
        serve = self._answering(handler, details.method)
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler
        else:
            make = grpc.stream_unary_rpc_method_handler
        return make(serve, response_serializer=handler.response_serializer)

    def _foreign(self, handler: Any, method: str) -> Any:
        """A service that is not ours answers anybody with the consortium's certificate, so many at once."""

        def bounded(behaviour: Callable[[Any, Any], Any]) -> Callable[..., Any]:
            if inspect.isasyncgenfunction(behaviour):

                async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                    try:
                        async with self._bounded(method, context):
                            async for answer in behaviour(request, context):
                                yield answer
                    except AdpflError as error:
                        await self._refuse(error, method, context)

                return stream

            async def call(request: Any, context: Any) -> Any:
                try:
                    async with self._bounded(method, context):
                        return await behaviour(request, context)
                except AdpflError as error:
                    await self._refuse(error, method, context)

            return call

        kinds = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
        (kind,) = (kind for kind in kinds if getattr(handler, kind) is not None)
        return handler._replace(**{kind: bounded(getattr(handler, kind))})

    @asynccontextmanager
    async def _bounded(self, method: str, context: Any) -> AsyncIterator[PeerCertificate]:
        """Let one more call of this caller in, when its turn comes."""
        peer = peer_certificate(context.auth_context())
        _caller.set(peer)
        with self._admission.counted(peer.holder, method), self._counted(peer.holder):
            await self._admission.turn(peer.holder)
            yield peer

    def _answering(self, handler: Any, method: str) -> Callable[..., Any]:
        """Serve a call of ours from its raw messages."""

        async def single(messages: AsyncIterator[bytes], context: Any) -> Any:
            try:
                async with self._bounded(method, context) as peer:
                    await self._admit(peer, method)
                    incoming = self._incoming(messages, handler, method)
                    if handler.request_streaming:
                        return await handler.stream_unary(incoming, context)
                    return await handler.unary_unary(await incoming.one(), context)
            except (AdpflError, *STORAGE_ERRORS) as error:
                await self._refuse(error, method, context)

        async def streaming(messages: AsyncIterator[bytes], context: Any) -> None:
            try:
                async with self._bounded(method, context) as peer:
                    await self._admit(peer, method)
                    request = await self._incoming(messages, handler, method).one()
                    async for answer in handler.unary_stream(request, context):
                        await self._write(answer, context)
            except (AdpflError, *STORAGE_ERRORS) as error:
                await self._refuse(error, method, context)

        return streaming if handler.response_streaming else single

    def _incoming(self, messages: AsyncIterator[bytes], handler: Any, method: str) -> Incoming:
        call = method.rpartition("/")[2]
        return Incoming(messages, handler.request_deserializer, call, self._stall_seconds)

    async def _write(self, answer: Any, context: Any) -> None:
        """Send one answer of a stream, to a caller that reads."""
        try:
            async with asyncio.timeout(self._stall_seconds):
                await context.write(answer)
        except TimeoutError:
            raise stalled("no answer was read", self._stall_seconds) from None

    async def _admit(self, peer: PeerCertificate, method: str) -> None:
        await self._check_peer(peer)
        _check.set(partial(self._check_peer, peer))
        _require_role(peer.holder.role, method)
        if peer.holder.role == "site":
            self._heard(peer.holder.name)

    @contextmanager
    def _counted(self, holder: Holder) -> Iterator[None]:
        """Know the call as under way, so that it can be dropped."""
        task = asyncio.current_task()
        assert task is not None, "gRPC serves each call in a task of its own"
        self._under_way[task] = holder
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._dropped:
                raise  # the caller hung up, or the server stops
            task.uncancel()  # gRPC answers nothing to a call whose task ends as cancelled
            raise IdentityError(f"the certificate of {holder} has been revoked") from None
        finally:
            self._dropped.discard(task)
            self._under_way.pop(task, None)

    async def _check_peer(self, peer: PeerCertificate) -> None:
        if peer.not_after < datetime.fromtimestamp(self._clock(), UTC):
            raise IdentityError(f"certificate {peer.serial} of {peer.holder} has expired")
        await self._check_certificate(peer)

    async def _refuse(self, error: Exception, method: str, context: Any) -> None:
        call = method.rpartition("/")[2]
        peer = _caller.get(None)
        who = str(peer.holder) if peer else None
        if isinstance(error, AdpflError) and not isinstance(error, STORAGE_ERRORS):
            code = status_of(error)
            self._told.tell(
                (who, call, code),
                "call refused",
                call=call,
                caller=who,
                code=code.name,
                reason=str(error),
                peer=context.peer(),
            )
            metadata = error.metadata if isinstance(error, CallRefusedError) else ()
            if metadata:
                await asyncio.sleep(HELD_SECONDS)
            await context.abort(code, str(error), metadata)
        _log.error("storage failed", call=call, caller=who, reason=storage_reason(error))
        await context.abort(grpc.StatusCode.UNAVAILABLE, STORAGE_FAILURE)


def _require_role(role: Role, method: str) -> None:
    allowed = allowed_roles(method)
    if role not in allowed:
        call = method.removeprefix(OUR_PREFIX)
        raise CallRefusedError(
            Code.PERMISSION_DENIED,
            f"{call} is for {' and '.join(sorted(allowed)) or 'nobody'}; the certificate is of role {role}",
        )
