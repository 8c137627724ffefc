"""Who calls, what its role may call, and how an error answers: common to all calls of the main port.

The caller is whom the client certificate names, which must be known to this server, unrevoked and unexpired
at each call, not only when the connection was made, and again and again within a stream; `drop` ends the
calls of somebody who was revoked meanwhile. A method that no role is given is refused to all. Our errors
become the contract's status codes; a disk or database in trouble becomes UNAVAILABLE, which a site retries.
How much one caller may take is `admission`'s business: first by its certificate, so that looking it up has a
bound too, then, once it stands, by its holder.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import grpc

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
from adpfl_server.limits.admission import Admission
from adpfl_server.limits.incoming import Incoming, RawMessages, stalled
from adpfl_server.limits.limits_config import LimitsConfig
from adpfl_server.limits.refusals import CallRefusedError, Code
from adpfl_server.limits.sparse_log import SparseLog
from adpfl_server.storage.trouble import STORAGE_ERRORS, STORAGE_FAILURE, storage_reason

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
    """Admits known callers to what their role may call; services that are not ours (health) to any role."""

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
        self._lookups: Admission[str] = Admission(limits)
        self._admission: Admission[Holder] = Admission(limits)
        self._told = SparseLog()
        self._expected_told = SparseLog(level=logging.INFO)
        self._trouble_told = SparseLog(level=logging.ERROR)
        self._under_way: dict[asyncio.Task[Any], PeerCertificate] = {}
        self._dropped: set[asyncio.Task[Any]] = set()

    def drop(self, serials: Collection[str]) -> int:
        """End every call under way of these certificates, streams and long polls too; returns how many."""
        doomed = [task for task, peer in self._under_way.items() if peer.serial in serials]
        self._dropped.update(doomed)
        for task in doomed:
            task.cancel()
        return len(doomed)

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Wrap the handler of a call: every one is taken as a stream of raw messages (`incoming`)."""
        handler = await continuation(details)
        if handler is None:
            return None
        serve = self._answering(handler, details.method)
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler
        else:
            make = grpc.stream_unary_rpc_method_handler
        return make(serve, response_serializer=handler.response_serializer)

    def _answering(self, handler: Any, method: str) -> Callable[..., Any]:
        """Serve a call from its raw messages."""

        async def serve(_messages: AsyncIterator[bytes], context: Any) -> Any:
            try:
                async with self._admitted(method, context):
                    incoming = self._incoming(RawMessages(context), handler, method)
                    request = incoming if handler.request_streaming else await incoming.one()
                    if handler.response_streaming:
                        behaviour = handler.stream_stream or handler.unary_stream
                        await self._stream(behaviour(request, context), context)
                        return None
                    return await (handler.stream_unary or handler.unary_unary)(request, context)
            except (AdpflError, *STORAGE_ERRORS) as error:
                await self._refuse(error, method, context)

        return serve

    async def _stream(self, answers: Any, context: Any) -> None:
        """Send a behaviour's answers; one that is no generator, as the health service's, writes its own."""
        if inspect.isawaitable(answers):
            await answers
            return
        async for answer in answers:
            await self._write(answer, context)

    @asynccontextmanager
    async def _admitted(self, method: str, context: Any) -> AsyncIterator[None]:
        """Let one more call of this caller in, when its turn comes.

        What a certificate that does not stand asks for is counted by its serial alone: whoever took it from
        its holder takes nothing of what the holder's next one may do.
        """
        peer = peer_certificate(context.auth_context())
        _caller.set(peer)
        certificate = f"certificate {peer.serial} of {peer.holder}"
        with self._known(peer):
            with self._lookups.counted(certificate):
                await self._lookups.turn(certificate)
                await self._check_peer(peer)
            with self._admission.counted(peer.holder, method):
                await self._admission.turn(peer.holder)
                _check.set(partial(self._check_peer, peer))
                if method.startswith(OUR_PREFIX):
                    self._admit(peer.holder, method)
                yield

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

    def _admit(self, holder: Holder, method: str) -> None:
        _require_role(holder.role, method)
        if holder.role == "site":
            self._heard(holder.name)

    @contextmanager
    def _known(self, peer: PeerCertificate) -> Iterator[None]:
        """Know the call as under way, so that it can be dropped."""
        task = asyncio.current_task()
        assert task is not None, "gRPC serves each call in a task of its own"
        self._under_way[task] = peer
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._dropped:
                raise  # the caller hung up, or the server stops
            task.uncancel()  # gRPC answers nothing to a call whose task ends as cancelled
            raise IdentityError(f"the certificate of {peer.holder} has been revoked") from None
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
            expected = isinstance(error, CallRefusedError) and error.expected
            told = self._expected_told if expected else self._told
            told.tell(
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
        reason = storage_reason(error)
        self._trouble_told.tell((who, call), "storage failed", call=call, caller=who, reason=reason)
        await context.abort(grpc.StatusCode.UNAVAILABLE, STORAGE_FAILURE)


def _require_role(role: Role, method: str) -> None:
    allowed = allowed_roles(method)
    if role not in allowed:
        call = method.removeprefix(OUR_PREFIX)
        raise CallRefusedError(
            Code.PERMISSION_DENIED,
            f"{call} is for {' and '.join(sorted(allowed)) or 'nobody'}; the certificate is of role {role}",
        )
