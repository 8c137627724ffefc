"""Lines that others cause."""

import logging

from structlog.testing import capture_logs

from adpfl_server.limits import sparse_log
from adpfl_server.limits.sparse_log import EVERY_SECONDS, SparseLog


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_one_line_now_and_then_says_how_many_there_were():
    clock = Clock()
    log = SparseLog(clock)
    with capture_logs() as logs:
        for _ in range(5):
            log.tell("a", "call refused", reason="x")
        log.tell("b", "call refused", reason="y")
        clock.now = EVERY_SECONDS
        log.tell("a", "call refused", reason="z")
    assert [(line["reason"], line.get("more_meanwhile")) for line in logs] == [
        ("x", None),
        ("y", None),
        ("z", 4),
    ]


def test_the_kinds_that_are_counted_are_bounded(monkeypatch):
    monkeypatch.setattr(sparse_log, "KINDS_KEPT", 10)
    log = SparseLog(Clock())
    with capture_logs() as logs:
        for kind in range(1000):
            log.tell(kind, "call refused")
    assert len(log._told) == 10
    assert len(logs) == 1000


def test_trouble_is_told_as_an_error():
    log = SparseLog(Clock(), level=logging.ERROR)
    with capture_logs() as logs:
        log.tell("a", "storage failed")
    assert [line["log_level"] for line in logs] == ["error"]
