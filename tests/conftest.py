"""What gRPC and torch read from the environment when they are loaded, set before any test loads them.

And an HTTP proxy to dial through, a shell with small disks of its own, and a disk that loses power.
"""

import asyncio
import base64
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from adpfl.security.tls import require_tls13

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share the cores; threads of each would fight for them
require_tls13()
# Tests dial loopback, whatever proxy the machine has.
os.environ["no_grpc_proxy"] = "localhost,127.0.0.1"  # noqa: SIM112 - gRPC reads it in this spelling


class ConnectProxy:
    """An HTTP proxy as hospitals have them: CONNECT alone, and Basic credentials where a test wants them.

    Keeps every request's head and every byte that passed, so that a test can say what a proxy gets to see.
    """

    def __init__(self, *, credentials: str | None = None, known_hosts: dict[str, str] | None = None) -> None:
        """Listen on a loopback port.

        Args:
            credentials: `user:password` without which the proxy answers 407.
            known_hosts: addresses of names that this proxy alone can resolve.
        """
        self.credentials = credentials
        self.known_hosts = known_hosts or {}
        self.answer_instead: bytes | None = None
        """Sent in place of serving a request; empty closes the connection."""
        self.heads: list[bytes] = []
        self.carried: list[bytearray] = []
        """Of each tunnel, what went up and, apart, what came down."""
        self.port = 0
        self._tunnels: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def places(self) -> set[str]:
        """What was asked for, as `host:port`."""
        return {head.split(b" ")[1].decode() for head in self.heads}

    def start(self) -> None:
        """Listen, on the same port as before where there was one."""
        self._run(self._listen())

    def stop(self) -> None:
        """Cut every tunnel and refuse connections until `start`."""
        self._run(self._stop())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._tunnels:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tunnels.add(writer)
        try:
            await self._tunnel(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # either end went away, as ends do
        finally:
            self._tunnels.discard(writer)
            writer.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if (refusal := self._refusal(head)) is not None:
            writer.write(refusal)
            await writer.drain()
            return
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        upstream = await asyncio.open_connection(self.known_hosts.get(host, host), int(port))
        self._tunnels.add(upstream[1])
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(self._relay(reader, upstream[1]), self._relay(upstream[0], writer))
        finally:
            self._tunnels.discard(upstream[1])
            upstream[1].close()

    def _refusal(self, head: bytes) -> bytes | None:
        if self.answer_instead is not None:
            return self.answer_instead
        if not head.startswith(b"CONNECT "):
            return b"HTTP/1.1 405 Method Not Allowed\r\n\r\n"
        if self.credentials is not None:
            expected = base64.b64encode(self.credentials.encode())
            if b"\r\nProxy-Authorization: Basic " + expected + b"\r\n" not in head:
                challenge = b'Proxy-Authenticate: Basic realm="hospital"'
                return b"HTTP/1.1 407 Proxy Authentication Required\r\n" + challenge + b"\r\n\r\n"
        return None

    async def _relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        seen = bytearray()
        self.carried.append(seen)
        try:
            while data := await source.read(65_536):
                seen += data
                sink.write(data)
                await sink.drain()
        finally:
            sink.close()


@pytest.fixture
def connect_proxy() -> Iterator[Callable[..., ConnectProxy]]:
    """Start proxies; they end with the test."""
    started: list[ConnectProxy] = []

    def start(**arguments: Any) -> ConnectProxy:
        started.append(ConnectProxy(**arguments))
        return started[-1]

    yield start
    for proxy in started:
        proxy.close()


class Shell:
    """A shell in which commands run one after the other, in a mount namespace of its own where wanted.

    In such a namespace an ordinary user may mount a small disk, fill it, or make it read-only; the mounts are
    gone with the shell, and nobody else sees them.
    """

    def __init__(self, folder: Path, *, namespace: bool) -> None:
        self._shell = subprocess.Popen(
            [*(("unshare", "-rm") if namespace else ()), "bash"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._input, self._output = self._shell.stdin, self._shell.stdout

    def run(self, command: str) -> str:
        """Returns what the command printed; it must succeed."""
        self._input.write(f'{command}\necho "=== $?"\n')
        self._input.flush()
        lines: list[str] = []
        while not (line := self._output.readline()).startswith("=== "):
            assert line, lines
            lines.append(line)
        assert line == "=== 0\n", (command, lines)
        return "".join(lines)

    def close(self) -> None:
        """End it, and its namespace with it."""
        self._input.close()
        self._output.close()
        self._shell.wait()


@pytest.fixture
def open_shell() -> Iterator[Callable[..., Shell]]:
    """Open shells that end with the test; with `namespace=True` it skips where users may mount nothing."""
    opened: list[Shell] = []

    def open_one(folder: Path, *, namespace: bool) -> Shell:
        if namespace and not _may_mount():
            pytest.skip("this system lets no user mount a disk in a namespace")
        opened.append(Shell(folder, namespace=namespace))
        return opened[-1]

    yield open_one
    for shell in opened:
        shell.close()


def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class VolatileDisk:
    """What a folder would hold after a power cut: names and bytes that were synced, and nothing else.

    Follows every `os.fsync` and `os.fdatasync` of this process from its making on; what the folder held then
    is safe. SQLite syncs in C, unseen from here: its files are taken as they stand, for it runs with
    `synchronous=FULL` or `EXTRA` (which other tests hold) and is synced whenever it is not writing.
    """

    SQLITE = (".sqlite", ".sqlite-wal", ".sqlite-journal")

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._bytes: dict[int, bytes] = {}
        """By inode, as of the newest sync of the file."""
        self._names: dict[int, dict[str, int]] = {}
        """By a folder's inode: its entries as of its newest sync."""
        for folder, _, files in os.walk(root):
            self._sync_folder(Path(folder))
            for name in files:
                self._sync_file(Path(folder) / name)
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._followed(getattr(os, name)))

    def _followed(self, real: Callable[[Any], None]) -> Callable[[Any], None]:
        def sync(file: Any) -> None:
            real(file)
            number = file if isinstance(file, int) else file.fileno()
            path = Path(f"/proc/self/fd/{number}").readlink()
            if path.is_relative_to(self._root):
                with self._lock:
                    if path.is_dir():
                        self._sync_folder(path)
                    else:
                        data = Path(f"/proc/self/fd/{number}").read_bytes()
                        inode = os.fstat(number).st_ino
                        self._bytes[inode] = data
                        self._names.pop(inode, None)  # of a folder that is gone: numbers are given anew

        return sync

    def _sync_folder(self, path: Path) -> None:
        with os.scandir(path) as entries:
            inode = path.stat().st_ino
            self._names[inode] = {entry.name: entry.inode() for entry in entries}
            self._bytes.pop(inode, None)

    def _sync_file(self, path: Path) -> None:
        self._bytes[path.stat().st_ino] = path.read_bytes()

    def image(self, target: Path) -> Path:
        """Write what would be found after a power cut right now; returns `target`."""
        with self._lock:
            self._write(self._root.stat().st_ino, self._root, target)
        return target

    def _write(self, inode: int, live: Path, target: Path) -> None:
        target.mkdir(mode=0o700)
        for name, child in self._names.get(inode, {}).items():
            path = live / name
            if name.endswith(self.SQLITE):
                if path.exists():
                    (target / name).write_bytes(path.read_bytes())
                    (target / name).chmod(0o600)
            elif child in self._names:
                self._write(child, path, target / name)
            elif child in self._bytes:
                (target / name).write_bytes(self._bytes[child])
                (target / name).chmod(0o600)
            elif path.is_dir():
                (target / name).mkdir()
            else:
                (target / name).touch(mode=0o600)  # a name whose bytes were never synced


@pytest.fixture
def lose_power(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], VolatileDisk]:
    """Follow a folder from now on, to see what a power cut would leave of it."""
    return lambda root: VolatileDisk(root, monkeypatch)
