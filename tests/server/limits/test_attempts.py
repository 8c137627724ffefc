"""Attempts to enrol, counted by address and in all."""

import pytest

from adpfl_server.limits.attempts import Attempts, network_of
from adpfl_server.limits.limits_config import LimitsConfig
from adpfl_server.limits.refusals import CallRefusedError


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_minutes_worth_may_come_at_once_and_no_more():
    clock = Clock()
    attempts = Attempts(LimitsConfig(enrollments_per_minute_per_address=3, enrollments_per_minute=100), clock)
    for _ in range(3):
        attempts.count("ipv4:10.0.0.1:5")
    with pytest.raises(CallRefusedError, match="enrollments_per_minute_per_address is 3") as refusal:
        attempts.count("ipv4:10.0.0.1:6")  # another port is the same address
    assert refusal.value.metadata == (("retry-after-millis", "20000"),)
    attempts.count("ipv4:10.0.0.2:5")
    clock.now = 20.0
    attempts.count("ipv4:10.0.0.1:7")


def test_all_addresses_together_are_bounded():
    attempts = Attempts(LimitsConfig(enrollments_per_minute_per_address=2, enrollments_per_minute=5), Clock())
    for number in range(5):
        attempts.count(f"ipv4:10.0.0.{number}:5")
    with pytest.raises(CallRefusedError, match="enrollments_per_minute is 5"):
        attempts.count("ipv4:10.0.0.9:5")


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("ipv4:192.0.2.7:1234", "192.0.2.7"),
        ("ipv6:%5B2001:db8::1%5D:1234", "2001:db8::/64"),
        ("ipv6:%5B2001:db8::ffff:1%5D:9", "2001:db8::/64"),
        ("ipv6:[2001:db8:0:1::1]:9", "2001:db8:0:1::/64"),
        ("ipv6:[fe80::1%eth0]:9", "fe80::/64"),
        ("ipv6:[::ffff:192.0.2.7]:9", "192.0.2.7"),
        ("unix:/run/x", "unix:/run/x"),
        ("ipv4:nonsense:1", "ipv4:nonsense:1"),
        ("", ""),
    ],
)
def test_a_network_stands_for_who_is_behind_it(peer, network):
    assert network_of(peer) == network
