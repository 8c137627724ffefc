"""The TLS policy against real gRPC servers on loopback, and against clients that try to get round it."""

import os
import socket
import ssl
import subprocess
import sys
import threading
from concurrent import futures
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from adpfl.security import tls
from adpfl.security.certificates import to_pem
from adpfl.security.identity import key_to_pem, peer_certificate

ROOT = Path(__file__).parents[2]
METHOD = "/adpfl.test.Echo/Say"
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
MARKER = b"patient-lesion-gradient"


class Echo(grpc.GenericRpcHandler):
    """Answers with the caller's name and what it sent; remembers that it was called."""

    def __init__(self):
        self.callers = []

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.say) if details.method == METHOD else None

    def say(self, request, context):
        authenticated = "x509_pem_cert" in context.auth_context()
        self.callers.append(peer_certificate(context.auth_context()).holder.name if authenticated else None)
        return request


class Listener:
    """A gRPC server with these credentials on a free port of loopback."""

    def __init__(self, credentials, options=tls.SERVER_OPTIONS):
        self.echo = Echo()
        self.server = grpc.server(futures.ThreadPoolExecutor(2), options=options)
        self.server.add_generic_rpc_handlers((self.echo,))
        self.port = self.server.add_secure_port("127.0.0.1:0", credentials)
        self.server.start()

    def close(self):
        self.server.stop(None).wait()


@pytest.fixture
def listen():
    listeners = []

    def start(credentials, **options):
        listeners.append(Listener(credentials, **options))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.close()


@pytest.fixture
def main_port(listen, consortium):
    return listen(tls.server_credentials(consortium.server()))


def say(port, credentials, payload=b"hello", host="localhost"):
    with grpc.secure_channel(f"{host}:{port}", credentials, tls.CHANNEL_OPTIONS) as channel:
        return channel.unary_unary(METHOD)(payload, timeout=20)


def refusal(port, credentials, host="localhost"):
    with pytest.raises(grpc.RpcError) as error:
        say(port, credentials, host=host)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    return error.value.details()


def context_for(consortium, version, site=None, folder=None):
    """Python's own TLS client of exactly this version, with a site's certificate if given."""
    context = ssl.create_default_context(cadata=to_pem(consortium.authority.certificate).decode())
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    if site is not None:
        chain = folder / "chain.pem"
        chain.write_bytes(key_to_pem(site.key) + to_pem(site.certificate))
        context.load_cert_chain(chain)
    return context


def answer_to(port, context):
    """Shake hands, send an HTTP/2 preface; return the version agreed on and the first bytes that come."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as secured,
    ):
        secured.sendall(HTTP2_PREFACE)
        return secured.version(), secured.recv(4096)


def test_a_site_of_the_consortium_is_served_under_its_name(main_port, consortium):
    credentials = tls.channel_credentials(consortium.site("hospital1"))
    assert say(main_port.port, credentials) == b"hello"
    assert say(main_port.port, credentials, host="127.0.0.1") == b"hello"
    assert main_port.echo.callers == ["hospital1", "hospital1"]


def test_a_client_without_a_certificate_gets_nothing(main_port, consortium):
    refusal(main_port.port, tls.enrollment_channel_credentials(consortium.authority.certificate))
    assert main_port.echo.callers == []


def test_a_client_without_a_certificate_gets_not_one_byte(main_port, consortium, tmp_path):
    # In TLS 1.3 the client's handshake is over before the server sees that the certificate is missing.
    try:
        _, received = answer_to(main_port.port, context_for(consortium, ssl.TLSVersion.TLSv1_3))
    except OSError:
        received = b""
    assert received == b""

    site = consortium.site("hospital1")
    context = context_for(consortium, ssl.TLSVersion.TLSv1_3, site, tmp_path)
    version, received = answer_to(main_port.port, context)
    assert version == "TLSv1.3"
    assert received != b""  # the same client with a certificate: HTTP/2 settings


def test_a_client_without_tls_gets_nothing(main_port):
    with grpc.insecure_channel(f"localhost:{main_port.port}") as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(METHOD)(b"hello", timeout=20)
    with socket.create_connection(("127.0.0.1", main_port.port), timeout=20) as connection:
        connection.sendall(HTTP2_PREFACE)
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
    assert received[:1] in (b"", b"\x15")  # a TLS alert at most
    assert len(received) <= 7
    assert main_port.echo.callers == []


@pytest.mark.parametrize("port", ["main", "enrolment"])
def test_tls_12_is_refused_even_with_a_good_certificate(listen, consortium, tmp_path, port):
    make = tls.server_credentials if port == "main" else tls.enrollment_server_credentials
    listener = listen(make(consortium.server()))
    site = consortium.site("hospital1")
    with pytest.raises(OSError):
        answer_to(listener.port, context_for(consortium, ssl.TLSVersion.TLSv1_2, site, tmp_path))
    version, _ = answer_to(listener.port, context_for(consortium, ssl.TLSVersion.TLSv1_3, site, tmp_path))
    assert version == "TLSv1.3"


def test_a_site_of_another_consortium_is_refused(main_port, consortium, found):
    stranger = found("Lesion Study").site("hospital1")  # same names, another authority
    identity = type(stranger)(**{**vars(stranger), "authority": consortium.authority.certificate})
    refusal(main_port.port, tls.channel_credentials(identity))
    assert main_port.echo.callers == []


@pytest.mark.parametrize("shift_days", [-30, 30], ids=["expired", "not yet valid"])
def test_a_certificate_out_of_its_dates_is_refused(main_port, consortium, now, shift_days):
    site = consortium.site("hospital1", issued=now + timedelta(days=shift_days))
    refusal(main_port.port, tls.channel_credentials(site))
    assert main_port.echo.callers == []


def test_the_servers_own_certificate_is_no_site(main_port, consortium):
    server, site = consortium.server(), consortium.site("hospital1")
    identity = type(site)(**{**vars(site), "certificate": server.certificate, "key": server.key})
    refusal(main_port.port, tls.channel_credentials(identity))
    assert main_port.echo.callers == []


@pytest.mark.parametrize("make", [tls.server_credentials, tls.enrollment_server_credentials])
def test_a_server_of_another_consortium_is_not_dialled(listen, consortium, found, make):
    listener = listen(make(found("Lesion Study").server()))
    site = consortium.site("hospital1")
    for credentials in (tls.channel_credentials(site), tls.enrollment_channel_credentials(site.authority)):
        assert "CERTIFICATE_VERIFY_FAILED" in refusal(listener.port, credentials)
    assert listener.echo.callers == []


def test_a_site_cannot_pose_as_the_server(listen, consortium):
    rogue, server = consortium.site("hospital2"), consortium.server()
    identity = type(server)(rogue.authority, rogue.certificate, rogue.key)
    listener = listen(tls.enrollment_server_credentials(identity))
    refusal(listener.port, tls.channel_credentials(consortium.site("hospital1")))
    assert listener.echo.callers == []


def test_a_server_must_hold_the_name_that_was_dialled(listen, consortium):
    listener = listen(tls.server_credentials(consortium.server("aggregator.example", "192.0.2.7")))
    for host in ("localhost", "127.0.0.1"):
        refusal(listener.port, tls.channel_credentials(consortium.site("hospital1")), host=host)
    assert listener.echo.callers == []


def test_the_enrolment_port_knows_nobody(listen, consortium):
    listener = listen(
        tls.enrollment_server_credentials(consortium.server()), options=tls.ENROLLMENT_SERVER_OPTIONS
    )
    site = consortium.site("hospital1")
    assert say(listener.port, tls.enrollment_channel_credentials(site.authority)) == b"hello"
    assert say(listener.port, tls.channel_credentials(site)) == b"hello"
    assert listener.echo.callers == [None, None]


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        (tls.SERVER_OPTIONS, tls.MESSAGE_LIMIT_BYTES),
        (tls.ENROLLMENT_SERVER_OPTIONS, tls.ENROLLMENT_MESSAGE_LIMIT_BYTES),
    ],
)
def test_larger_messages_are_refused(listen, consortium, options, limit):
    listener = listen(tls.enrollment_server_credentials(consortium.server()), options=options)
    credentials = tls.enrollment_channel_credentials(consortium.authority.certificate)
    with grpc.secure_channel(f"localhost:{listener.port}", credentials) as channel:
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(METHOD)(bytes(limit + 1), timeout=20)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert listener.echo.callers == []


def test_a_port_in_use_is_an_error_not_a_shared_port(main_port, consortium):
    second = grpc.server(futures.ThreadPoolExecutor(1), options=tls.SERVER_OPTIONS)
    with pytest.raises(RuntimeError):
        second.add_secure_port(f"127.0.0.1:{main_port.port}", tls.server_credentials(consortium.server()))


# What travels -------------------------------------------------------------------------------------


class Tap:
    """A TCP relay to a port of loopback that keeps every byte of both directions of one connection."""

    def __init__(self, port):
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sent, self.received = bytearray(), bytearray()
        self.thread = threading.Thread(target=self.relay, daemon=True)
        self.thread.start()

    def relay(self):
        near, _ = self.listener.accept()
        with near, socket.create_connection(("127.0.0.1", self.target)) as far:
            back = threading.Thread(target=self.pump, args=(far, near, self.received), daemon=True)
            back.start()
            self.pump(near, far, self.sent)
            back.join(20)

    @staticmethod
    def pump(source, sink, kept):
        try:
            while data := source.recv(65536):
                kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # either end hung up: what was captured until then stands

    def close(self):
        self.listener.close()
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextmanager
def tapped(port):
    with closing(Tap(port)) as tap:
        yield tap


def records(stream):
    """Split a stream into TLS records (RFC 8446, section 5.1), to the last byte: (type, version, length)."""
    found, here = [], 0
    while here < len(stream):
        assert here + 5 <= len(stream), "the capture ends inside a record's header"
        length = int.from_bytes(stream[here + 3 : here + 5])
        found.append((stream[here], bytes(stream[here + 1 : here + 3]), length))
        here += 5 + length
    assert here == len(stream), "the capture ends inside a record"
    return found


def test_what_travels_is_tls_and_nothing_but_tls(main_port, consortium):
    payload = MARKER * 4000
    with tapped(main_port.port) as tap:
        answer = say(tap.port, tls.channel_credentials(consortium.site("hospital1")), payload)
    assert answer == payload
    for stream in (tap.sent, tap.received):
        assert len(stream) > len(payload)  # the capture holds the payload, in some form
        assert bytes(stream[:2]) == b"\x16\x03"
        for kind, version, length in records(stream):
            assert kind in (0x14, 0x15, 0x16, 0x17)
            assert version in (b"\x03\x01", b"\x03\x03")
            assert 0 < length <= 2**14 + 256
        assert MARKER not in stream
        assert b"Echo" not in stream
        # TLS 1.3 encrypts the certificates too: an eavesdropper does not learn which hospital is calling.
        assert b"hospital1" not in stream
        assert b"Lesion Study" not in stream


def test_the_tap_would_see_plaintext():
    echo = Echo()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((echo,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with tapped(port) as tap, grpc.insecure_channel(f"127.0.0.1:{tap.port}") as channel:
        channel.unary_unary(METHOD)(MARKER, timeout=20)
        channel.close()
    server.stop(None).wait()
    assert MARKER in tap.sent
    assert MARKER in tap.received


# The policy must stand before grpc is loaded ------------------------------------------------------


def python(program, **environment):
    """Run a program in a process of its own, where grpc is not loaded yet."""
    kept = {key: value for key, value in os.environ.items() if key != tls.CIPHER_SUITES_VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_policy_is_set_before_grpc():
    done = python(
        "import sys\n"
        "from adpfl.security import tls\n"
        "assert 'grpc' not in sys.modules\n"
        "tls.require_tls13()\n"
        "import grpc, os\n"
        "tls.require_tls13()\n"
        "print(os.environ[tls.CIPHER_SUITES_VARIABLE])\n"
    )
    assert done.stdout.strip() == tls.RSA_ONLY_CIPHER_SUITES, done.stderr


def test_somebody_elses_suites_do_not_stand():
    done = python(
        "from adpfl.security import tls\n"
        "tls.require_tls13()\n"
        "import os\n"
        "print(os.environ[tls.CIPHER_SUITES_VARIABLE])\n",
        **{tls.CIPHER_SUITES_VARIABLE: "HIGH"},
    )
    assert done.stdout.strip() == tls.RSA_ONLY_CIPHER_SUITES, done.stderr


@pytest.mark.parametrize("call", ["tls.require_tls13()", "tls.enrollment_channel_credentials(authority)"])
def test_no_credentials_exist_where_grpc_came_first(call):
    done = python(
        "import grpc\n"
        "from datetime import UTC, datetime\n"
        "from adpfl.errors import StateError\n"
        "from adpfl.security import certificates, tls\n"
        "authority = certificates.create_authority('Study', now=datetime.now(UTC)).certificate\n"
        "try:\n"
        f"    {call}\n"
        "except StateError as error:\n"
        "    print(error)\n"
    )
    assert "would accept TLS 1.2" in done.stdout, done.stderr


def test_without_the_policy_grpc_accepts_tls_12(consortium, tmp_path):
    """The reason for the policy, and proof that the refusals above are its doing."""
    server = consortium.server()
    (tmp_path / "key").write_bytes(key_to_pem(server.key))
    (tmp_path / "certificate").write_bytes(to_pem(server.certificate))
    (tmp_path / "authority").write_bytes(to_pem(server.authority))
    done = python(
        "import grpc, pathlib, socket, ssl\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "pair = (folder / 'key').read_bytes(), (folder / 'certificate').read_bytes()\n"
        "server = grpc.server(ThreadPoolExecutor(1))\n"
        "port = server.add_secure_port('127.0.0.1:0', grpc.ssl_server_credentials([pair]))\n"
        "server.start()\n"
        "context = ssl.create_default_context(cafile=folder / 'authority')\n"
        "context.maximum_version = ssl.TLSVersion.TLSv1_2\n"
        "context.set_alpn_protocols(['h2'])\n"
        "with socket.create_connection(('127.0.0.1', port)) as plain:\n"
        "    print(context.wrap_socket(plain, server_hostname='localhost').version())\n"
    )
    assert done.stdout.strip() == "TLSv1.2", done.stderr
