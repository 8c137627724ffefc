"""Silence is measured by the time in which the server could have heard somebody."""

import pytest

from adpfl_server.rounds.silence import LONGEST_STEP_SECONDS, Silence

LIMIT = 10.0


class Listener:
    """A silence whose clock the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.silence = Silence(LIMIT, monotonic=lambda: self.now)

    def listen(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.now += 0.5
            self.silence.look()

    def silent(self, site: str, number: int | None = 1) -> bool:
        return self.silence.lasts_too_long(site, "run", number)


@pytest.fixture
def listener() -> Listener:
    return Listener()


def test_a_site_is_silent_after_the_limit_and_not_before(listener):
    listener.silence.heard("a")
    listener.listen(LIMIT)
    assert not listener.silent("a")
    listener.listen(0.5)
    assert listener.silent("a")
    listener.silence.heard("a")
    assert not listener.silent("a")


def test_a_site_never_heard_has_its_time_from_each_rounds_opening(listener):
    listener.listen(3 * LIMIT)
    assert not listener.silent("a", None)
    assert not listener.silent("a", 1)
    listener.listen(LIMIT + 0.5)
    assert listener.silent("a", 1)
    assert not listener.silent("a", 2)


def test_a_pause_of_the_servers_own_machine_is_no_silence(listener):
    listener.silence.heard("a")
    assert not listener.silent("a")
    listener.now += 3600.0
    listener.silence.look()
    assert not listener.silent("a")
    listener.listen(LIMIT - LONGEST_STEP_SECONDS)
    assert not listener.silent("a")
    listener.listen(0.5)
    assert listener.silent("a")
