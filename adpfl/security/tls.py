"""The TLS policy of both daemons: 1.3 only, mutual on the main port, pinned to the consortium.

gRPC's Python interface cannot set a lowest TLS version, and by default it accepts 1.2. Its core reads a
cipher list for TLS 1.2 from the environment when it is loaded (TLS 1.3 suites are not configurable and not
affected). A list of suites that need an RSA certificate, together with P-256 certificates, leaves no 1.2
suite that could succeed: only 1.3 remains. Hence `require_tls13` must run before anything imports grpc; every
credential below refuses to exist otherwise.
"""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from adpfl.errors import StateError
from adpfl.security.certificates import to_pem
from adpfl.security.identity import CallerIdentity, ServerIdentity, key_to_pem

if TYPE_CHECKING:
    import grpc
    from cryptography import x509

CIPHER_SUITES_VARIABLE: Final = "GRPC_SSL_CIPHER_SUITES"
VERBOSITY_VARIABLE: Final = "GRPC_VERBOSITY"
VERBOSITY: Final = "ERROR"
"""gRPC's core writes to stderr by itself, by default a line for each failed handshake: a stranger could fill
the log."""
RSA_ONLY_CIPHER_SUITES: Final = "ECDHE-RSA-AES128-GCM-SHA256"
"""A TLS 1.2 suite that our P-256 certificates can never serve."""

MESSAGE_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Largest gRPC message either way; a chunk is at most half of it."""
ENROLLMENT_MESSAGE_LIMIT_BYTES: Final = 64 * 1024
"""The enrolment port answers strangers: a request there is a token and a small signing request."""

FRAME_BYTES: Final = 2**20
"""Largest HTTP/2 frame: a chunk in a few pieces, not in hundreds."""

READ_BUFFER_BYTES: Final = 64 * 1024
"""What the server gives one connection to read into, also while nothing comes. Left to itself gRPC gives it
as much as ever came at once, a megabyte or more after an upload, and the connection keeps it."""

KEEPALIVE_SECONDS: Final = 60
"""A site pings an idle connection this often, so that firewalls keep it and a dead peer is noticed."""
KEEPALIVE_TIMEOUT_SECONDS: Final = 20
MINIMUM_PING_SECONDS: Final = 30
"""A site that pings more often than this is cut off by the server; half the keepalive leaves room for
jitter."""

RECONNECT_SECONDS: Final = 30
"""A site whose server is away tries its connection again at least this often."""
ENROLLMENT_CONNECTION_SECONDS: Final = 60
"""Longest life of a connection to the enrolment port; an enrolment takes one call."""

RenewedIdentity = Callable[[], ServerIdentity | None]
"""The server's identity where it was renewed since it was last asked for, else None."""

ChannelOptions = tuple[tuple[str, int], ...]

_MESSAGE_LIMITS: ChannelOptions = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
)
_KEEPALIVE: ChannelOptions = (
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    # Where the operating system sees its packets acknowledged, as a proxy that has lost the other side does,
    # this one alone ends the wait for a ping's answer; gRPC's own is a minute.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_EXCLUSIVE_PORT: ChannelOptions = (
    ("grpc.so_reuseport", 0),
)  # else a second daemon shares the port in silence

_BULK: ChannelOptions = (
    # A stream's receiver announces room for the message that it waits for, and little more. A window that
    # grows with the link takes megabytes of the server's memory for each stream; at a site it gains a tenth
    # on a fast link, and on a slow one the server's next bytes queue before a ping's answer, until the
    # connection counts as dead.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.max_frame_size", FRAME_BYTES),
)

_MANY_CONNECTIONS: ChannelOptions = (("grpc.experimental.tcp_max_read_buffer_size", READ_BUFFER_BYTES),)

SERVER_OPTIONS: Final[ChannelOptions] = (
    *_MESSAGE_LIMITS,
    *_BULK,
    *_KEEPALIVE,
    *_MANY_CONNECTIONS,
    *_EXCLUSIVE_PORT,
    ("grpc.http2.min_ping_interval_without_data_ms", MINIMUM_PING_SECONDS * 1000),
)
"""For the server's main port."""

ENROLLMENT_SERVER_OPTIONS: Final[ChannelOptions] = (
    ("grpc.max_receive_message_length", ENROLLMENT_MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", ENROLLMENT_MESSAGE_LIMIT_BYTES),
    *_MANY_CONNECTIONS,
    *_EXCLUSIVE_PORT,
    ("grpc.max_concurrent_streams", 4),
    ("grpc.max_connection_age_ms", ENROLLMENT_CONNECTION_SECONDS * 1000),
    ("grpc.max_connection_age_grace_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
)
"""For the server's enrolment port, where anybody may connect."""

CHANNEL_OPTIONS: Final[ChannelOptions] = (
    *_MESSAGE_LIMITS,
    *_BULK,
    *_KEEPALIVE,
    ("grpc.max_reconnect_backoff_ms", RECONNECT_SECONDS * 1000),
)
"""For a site's channel to the main port."""

ENROLLMENT_CHANNEL_OPTIONS: Final[ChannelOptions] = (
    ("grpc.max_receive_message_length", ENROLLMENT_MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", ENROLLMENT_MESSAGE_LIMIT_BYTES),
)
"""For a site's one call to the enrolment port."""


def require_tls13() -> None:
    """Set the process's TLS policy; call it before anything imports grpc. May be called again.

    It quiets gRPC's core as well (`VERBOSITY`), unless the environment asks for its messages.

    Raises:
        StateError: grpc is loaded already, and was so without the policy.
    """
    if os.environ.get(CIPHER_SUITES_VARIABLE) == RSA_ONLY_CIPHER_SUITES:
        return
    if "grpc._cython.cygrpc" in sys.modules:
        raise StateError(
            "grpc was imported before adpfl.security.tls.require_tls13 was called; "
            "this process would accept TLS 1.2"
        )
    os.environ[CIPHER_SUITES_VARIABLE] = RSA_ONLY_CIPHER_SUITES
    os.environ.setdefault(VERBOSITY_VARIABLE, VERBOSITY)


def server_credentials(
    identity: ServerIdentity, renewed: RenewedIdentity | None = None
) -> "grpc.ServerCredentials":
    """Return the main port's credentials: TLS 1.3, and no connection without the consortium's certificate.

    Args:
        identity: what the server shows first.
        renewed: asked at each handshake from then on.
    """
    return _server_credentials(identity, renewed, clients_prove_themselves=True)


def enrollment_server_credentials(
    identity: ServerIdentity, renewed: RenewedIdentity | None = None
) -> "grpc.ServerCredentials":
    """Return the enrolment port's credentials: TLS 1.3, the server alone proves who it is."""
    return _server_credentials(identity, renewed, clients_prove_themselves=False)


def _server_credentials(
    identity: ServerIdentity, renewed: RenewedIdentity | None, *, clients_prove_themselves: bool
) -> "grpc.ServerCredentials":
    library = _grpc()

    def configuration(shown: ServerIdentity) -> Any:
        roots = to_pem(shown.authority) if clients_prove_themselves else None
        return library.ssl_server_certificate_configuration(
            [(key_to_pem(shown.key), to_pem(shown.certificate))], root_certificates=roots
        )

    def newest() -> Any:
        found = renewed() if renewed else None
        return configuration(found) if found else None

    credentials: grpc.ServerCredentials = library.dynamic_ssl_server_credentials(
        configuration(identity), newest, clients_prove_themselves
    )
    return credentials


def channel_credentials(identity: CallerIdentity) -> "grpc.ChannelCredentials":
    """Return a site's credentials for the main port: its certificate, and trust in the consortium alone."""
    credentials: grpc.ChannelCredentials = _grpc().ssl_channel_credentials(
        root_certificates=to_pem(identity.authority),
        private_key=key_to_pem(identity.key),
        certificate_chain=to_pem(identity.certificate),
    )
    return credentials


def enrollment_channel_credentials(authority: "x509.Certificate") -> "grpc.ChannelCredentials":
    """Return credentials for the enrolment port: trust in the bundle's authority, no client certificate."""
    credentials: grpc.ChannelCredentials = _grpc().ssl_channel_credentials(
        root_certificates=to_pem(authority)
    )
    return credentials


def _grpc() -> Any:
    require_tls13()
    import grpc  # noqa: PLC0415 - not before the policy stands

    return grpc
