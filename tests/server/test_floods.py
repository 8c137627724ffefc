"""A daemon in a process of its own under connections that mean nothing, and a site that means something."""

import contextlib
import resource
import socket
import ssl

import grpc
import pytest

from adpfl.wire.messages import SiteActivity

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]
IDLE, UNFINISHED = 2000, 300


@pytest.fixture
def dial():
    opened = []

    def connect(port, greeting=b""):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        opened.append(connection)
        if greeting:
            connection.sendall(greeting)
        connection.setblocking(False)
        return connection

    yield connect
    for connection in opened:
        connection.close()


def client_hello():
    """What a TLS client says first."""
    hello = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    talk = context.wrap_bio(ssl.MemoryBIO(), hello)
    with contextlib.suppress(ssl.SSLWantReadError):
        talk.do_handshake()
    return hello.read()


def is_closed(connection):
    try:
        while connection.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def require_descriptors(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard < count:
            pytest.skip(f"this machine lets a process open {hard} files; the flood needs {count}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def test_a_site_is_served_beside_idle_connections_and_unfinished_handshakes(
    consortium, serve, dial, caller_at
):
    require_descriptors(IDLE + UNFINISHED + 200)
    server = serve(handshake_seconds=10)
    known = caller_at("hospital1", f"localhost:{server.port}")
    known.join()
    idle = [dial(server.port) for _ in range(IDLE)]
    hello = client_hello()
    unfinished = [dial(server.port, hello[: len(hello) // 2]) for _ in range(UNFINISHED // 2)]
    unfinished += [dial(server.port, hello) for _ in range(UNFINISHED // 2)]
    newcomer = caller_at("hospital2", f"localhost:{server.port}")
    newcomer.join("1")
    assert not known.heartbeat(SiteActivity.IDLE).obsolete
    assert not any(is_closed(one) for one in idle)  # it was served beside them, not after them
    server.wait_for(lambda: all(is_closed(one) for one in idle + unfinished))
    newcomer.join("1")


def test_connections_beyond_the_limit_are_closed_and_those_that_stand_go_on(
    consortium, serve, dial, caller_at
):
    server = serve(connections=16, handshake_seconds=3)
    known = caller_at("hospital1", f"localhost:{server.port}")
    known.join()
    idle = [dial(server.port) for _ in range(100)]
    server.wait_for(lambda: sum(is_closed(one) for one in idle) == 85)
    known.join()
    late = caller_at("hospital2", f"localhost:{server.port}")
    with pytest.raises(grpc.RpcError) as error:
        late.join("1")
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE  # which an agent retries
    server.wait_for(lambda: all(is_closed(one) for one in idle))

    def joined():
        with contextlib.suppress(grpc.RpcError):
            return late.join("1")

    server.wait_for(joined)


def test_a_process_that_may_open_few_files_says_so_and_lives(consortium, serve, dial, caller_at):
    server = serve(descriptors=400, handshake_seconds=3)
    (said,) = server.lines("fewer connections than configured")
    assert (said["connections"], said["configured"], said["descriptors"]) == (72, 4096, 400)
    known = caller_at("hospital1", f"localhost:{server.port}")
    known.join()
    idle = [dial(server.port) for _ in range(500)]
    known.join()  # its database, chunks and connections have their descriptors
    server.wait_for(lambda: all(is_closed(one) for one in idle))
    caller_at("hospital2", f"localhost:{server.port}").join("1")
    assert not server.lines("file descriptors run out")
