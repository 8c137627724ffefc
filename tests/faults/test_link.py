"""The relay does to bytes what it says, so that a test which survives it has survived something."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.link import Link, Mishap

pytestmark = pytest.mark.timeout(60)


class Echo:
    """Sends back what comes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    @staticmethod
    def _echo(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        # A close alone would leave the thread in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def link() -> Iterator[Link]:
    echo = Echo()
    made = Link(echo.port)
    yield made
    made.close()
    echo.close()


def dial(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=10)


def received(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (part := connection.recv(65536)):
        data += part
    return data


def exchanged(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return received(connection, len(data))


@pytest.mark.parametrize(("megabits", "count"), [(4.0, 200_000), (30.0, 1_000_000)])
def test_a_throttled_link_takes_the_time_of_its_speed(link, megabits, count):
    link.slow(megabits_per_second=megabits)
    data = bytes(count)
    with dial(link) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        start = time.monotonic()
        sender.start()
        assert received(connection, count) == data
        seconds = time.monotonic() - start
        sender.join()
    assert seconds >= 0.9 * count * 8 / (megabits * 1e6)


def test_a_delayed_link_takes_its_time_each_way(link):
    link.slow(delay_seconds=0.2)
    with dial(link) as connection:
        start = time.monotonic()
        assert exchanged(connection, b"ping") == b"ping"
        assert time.monotonic() - start >= 0.4


def test_a_reset_ends_open_connections_and_lets_new_ones_through(link):
    with dial(link) as connection:
        assert exchanged(connection, b"ping") == b"ping"
        link.drop()
        with pytest.raises(ConnectionError):
            exchanged(connection, b"ping")
    with dial(link) as connection:
        assert exchanged(connection, b"ping") == b"ping"


def test_a_refused_link_resets_every_caller(link):
    link.cut(silent=False)
    with pytest.raises(ConnectionError):
        received(dial(link), 1)
    link.mend()
    with dial(link) as connection:
        assert exchanged(connection, b"ping") == b"ping"


def test_a_black_hole_tells_nobody_and_gives_back_what_it_took(link):
    with dial(link) as connection:
        assert exchanged(connection, b"ping") == b"ping"
        link.cut(silent=True)
        connection.sendall(b"pong")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(10)
        link.mend()
        connection.settimeout(10)
        assert received(connection, 4) == b"pong"


def test_a_forgotten_connection_stays_dead_without_a_word(link):
    with dial(link) as connection:
        assert exchanged(connection, b"ping") == b"ping"
        link.cut(silent=True)
        link.mend(forget=True)
        connection.sendall(b"pong")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(10)
    with dial(link) as connection:
        assert exchanged(connection, b"ping") == b"ping"


@pytest.mark.parametrize("direction", ["up", "down"])
def test_bytes_are_doubled_and_changed_once(link, direction):
    link.expect(Mishap("duplicate", direction, 5))
    with dial(link) as connection:
        connection.sendall(b"0123456789")
        assert received(connection, 20) == b"01234567890123456789"
        link.expect(Mishap("corrupt", direction, 3))
        changed = exchanged(connection, b"0123456789")
        assert changed == b"012s456789"
        assert exchanged(connection, b"0123456789") == b"0123456789"
    assert link.mishaps_done == ["duplicate", "corrupt"]


@pytest.mark.parametrize("kind", ["truncate", "reset"])
def test_a_stream_ends_after_so_many_bytes(link, kind):
    link.expect(Mishap(kind, "down", 4))
    with dial(link) as connection:
        connection.sendall(b"0123456789")
        data = b""
        try:
            while part := connection.recv(100):
                data += part
        except ConnectionError:
            assert kind == "reset"
        assert data in {b"0123", b""}
    assert link.mishaps_done == [kind]
