"""The `limits:` block of `server.yaml`."""

import pytest

from adpfl.errors import ConfigError


def test_every_key_may_be_left_out(consortium):
    assert consortium.configure().limits == consortium.configure(limits={}).limits


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"calls_per_second": 0}, "limits.calls_per_second is 0; must be greater than 0"),
        ({"calls_per_second": "many"}, "limits.calls_per_second is 'many'; must be a number"),
        ({"calls_at_once": 2}, "limits.calls_at_once is 2"),
        ({"connections": 1}, "limits.connections is 1"),
        ({"handshake_seconds": 0.1}, "limits.handshake_seconds is 0.1"),
        ({"stall_seconds": float("inf")}, "limits.stall_seconds"),
        ({"calls": 3}, "limits.calls is not a known key"),
        ({"transfers_at_once": 33}, "transfers_at_once is 33; must be at most calls_at_once, 32"),
        ({"transfers_in_all": 7}, "transfers_at_once is 8; must be at most transfers_in_all, 7"),
        (
            {"enrollments_per_minute": 9},
            "enrollments_per_minute_per_address is 30; must be at most enrollments_per_minute, 9",
        ),
    ],
)
def test_a_limit_that_breaks_a_rule_stops_the_start(consortium, limits, said):
    with pytest.raises(ConfigError) as error:
        consortium.configure(limits=limits)
    assert said in str(error.value)


def test_grpc_is_told(consortium):
    limits = consortium.configure(limits={"handshake_seconds": 5, "calls_at_once": 10}).limits
    options = dict(limits.main_port_options(100))
    assert options["grpc.max_allowed_incoming_connections"] == 100
    assert options["grpc.server_handshake_timeout_ms"] == 5000
    assert options["grpc.max_concurrent_streams"] == 20
    assert options["grpc.max_connection_idle_ms"] == 600_000
