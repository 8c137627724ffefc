"""Waiting for the consortium's signature: long, patient, and not for what no waiting mends."""

import pytest

from adpfl.errors import IdentityError
from adpfl_client.link.enrollment import AwaitingSignatureError
from adpfl_client.link.enrollment_call import UnreachableError
from adpfl_client.link.signature_wait import LONGEST_WAIT_SECONDS, enroll_and_wait


class Attempts:
    """Raises or returns one thing after the other."""

    def __init__(self, *outcomes):
        self.left = list(outcomes)
        self.told = []
        self.waits = []

    def __call__(self):
        outcome = self.left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def wait(self):
        return enroll_and_wait(self, tell=self.told.append, pause=self.waits.append)


WAITS = AwaitingSignatureError("it waits")
AWAY = UnreachableError("it is away")


def test_a_signature_that_is_there_is_not_waited_for():
    attempts = Attempts("identity")
    assert attempts.wait() == "identity"
    assert attempts.waits == attempts.told == []


def test_it_asks_until_the_signature_is_there_and_says_what_changes():
    attempts = Attempts(*[WAITS] * 40, AWAY, AWAY, WAITS, "identity")
    assert attempts.wait() == "identity"
    assert attempts.told == ["it waits", "it is away", "it waits"]
    assert len(attempts.waits) == 43
    assert all(0 <= seconds <= LONGEST_WAIT_SECONDS for seconds in attempts.waits)


@pytest.mark.parametrize("outcomes", [[AWAY], [IdentityError("no")], [WAITS, IdentityError("no")]])
def test_what_no_waiting_mends_ends_it(outcomes):
    attempts = Attempts(*outcomes, "never")
    with pytest.raises(type(outcomes[-1])):
        attempts.wait()
    assert attempts.left == ["never"]
