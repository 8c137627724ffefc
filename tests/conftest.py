"""What gRPC and torch read from the environment when they are loaded, set before any test loads them."""

import os

from adpfl.security.tls import require_tls13

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share the cores; threads of each would fight for them
require_tls13()
# Tests dial loopback, whatever proxy the machine has.
os.environ["no_grpc_proxy"] = "localhost,127.0.0.1"  # noqa: SIM112 - gRPC reads it in this spelling
