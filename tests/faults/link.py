"""A TCP relay between one site and the server that does what hospital networks do.

Every relay has a thread of its own with an event loop; its methods may be called from any other thread. What
it does to the bytes follows from its settings alone; nothing here is random.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

READ_BYTES = 16 * 1024
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that turns a close into a reset."""

Direction = Literal["up", "down"]
Result = TypeVar("Result")


@dataclass
class Mishap:
    """What happens once to the stream of bytes in one direction, when so many more have passed."""

    kind: Literal["truncate", "reset", "duplicate", "corrupt"]
    direction: Direction
    after_bytes: int


@dataclass
class Weather:
    """What holds for every byte until it is changed."""

    delay_seconds: float = 0.0
    bytes_per_second: float | None = None
    """Each way; None is as fast as it goes."""
    state: Literal["up", "refused", "black hole"] = "up"
    """`refused`: connections are reset. `black hole`: nothing comes through and nobody is told."""
    mishaps: list[Mishap] = field(default_factory=list)


class _Connection:
    """One dialled connection and its counterpart to the server."""

    def __init__(self, link: "Link", caller: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.link = link
        self.writers = (caller, server)
        self.lost = False
        """A middlebox has forgotten it: no byte of it passes any more, whatever the weather."""

    def close(self, *, reset: bool) -> None:
        for writer in self.writers:
            if reset:
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()
            else:
                writer.close()


class Link:
    """The way from one site to the server."""

    def __init__(self, target_port: int, port: int = 0) -> None:
        self.weather = Weather()
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}
        self.mishaps_done: list[str] = []
        self.dialled = 0
        self._target_port = target_port
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clear_at: dict[Direction, float] = {"up": 0.0, "down": 0.0}
        self._changed = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._relay, "127.0.0.1", port))
        self.port = int(self._server.sockets[0].getsockname()[1])

    # --- what a test does -----------------------------------------------------------------------------

    def slow(self, *, delay_seconds: float = 0.0, megabits_per_second: float | None = None) -> None:
        """Delay every read, and let no more than so many bits pass each way."""
        rate = None if megabits_per_second is None else megabits_per_second * 1e6 / 8

        def change() -> None:
            self.weather.delay_seconds, self.weather.bytes_per_second = delay_seconds, rate

        self._do(change)

    def cut(self, *, silent: bool) -> None:
        """Take the link away; loudly by resets, or silently as a dead VPN does."""

        def change() -> None:
            self.weather.state = "black hole" if silent else "refused"
            if not silent:
                self._close_all()

        self._do(change)

    def mend(self, *, forget: bool = False) -> None:
        """Bring the link back; where it forgets, connections from before stay dead without a word."""

        def change() -> None:
            self.weather.state = "up"
            for connection in self._connections:
                connection.lost = connection.lost or forget
            self._changed.set()
            self._changed = asyncio.Event()

        self._do(change)

    def drop(self) -> None:
        """Reset every connection; new ones are let through."""
        self._do(self._close_all)

    def expect(self, mishap: Mishap) -> None:
        """Let something happen to the bytes that come."""
        self._do(lambda: self.weather.mishaps.append(mishap))

    def clear(self) -> None:
        """Fair weather from now on; what has become of open connections stays."""

        def change() -> None:
            self.weather.delay_seconds, self.weather.bytes_per_second = 0.0, None
            self.weather.mishaps.clear()

        self._do(change)
        self.mend()

    def close(self) -> None:
        """Hang up and end the thread."""

        async def end() -> None:
            self._server.close()
            self._close_all()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- the loop's side ------------------------------------------------------------------------------

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.dialled += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connect(reader, writer)
        except asyncio.CancelledError:
            pass  # by `close`; asyncio's own callback would log it
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passable()
        if self.weather.state == "refused":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:  # the server is away: so is the port behind a hospital's firewall
            return
        connection = _Connection(self, writer, back)
        self._connections.add(connection)
        try:
            await asyncio.gather(
                self._pump(connection, "up", reader, back), self._pump(connection, "down", there, writer)
            )
        finally:
            self._connections.discard(connection)
            back.transport.abort()

    async def _pump(
        self,
        connection: _Connection,
        direction: Direction,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
    ) -> None:
        try:
            while data := await source.read(READ_BYTES):
                await self._wait_for(direction, len(data))
                while self.weather.state == "black hole" or connection.lost:
                    await self._changed.wait()
                if not self._suffer(connection, direction, data, sink):
                    return
                await sink.drain()
            await self._passable()
            if not connection.lost:
                sink.write_eof()
        except (ConnectionError, OSError):
            connection.close(reset=True)  # what ends on one side ends on the other

    async def _wait_for(self, direction: Direction, count: int) -> None:
        """Hold bytes back as long as they take at this speed and distance."""
        rate = self.weather.bytes_per_second
        now = self._loop.time()
        if rate is not None:
            self._clear_at[direction] = max(now, self._clear_at[direction]) + count / rate
            await asyncio.sleep(self._clear_at[direction] - now)
        if self.weather.delay_seconds:
            await asyncio.sleep(self.weather.delay_seconds)

    async def _passable(self) -> None:
        while self.weather.state == "black hole":
            await self._changed.wait()

    def _suffer(
        self, connection: _Connection, direction: Direction, data: bytes, sink: asyncio.StreamWriter
    ) -> bool:
        """Pass bytes on, with what is to happen to them; False where the connection ended by it."""
        self.passed[direction] += len(data)
        for mishap in list(self.weather.mishaps):
            if mishap.direction != direction:
                continue
            mishap.after_bytes -= len(data)
            if mishap.after_bytes > 0:
                continue
            self.weather.mishaps.remove(mishap)
            self.mishaps_done.append(mishap.kind)
            middle = max(0, len(data) + mishap.after_bytes)
            match mishap.kind:
                case "truncate" | "reset":
                    sink.write(data[:middle])
                    connection.close(reset=mishap.kind == "reset")
                    return False
                case "duplicate":
                    data += data
                case "corrupt":
                    place = min(middle, len(data) - 1)
                    data = data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]
        sink.write(data)
        return True

    def _close_all(self) -> None:
        for connection in list(self._connections):
            connection.close(reset=True)

    def _do(self, change: Callable[[], None]) -> None:
        async def run() -> None:
            change()

        self._run(run())

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)
