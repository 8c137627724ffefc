"""The `limits:` block of `server.yaml`: how much of the server one caller, and all of them, may take."""

from typing import Annotated

from pydantic import Field, model_validator

from adpfl.config import FrozenModel
from adpfl.security.tls import ChannelOptions

SERVED_AHEAD_SECONDS = 2.0
"""A caller that was quiet may make so many seconds' worth of its calls at once."""
LONGEST_TURN_SECONDS = 2.0
"""A call over the rate waits for its turn so long at most; one that would wait longer is refused."""


class LimitsConfig(FrozenModel):
    """Defaults for some hundred sites: each limit leaves an honest agent an order of magnitude."""

    calls_per_second: Annotated[float, Field(gt=0, le=1e6)] = 500.0
    """Of one caller (a site, operator or auditor, by its certificate), over all its connections. Faster calls
    wait for their turn; those that would wait long are refused."""
    calls_at_once: Annotated[int, Field(ge=4, le=10_000)] = 32
    """Of one caller, long polls and transfers among them."""
    transfers_at_once: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Streams of chunks of one caller; an agent needs one, and those that a cut link left behind."""
    transfers_in_all: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Streams of chunks of all callers together."""
    stall_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """A call whose next whole message does not come, or a stream that is not read, for so long is ended."""
    connections: Annotated[int, Field(ge=8, le=1_000_000)] = 4096
    """Of each of the two ports. Less where the process may not open so many files; the log then says so."""
    handshake_seconds: Annotated[float, Field(ge=1, le=600)] = 20.0
    """A connection that has not proved who it is by then is closed."""
    idle_connection_seconds: Annotated[float, Field(ge=60, le=86_400)] = 600.0
    """A connection without a call for so long is closed; an agent opens another when it needs it."""
    enrollments_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = 300
    """Attempts to enrol, by anybody."""
    enrollments_per_minute_per_address: Annotated[int, Field(ge=1, le=1_000_000)] = 30
    """The same from one address: an IPv4 address, or the first 64 bits of an IPv6 one."""

    @model_validator(mode="after")
    def _consistent(self) -> "LimitsConfig":
        pairs = (
            ("transfers_at_once", "calls_at_once"),
            ("transfers_at_once", "transfers_in_all"),
            ("enrollments_per_minute_per_address", "enrollments_per_minute"),
        )
        for less, more in pairs:
            if getattr(self, less) > getattr(self, more):
                raise ValueError(
                    f"{less} is {getattr(self, less)}; must be at most {more}, {getattr(self, more)}"
                )
        return self

    def port_options(self, connections: int) -> ChannelOptions:
        """What gRPC is told of either port.

        Args:
            connections: how many the process can hold; `connections` where it has descriptors enough.
        """
        return (
            ("grpc.max_allowed_incoming_connections", connections),
            ("grpc.server_handshake_timeout_ms", int(self.handshake_seconds * 1000)),
        )

    def main_port_options(self, connections: int) -> ChannelOptions:
        """What gRPC is told of the main port.

        A connection may hold twice the calls of a caller, so that it is told of the limit; what is more waits
        at the caller's end.
        """
        return (
            *self.port_options(connections),
            ("grpc.max_concurrent_streams", 2 * self.calls_at_once),
            ("grpc.max_connection_idle_ms", int(self.idle_connection_seconds * 1000)),
        )
