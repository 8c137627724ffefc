"""Who calls, and how an error answers: the two things that every Federation call has in common.

The caller is the site in the client certificate, which must be known to this server, unrevoked and unexpired
at each call, not only when the connection was made, and again and again within a stream. Our errors become
the contract's status codes; a disk or database in trouble becomes UNAVAILABLE, which a site retries.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Any

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
from adpfl.security.identity import PeerCertificate, peer_certificate
from adpfl_server.refusals import CallRefusedError
from adpfl_server.storage import STORAGE_ERRORS, STORAGE_FAILURE, storage_reason

FEDERATION_PREFIX = "/adpfl.v1.Federation/"

_caller: ContextVar[str] = ContextVar("adpfl_caller")
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
    """The site whose certificate made the call that is being served."""
    return _caller.get()


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
    """Admits calls of known sites to the Federation service; leaves other services (health) alone."""

    def __init__(
        self,
        check_certificate: Callable[[PeerCertificate], Awaitable[None]],
        heard: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        """Admit calls.

        Args:
            check_certificate: raises IdentityError for a certificate that is unknown or revoked.
            heard: told the site of each admitted call.
            clock: Unix seconds.
        """
        self._check_certificate = check_certificate
        self._heard = heard
        self._clock = clock

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Wrap the handler of a Federation call."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(FEDERATION_PREFIX):
            return handler
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(handler.unary_stream, details.method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._single(handler.stream_unary, details.method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._single(handler.unary_unary, details.method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _single(self, behaviour: Callable[[Any, Any], Awaitable[Any]], method: str) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> Any:
            try:
                await self._admit(context)
                return await behaviour(request, context)
            except (AdpflError, *STORAGE_ERRORS) as error:
                await self._refuse(error, method, context)

        return call

    def _streaming(
        self, behaviour: Callable[[Any, Any], AsyncIterator[Any]], method: str
    ) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                await self._admit(context)
                async for answer in behaviour(request, context):
                    yield answer
            except (AdpflError, *STORAGE_ERRORS) as error:
                await self._refuse(error, method, context)

        return call

    async def _admit(self, context: Any) -> None:
        peer = peer_certificate(context.auth_context())
        await self._check_peer(peer)
        _caller.set(peer.site)
        _check.set(partial(self._check_peer, peer))
        self._heard(peer.site)

    async def _check_peer(self, peer: PeerCertificate) -> None:
        if peer.not_after < datetime.fromtimestamp(self._clock(), UTC):
            raise IdentityError(f"certificate {peer.serial} of {peer.site} has expired")
        await self._check_certificate(peer)

    async def _refuse(self, error: Exception, method: str, context: Any) -> None:
        call = method.removeprefix(FEDERATION_PREFIX)
        if isinstance(error, AdpflError):
            code = status_of(error)
            _log.warning(
                "call refused",
                call=call,
                site=_caller.get(None),
                code=code.name,
                reason=str(error),
                peer=context.peer(),
            )
            await context.abort(code, str(error))
        _log.error("storage failed", call=call, site=_caller.get(None), reason=storage_reason(error))
        await context.abort(grpc.StatusCode.UNAVAILABLE, STORAGE_FAILURE)
