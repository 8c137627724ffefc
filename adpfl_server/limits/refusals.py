"""Why a call is refused, as one of the contract's status codes."""

import math
from enum import Enum

from adpfl.errors import AdpflError
from adpfl.wire import limits


class Code(Enum):
    """The contract's codes, by gRPC's names; grpc itself is not needed to refuse."""

    ALREADY_EXISTS = "ALREADY_EXISTS"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"


class CallRefusedError(AdpflError):
    """A site's call contradicts the contract or the run's state; the message is for the site's operator."""

    def __init__(
        self, code: Code, message: str, *, retry_after_seconds: float | None = None, expected: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.expected = expected
        """Whether an honest caller may ask so, as `adpfl-client check` does: no warning in the log."""
        self.retry_after_seconds = retry_after_seconds
        """When the same call may be made again; None where that is no question of time."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What the answer carries besides code and message."""
        if self.retry_after_seconds is None:
            return ()
        return ((limits.RETRY_AFTER_METADATA, str(math.ceil(1000 * self.retry_after_seconds))),)
