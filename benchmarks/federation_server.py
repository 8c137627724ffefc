"""A real consortium for the benchmark of transfers: keys, enrolled sites, the daemon as a process, its /proc.

Nothing here stands in for the product: `python -m adpfl_server` serves, sites enrol at its enrolment port,
chunks land in its blob folder. Linux alone, because memory and CPU are read from `/proc`.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from adpfl.security.bundle import write_bundle
from adpfl.security.certificates import Holder
from adpfl.security.tls import require_tls13

require_tls13()  # before anything loads grpc

from adpfl_client.link.enrollment import enroll  # noqa: E402
from adpfl_server.identity.pki import init_consortium, load_server_identity  # noqa: E402
from adpfl_server.identity.tokens import bundle_for, issue_token  # noqa: E402
from adpfl_server.storage.database import open_database  # noqa: E402
from adpfl_server.store import DATABASE_FILE  # noqa: E402

ROOT = Path(__file__).parents[1]
CHUNK_BYTES = 2**20
PATIENCE_SECONDS = 60.0
ENROLLED_AT_ONCE = 8
"""Below what the enrolment port holds at a time."""
SAMPLE_SECONDS = 0.02


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a process, by kind."""

    anonymous: int
    file: int

    @property
    def total(self) -> int:
        """Both kinds."""
        return self.anonymous + self.file


def memory_of(process: int) -> Memory:
    """What the kernel counts now."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    kilobytes = {name: int(fields[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem")}
    return Memory(1024 * kilobytes["RssAnon"], 1024 * (kilobytes["RssFile"] + kilobytes["RssShmem"]))


def cpu_seconds(process: int) -> float:
    """User and system time of all threads so far."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class PeakMemory:
    """Watches a process; samples every `SAMPLE_SECONDS`, so that kinds of memory can be told apart."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._done = threading.Event()
        self.idle = memory_of(process)
        self.anonymous, self.total = self.idle.anonymous, self.idle.total
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            try:
                found = memory_of(self._process)
            except (OSError, KeyError):  # it has ended, or is about to be buried
                return
            self.anonymous = max(self.anonymous, found.anonymous)
            self.total = max(self.total, found.total)

    def stop(self) -> tuple[int, int]:
        """Most bytes over the idle level: anonymous alone, and with mapped files."""
        self._done.set()
        self._thread.join()
        return self.anonymous - self.idle.anonymous, self.total - self.idle.total


def chunk_block() -> bytes:
    """The bytes that every chunk shares: small random float32."""
    return (1e-3 * np.random.default_rng(0).standard_normal(CHUNK_BYTES // 4)).astype("<f4").tobytes()


def tagged(block: bytes, size: int, *numbers: int) -> bytes:
    """A chunk of its own: its first values are the numbers, so no two chunks are the same object."""
    tag = np.array(numbers, "<f4").tobytes()
    return b"".join((tag, memoryview(block)[len(tag) : size]))


def write_initial_model(path: Path, payload_bytes: int) -> None:
    """Weights of one tensor whose chunks all differ."""
    shape = [payload_bytes // 4]
    header = {"weights": {"dtype": "F32", "shape": shape, "data_offsets": [0, payload_bytes]}}
    text = json.dumps(header).encode()
    block = chunk_block()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for index, start in enumerate(range(0, payload_bytes, CHUNK_BYTES)):
            file.write(tagged(block, min(CHUNK_BYTES, payload_bytes - start), 0, index))


def plan_of(run: str, sites: Sequence[str], rounds: int, initial_model: Path) -> dict[str, Any]:
    """A run that waits for every site and trains nothing."""
    return {
        "run": run,
        "task": "skin_lesion",
        "image_size": [64, 64],
        "rounds": rounds,
        "local": {"steps": 1, "learning_rate": 0.1},
        "cohort": {"sites": list(sites), "quorum": len(sites), "round_deadline_seconds": 3600.0},
        "privacy": {"mode": "none", "sampling": {"mode": "full"}},
        "initial_model": str(initial_model),
    }


class Consortium:
    """A state folder with keys, sites that enrolled, and one daemon at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state_dir = root / "state"
        self.port, self.enroll_port = free_port(), free_port()
        self._config = root / "server.yaml"
        self._environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        init_consortium(self.state_dir, "benchmark", ["localhost"], now=datetime.now(UTC))

    @property
    def address(self) -> str:
        """Where sites dial."""
        return f"localhost:{self.port}"

    def site_folder(self, site: str) -> Path:
        """A site's own folder: identity, spool, models."""
        return self.root / "sites" / site

    def enroll(self, sites: Sequence[str]) -> float:
        """Enrol sites at the real port, the daemon running; returns the seconds it took."""
        now = datetime.now(UTC)
        identity = load_server_identity(self.state_dir, now=now)
        database = open_database(self.state_dir / DATABASE_FILE)
        bundles = {}
        for site in sites:
            token = issue_token(database, Holder("site", site), now=now)
            bundles[site] = self.root / f"{site}.bundle.json"
            enroll_address = f"localhost:{self.enroll_port}"
            write_bundle(
                bundles[site],
                bundle_for(token, identity, address=self.address, enroll_address=enroll_address),
            )
        database.close()

        def one(site: str) -> None:
            folder = self.site_folder(site)
            folder.mkdir(parents=True, mode=0o700)
            enroll(bundles[site], folder, Holder("site", site), now=datetime.now(UTC))

        started = time.monotonic()
        with ThreadPoolExecutor(ENROLLED_AT_ONCE) as pool:
            list(pool.map(one, sites))
        return time.monotonic() - started

    @contextmanager
    def serving(self, plans: Sequence[Mapping[str, Any]]) -> Iterator[int]:
        """Run the daemon; yields its process number once it listens and has imported the models."""
        document = {
            "state_dir": "state",
            "listen": f"127.0.0.1:{self.port}",
            "enroll_listen": f"127.0.0.1:{self.enroll_port}",
            "public_address": self.address,
            "public_enroll_address": f"localhost:{self.enroll_port}",
            # All sites of the benchmark enrol from one address within seconds.
            "limits": {"enrollments_per_minute": 10_000, "enrollments_per_minute_per_address": 10_000},
            "runs": [dict(plan) for plan in plans],
        }
        self._config.write_text(yaml.safe_dump(document), encoding="utf-8")
        log = (self.root / "server.log").open("ab")
        command = [sys.executable, "-m", "adpfl_server", "--config", str(self._config)]
        daemon = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log, cwd=self.root)
        try:
            self._wait_until_serving(daemon)
            yield daemon.pid
        finally:
            daemon.terminate()
            daemon.wait(PATIENCE_SECONDS)
            log.close()

    def _wait_until_serving(self, daemon: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if daemon.poll() is not None:
                raise RuntimeError(f"the daemon ended:\n{(self.root / 'server.log').read_text()[-2000:]}")
            try:
                for port in (self.port, self.enroll_port):
                    socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            except OSError:
                time.sleep(0.05)
            else:
                time.sleep(1.0)  # idle is what it is after its start
                return
        raise RuntimeError("the daemon does not listen")
