"""The messages of one call: each waited for, measured and parsed, in this order, before anybody sees it.

The server takes every call as a stream, a short one as a stream of one message: so a call is admitted before
its message is read, and one whose message never comes is ended with an answer.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from adpfl.errors import ProtocolError
from adpfl.wire import limits
from adpfl_server.limits.refusals import CallRefusedError, Code

REQUEST_BYTES = {
    "Have": limits.DIGEST_LIST_BYTES,
    "Fetch": limits.DIGEST_LIST_BYTES,
    "Offer": limits.MESSAGE_BYTES,
    "Push": limits.MESSAGE_BYTES,
}
"""Calls whose message may be longer than `limits.CONTROL_BYTES`."""


class RawMessages:
    """The messages of one call as gRPC reads them, none of them kept.

    gRPC's own iterator of a call holds the last message until the next one is asked for: a chunk for every
    stream that waits for its turn.
    """

    def __init__(self, context: Any) -> None:
        """Read a call by its servicer context."""
        self._context = context

    def __aiter__(self) -> AsyncIterator[bytes]:
        """All messages."""
        return self

    async def __anext__(self) -> bytes:
        """The next message, as soon as it is whole.

        Raises:
            StopAsyncIteration: there are no more.
        """
        message: bytes = await self._context.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message


class Incoming:
    """What a caller sends in one call."""

    def __init__(
        self, messages: AsyncIterator[bytes], parse: Callable[[bytes], Any], call: str, stall_seconds: float
    ) -> None:
        """Read from gRPC's iterator.

        Args:
            messages: raw, as they come.
            parse: protobuf's parser of one.
            call: the method's short name.
            stall_seconds: how long one may take.
        """
        self._messages = messages
        self._parse = parse
        self._call = call
        self._stall_seconds = stall_seconds
        self._limit = REQUEST_BYTES.get(call, limits.CONTROL_BYTES)

    def __aiter__(self) -> AsyncIterator[Any]:
        """All messages."""
        return self

    async def __anext__(self) -> Any:
        """The next message.

        Raises:
            CallRefusedError: none came in time.
            ProtocolError: it is too long, or not a message of this call.
            StopAsyncIteration: there are no more.
        """
        try:
            async with asyncio.timeout(self._stall_seconds):
                raw = await anext(self._messages)
        except TimeoutError:
            raise stalled(f"{self._call}: no whole message came", self._stall_seconds) from None
        if len(raw) > self._limit:
            raise ProtocolError(f"{self._call}Request has {len(raw)} bytes; must be at most {self._limit}")
        try:
            return self._parse(raw)
        except DecodeError as error:
            raise ProtocolError(f"{self._call}Request is not a message of the contract") from error

    async def one(self) -> Any:
        """The message of a call that has one.

        Raises:
            CallRefusedError: it did not come in time.
            ProtocolError: it is too long, not a message of this call, or there is none.
        """
        async for message in self:
            return message
        raise ProtocolError(f"{self._call}Request is absent; the call ended without it")


def stalled(what: str, seconds: float) -> CallRefusedError:
    """The refusal of a call in which nothing moves."""
    return CallRefusedError(Code.DEADLINE_EXCEEDED, f"{what} within {seconds:g} seconds; the call was ended")
