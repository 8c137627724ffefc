"""The daemons' waits, twenty times shorter: an outage of minutes fits into a test.

Proportions stay as they are, so that what gives up first in a hospital gives up first here.
"""

from typing import Any

import adpfl_client.agent
import adpfl_client.connection
import adpfl_client.link.backoff
import adpfl_client.link.heartbeat
import adpfl_client.link.running_identity
import adpfl_server.daemon
import adpfl_server.runner
import adpfl_server.storage.weights

FACTOR = 20.0
CHUNK_BYTES = 64 * 1024
"""The least that the wire allows: the tiniest network still has several chunks."""


def scale() -> None:
    """Change this process; what it forks has it too."""
    agent, connection = adpfl_client.agent, adpfl_client.connection
    _divide(agent, "IDLE_SECONDS", "REFUSAL_PAUSE_SECONDS")
    agent.LONG_POLL_SECONDS = 2  # whole seconds on the wire
    _divide(connection, "CALL_SECONDS", "HEARTBEAT_SECONDS", "PROGRESS_SECONDS")
    _default(connection.Connection.__init__, "progress_seconds", connection.PROGRESS_SECONDS)
    _default(connection.Connection._call, "deadline", connection.CALL_SECONDS)
    _divide(adpfl_client.link.heartbeat, "INTERVAL_SECONDS")
    _default(
        adpfl_client.link.heartbeat.beating.__wrapped__,
        "interval_seconds",
        adpfl_client.link.heartbeat.INTERVAL_SECONDS,
    )
    backoff = adpfl_client.link.backoff.Backoff
    first, ceiling, *others = backoff.__init__.__defaults__
    backoff.__init__.__defaults__ = (first / 4, ceiling / FACTOR, *others)
    _options(adpfl_client.link.running_identity, "CHANNEL_OPTIONS")
    _options(adpfl_server.daemon, "SERVER_OPTIONS")
    _divide(adpfl_server.daemon, "STOP_GRACE_SECONDS")
    _divide(adpfl_server.runner, "RETRY_SECONDS")
    adpfl_server.runner.TICK_SECONDS = 0.1
    adpfl_server.storage.weights.DEFAULT_CHUNK_SIZE = CHUNK_BYTES


def _divide(module: Any, *names: str) -> None:
    for name in names:
        setattr(module, name, getattr(module, name) / FACTOR)


def _default(function: Any, name: str, value: float) -> None:
    assert name in function.__kwdefaults__
    function.__kwdefaults__[name] = value


def _options(module: Any, name: str) -> None:
    """Shorten gRPC's times; the first attempt to reconnect then comes after a twentieth of a second too."""
    scaled = {
        key: max(1, int(value / FACTOR)) if key.endswith("_ms") else value
        for key, value in getattr(module, name)
    }
    scaled |= {"grpc.initial_reconnect_backoff_ms": 100, "grpc.min_reconnect_backoff_ms": 1000}
    setattr(module, name, tuple(scaled.items()))
