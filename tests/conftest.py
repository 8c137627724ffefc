"""What gRPC reads from the environment when it is loaded or dials, set before any test module imports it."""

import os

from adpfl.security.tls import require_tls13

require_tls13()
# Tests dial loopback, whatever proxy the machine has.
os.environ["no_grpc_proxy"] = "localhost,127.0.0.1"  # noqa: SIM112 - gRPC reads it in this spelling
