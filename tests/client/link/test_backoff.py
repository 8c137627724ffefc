"""Exponential backoff with full jitter."""

import random

from adpfl_client.link.backoff import Backoff


def test_bounds_double_up_to_the_ceiling():
    backoff = Backoff(first_seconds=1.0, ceiling_seconds=10.0, uniform=lambda _low, high: high)
    assert [backoff.next_wait_seconds() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_jitter_is_full():
    backoff = Backoff(first_seconds=1.0, ceiling_seconds=1.0, uniform=random.Random(7).uniform)
    waits = [backoff.next_wait_seconds() for _ in range(400)]
    assert 0.0 <= min(waits) < 0.05
    assert 0.95 < max(waits) <= 1.0


def test_a_reset_begins_anew():
    backoff = Backoff(first_seconds=1.0, uniform=lambda _low, high: high)
    backoff.next_wait_seconds()
    backoff.next_wait_seconds()
    backoff.reset()
    assert backoff.next_wait_seconds() == 1.0
    assert backoff.attempts == 1


def test_it_can_go_on_for_ever():
    backoff = Backoff(uniform=lambda _low, high: high)
    backoff.attempts = 10**9
    assert backoff.next_wait_seconds() == backoff.ceiling_seconds
