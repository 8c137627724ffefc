"""Waiting for the consortium's signature: an enrolment that is repeated until it is there."""

from collections.abc import Callable
from typing import Final

from adpfl.security.identity import CallerIdentity
from adpfl_client.link.backoff import Backoff
from adpfl_client.link.enrollment import AwaitingSignatureError
from adpfl_client.link.enrollment_call import UnreachableError

FIRST_WAIT_SECONDS: Final = 5.0
LONGEST_WAIT_SECONDS: Final = 300.0
"""Between two questions: people carry the request to the authority and the certificate back."""


def enroll_and_wait(
    attempt: Callable[[], CallerIdentity], *, tell: Callable[[str], None], pause: Callable[[float], object]
) -> CallerIdentity:
    """Repeat an enrolment until its request is signed.

    Args:
        attempt: enrols once.
        tell: is given what is waited for, whenever that changes.
        pause: waits so many seconds.

    Raises:
        IdentityError: the enrolment fails otherwise, or the server cannot be reached the first time.
    """
    backoff = Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
    told = ""
    while True:
        try:
            return attempt()
        except AwaitingSignatureError as error:
            reason = str(error)
        except UnreachableError as error:
            if not told:
                raise
            reason = str(error)
        if reason != told:
            tell(reason)
            told = reason
        pause(backoff.next_wait_seconds())
