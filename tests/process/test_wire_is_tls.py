"""What somebody on the network sees of a real agent and a real server, and what a stranger gets."""

import socket
import ssl
import threading
from pathlib import Path

import grpc
import pytest

from adpfl.wire._generated.adpfl.v1 import federation_pb2, federation_pb2_grpc

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

SITES = ("hospital1", "hospital2", "hospital3")


class Tap:
    """A TCP relay that keeps what it relays, both directions together, by connection."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.upwards: list[bytearray] = []
        self.downwards: list[bytearray] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                caller.close()
                continue
            for source, sink, kept in ((caller, server, self.upwards), (server, caller, self.downwards)):
                seen = bytearray()
                kept.append(seen)
                threading.Thread(target=self._relay, args=(source, sink, seen), daemon=True).start()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket, seen: bytearray) -> None:
        try:
            while data := source.recv(65536):
                seen += data
                sink.sendall(data)
        except OSError:
            return
        finally:
            sink.close()

    def close(self) -> None:
        self._listener.close()


def windows(payload: bytes, length: int = 16, count: int = 50) -> list[bytes]:
    """Stretches of a payload that are unlikely to occur by chance."""
    step = max(1, len(payload) // count)
    found = [payload[start : start + length] for start in range(0, len(payload) - length, step)]
    return [one for one in found if len(set(one)) > 8]


def test_everything_between_agent_and_server_is_tls(federation):
    tap = Tap(federation.port)
    federation.dialled_port = tap.port
    federation.prepare(federation.plan(rounds=1))
    for site in SITES:
        federation.start_agent(site)
    for site in SITES:
        assert federation.finish(site) == 0, federation.log(site)
    tap.close()

    carried = [bytes(one) for one in tap.upwards + tap.downwards if one]
    assert sum(map(len, carried)) > 2_000_000, "three models down and three updates up must have passed here"
    for stream in carried:
        assert stream[:2] == b"\x16\x03", "a connection begins with a TLS handshake record"
    everything = b"".join(carried)
    for word in (b"skin_lesion", b"hospital1", b"survivor", b"nominal_epsilon", b"adpfl.v1.Federation"):
        assert word not in everything
    model = federation.root / "state" / "hospital1" / "models" / "survivor" / "round-0001.safetensors"
    stretches = windows(model.read_bytes()[4096:])
    assert len(stretches) > 20
    assert not any(stretch in everything for stretch in stretches)


def test_a_stranger_gets_nothing(federation):
    federation.configure(federation.plan())
    federation.command("adpfl_server", "init", "--config", "server.yaml")
    federation.start_server()
    authority = (federation.root / "server" / "pki" / "ca.pem").read_bytes()

    with_no_certificate = grpc.ssl_channel_credentials(root_certificates=authority)
    with grpc.secure_channel(f"127.0.0.1:{federation.port}", with_no_certificate) as channel:
        stub = federation_pb2_grpc.FederationStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Join(federation_pb2.JoinRequest(site="hospital1", instance_id="0" * 32), timeout=10)
        # TLS 1.3 refuses a client after the client's own handshake has ended; gRPC dials again,
        # maybe until the deadline.
        assert refused.value.code() in {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        }

    with grpc.insecure_channel(f"127.0.0.1:{federation.port}") as channel:
        stub = federation_pb2_grpc.FederationStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.NextTask(federation_pb2.NextTaskRequest(run="survivor"), timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

    old = ssl.create_default_context(cadata=authority.decode())
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    for port in (federation.port, federation.enrollment_port):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain, pytest.raises(OSError):
            old.wrap_socket(plain, server_hostname="127.0.0.1")

    said = federation.log("server").splitlines()
    assert all(line.startswith("{") for line in said), "a stranger can fill the log with the library's lines"


def test_keys_are_private_from_the_start(federation):
    federation.configure(federation.plan())
    federation.command("adpfl_server", "init", "--config", "server.yaml")
    keys = sorted(Path(federation.root / "server" / "pki").glob("*.key"))
    assert [key.name for key in keys] == ["ca.key", "server.key"]
    for key in keys:
        assert key.stat().st_mode & 0o777 == 0o600
    keys[1].chmod(0o644)
    failed = federation.command("adpfl_server", "--config", "server.yaml", code=1)
    assert "server.key" in failed.stderr
    assert "chmod 600" in failed.stderr
    assert failed.stderr.count("\n") == 1
