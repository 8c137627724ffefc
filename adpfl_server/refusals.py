"""Why a call is refused, as one of the contract's status codes."""

from enum import Enum

from adpfl.errors import AdpflError


class Code(Enum):
    """The contract's codes, by gRPC's names; grpc itself is not needed to refuse."""

    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"


class CallRefusedError(AdpflError):
    """A site's call contradicts the contract or the run's state; the message is for the site's operator."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
