"""The background heartbeat: prompt at a change, steady between, silent after the end."""

import threading
import time

from adpfl.errors import ProtocolError
from adpfl.wire.messages import HeartbeatResponse, SiteActivity
from adpfl_client.link.heartbeat import beating


class Server:
    def __init__(self, answer=None):
        self.beats = []
        self.heard = threading.Semaphore(0)
        self.answer = answer

    def __call__(self, request):
        self.beats.append(request)
        self.heard.release()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_change_of_activity_is_heard_at_once():
    server = Server(HeartbeatResponse(obsolete=False))
    with beating(server, run="derm", round_number=3, steps_total=10, interval_seconds=60) as heartbeat:
        heartbeat.steps_done(4)
        heartbeat.activity(SiteActivity.TRAINING)
        assert server.heard.acquire(timeout=5)
        assert not heartbeat.obsolete
    (beat,) = server.beats
    assert (beat.run, beat.round, beat.activity) == ("derm", 3, SiteActivity.TRAINING)
    assert (beat.steps_done, beat.steps_total) == (4, 10)


def test_it_beats_at_every_interval_until_the_end():
    server = Server()
    with beating(server, run="derm", round_number=1, steps_total=1, interval_seconds=0.01):
        for _ in range(3):
            assert server.heard.acquire(timeout=5)
    count = len(server.beats)
    time.sleep(0.05)
    assert len(server.beats) == count


def test_an_obsolete_round_is_noticed():
    server = Server(HeartbeatResponse(obsolete=True))
    with beating(server, run="derm", round_number=1, steps_total=1, interval_seconds=0.01) as heartbeat:
        assert server.heard.acquire(timeout=5)
        assert server.heard.acquire(timeout=5)
        assert heartbeat.obsolete


def test_a_server_that_breaks_the_contract_is_not_told_again():
    server = Server(ProtocolError("unknown field"))
    with beating(server, run="derm", round_number=1, steps_total=1, interval_seconds=0.01):
        assert server.heard.acquire(timeout=5)
        assert not server.heard.acquire(timeout=0.1)
