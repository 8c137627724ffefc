"""The enrolment port's patience: strangers may call it, and one that does not come to the point is ended."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from adpfl.errors import ProtocolError
from adpfl_server.enrollment import REFUSAL
from adpfl_server.limits.attempts import network_of
from adpfl_server.limits.incoming import Incoming
from adpfl_server.limits.refusals import CallRefusedError

MESSAGE_SECONDS: Final = 10.0
"""An enrolment is a token and a small signing request; who needs longer to send them may try again."""
CALLS_PER_ADDRESS: Final = 8
"""Calls that the port holds for one address, so that nobody alone can fill it."""


class PatienceInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpc ships no types
    """Takes each call as a stream of one message, so that the wait for it is ours to end."""

    def __init__(self, message_seconds: float = MESSAGE_SECONDS) -> None:
        """Wait so long for a call's message."""
        self._message_seconds = message_seconds
        self._under_way: Counter[str] = Counter()

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Wrap the handler of a call."""
        handler = await continuation(details)
        if handler is None:
            return None

        async def call(messages: AsyncIterator[bytes], context: Any) -> Any:
            network = network_of(context.peer())
            if self._under_way[network] >= CALLS_PER_ADDRESS:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"this address has {CALLS_PER_ADDRESS} calls under way; no more are taken",
                )
            self._under_way[network] += 1
            try:
                incoming = Incoming(messages, handler.request_deserializer, "Enroll", self._message_seconds)
                return await handler.unary_unary(await _message(incoming, context), context)
            finally:
                self._under_way[network] -= 1
                if not self._under_way[network]:
                    del self._under_way[network]

        return grpc.stream_unary_rpc_method_handler(call, response_serializer=handler.response_serializer)


async def _message(incoming: Incoming, context: Any) -> Any:
    try:
        return await incoming.one()
    except ProtocolError:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, REFUSAL)
    except CallRefusedError:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no request came; the call was ended")
