"""A real daemon on loopback over real TLS, and sites that call it, in one process."""

import asyncio
import contextlib
import dataclasses
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from adpfl.security.certificates import Holder, create_request, new_key
from adpfl.security.identity import CallerIdentity, load_certificate
from adpfl.security.tls import CHANNEL_OPTIONS, channel_credentials
from adpfl.wire import limits, messages, transfers
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl.wire.chunks import Manifest, iter_chunks, manifest_of_arrays, sha256_hex
from adpfl_server import enrollment
from adpfl_server.config import ServerConfig, load_server_config
from adpfl_server.daemon import Daemon
from adpfl_server.enrollment import redeem
from adpfl_server.identity.pki import init_consortium, load_authority, load_server_identity
from adpfl_server.identity.tokens import issue_token
from adpfl_server.storage.database import open_database
from adpfl_server.store import DATABASE_FILE, Store

SITES = ("hospital1", "hospital2", "hospital3")
TASK = "skin_lesion"
ROOT = Path(__file__).parents[2]
SERVER_PATIENCE_SECONDS = 30.0
LAYOUT = {"conv.weight": (300, 200), "conv.bias": (200,), "scale": ()}


def plan_document(**changes) -> dict:
    document = {
        "run": "demo",
        "task": TASK,
        "image_size": [64, 64],
        "rounds": 2,
        "local": {"steps": 3, "learning_rate": 0.1},
        "cohort": {"sites": list(SITES), "quorum": 2, "round_deadline_seconds": 3600.0},
        "privacy": {"mode": "none", "sampling": {"mode": "full"}},
    }
    return document | changes


def random_weights(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: np.asarray(scale * generator.standard_normal(shape), dtype=np.float32)
        for name, shape in LAYOUT.items()
    }


def write_safetensors(
    path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    header: dict = {} if metadata is None else {"__metadata__": metadata}
    start = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [start, start + array.nbytes],
        }
        start += array.nbytes
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values())
    )


@dataclass(frozen=True)
class Update:
    """What a site would have in its spool."""

    manifest: Manifest
    chunks: dict[str, bytes]


def update_of(arrays: dict[str, np.ndarray], chunk_size: int = 2**20) -> Update:
    chunks = {sha256_hex(chunk): chunk for chunk in iter_chunks(arrays, chunk_size)}
    return Update(manifest_of_arrays(arrays, chunk_size=chunk_size), chunks)


def enroll_in_database(state_dir: Path, holder: Holder, address: str) -> CallerIdentity:
    """What the enrolment port does, without the port."""
    now = datetime.now(UTC)
    key = new_key()
    request = create_request(key, holder.name).public_bytes(serialization.Encoding.DER)
    database = open_database(state_dir / DATABASE_FILE)
    token = issue_token(database, holder, now=now)
    authority = load_authority(state_dir, now=now)
    pem = redeem(database, authority, holder=holder, token=token.token, request=request, now=now)
    database.close()
    server = load_server_identity(state_dir, now=now)
    return CallerIdentity(
        holder=holder,
        authority=server.authority,
        certificate=load_certificate(pem, what="test"),
        server_certificate=server.certificate,
        address=address,
        key=key,
    )


class Caller:
    """One site's side of the wire, as thin as it can be."""

    def __init__(self, identity: CallerIdentity, run: str = "demo"):
        self.identity = identity
        self.run = run
        self.channel = grpc.secure_channel(identity.address, channel_credentials(identity), CHANNEL_OPTIONS)
        self.stub = rpc.FederationStub(self.channel)

    @property
    def site(self) -> str:
        return self.identity.site

    def join(
        self,
        instance: str = "0",
        patients: int = 10,
        site: str | None = None,
        run: str | None = None,
        task: str = TASK,
    ) -> messages.JoinResponse:
        request = messages.JoinRequest(
            site=site or self.site,
            instance_id=(instance * 32)[:32],
            software_version="1",
            run=run,
            training_patients={task: patients},
        )
        return messages.JoinResponse.from_wire(self.stub.Join(request.to_wire(), timeout=20))

    def enter(self, instance: str = "0", **options) -> None:
        """Join and ask for a task once, as an agent does whose policy lets the run pass."""
        self.join(instance, **options)
        self.next_task()

    def next_task(self, wait_seconds: int = 0, run: str | None = None) -> messages.NextTaskResponse:
        request = messages.NextTaskRequest(run or self.run, wait_seconds)
        return messages.NextTaskResponse.from_wire(
            self.stub.NextTask(request.to_wire(), timeout=20 + wait_seconds)
        )

    def fetch(self, digest: str, held: tuple[str, ...] = ()) -> tuple[Manifest, dict[str, bytes]]:
        have = transfers.HaveResponse.from_wire(
            self.stub.Have(transfers.HaveRequest(self.run, digest, held).to_wire(), timeout=20)
        )
        chunks = {}
        if have.missing:
            request = transfers.FetchRequest(self.run, digest, have.missing)
            for message in self.stub.Fetch(request.to_wire(), timeout=20):
                chunk = transfers.Chunk.from_fetch(message)
                chunks[chunk.digest] = chunk.data
        return have.manifest, chunks

    def offer(self, round_number: int, base: str, update: Update) -> tuple[str, ...]:
        request = transfers.OfferRequest(self.run, round_number, base, update.manifest)
        return transfers.OfferResponse.from_wire(self.stub.Offer(request.to_wire(), timeout=20)).missing

    def push(self, round_number: int, update: Update, digests: tuple[str, ...]) -> tuple[str, ...]:
        def parts():
            yield transfers.PushHeader(self.run, round_number, update.manifest.digest).to_wire()
            for digest in digests:
                yield transfers.Chunk(digest, update.chunks[digest]).to_push()

        return transfers.PushResponse.from_wire(self.stub.Push(parts(), timeout=20)).missing

    def commit(
        self, round_number: int, base: str, digest: str, head: str = ""
    ) -> transfers.CommitUpdateResponse:
        request = transfers.CommitUpdateRequest(self.run, round_number, base, digest, head)
        return transfers.CommitUpdateResponse.from_wire(self.stub.CommitUpdate(request.to_wire(), timeout=20))

    def send(self, round_number: int, base: str, update: Update) -> transfers.CommitUpdateResponse:
        self.push(round_number, update, self.offer(round_number, base, update))
        return self.commit(round_number, base, update.manifest.digest)

    def heartbeat(
        self, activity: messages.SiteActivity, round_number: int = 0, detail: str = ""
    ) -> messages.HeartbeatResponse:
        request = messages.HeartbeatRequest(self.run, round_number, activity, detail=detail)
        return messages.HeartbeatResponse.from_wire(self.stub.Heartbeat(request.to_wire(), timeout=20))


class RunningDaemon:
    """The daemon in a thread of its own; `stop` ends it as SIGTERM would."""

    def __init__(self, config: ServerConfig, config_path: Path):
        self.config = config
        self._path = config_path
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(30)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that started this one
            self._failure = error
            self._ready.set()

    async def _serve(self) -> None:
        identity = load_server_identity(self.config.state_dir, now=datetime.now(UTC))
        store = Store(self.config.state_dir)
        store.prepare(self.config.keep_models)
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.daemon = Daemon(self.config, self._path, identity, store)
        self.ports = await self.daemon.start()
        self._ready.set()
        await self._stop.wait()
        await self.daemon.stop()
        store.close()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(30)
        assert not self._thread.is_alive()


class Consortium:
    """A state folder with keys, a configuration, and whatever was started on it."""

    def __init__(self, root: Path):
        self.root = root
        self.config_path = root / "server.yaml"
        self.state_dir = root / "state"
        self.running: list[RunningDaemon] = []
        self.callers: list[Caller] = []
        init_consortium(self.state_dir, "test", ["localhost", "127.0.0.1"], now=datetime.now(UTC))

    plan = staticmethod(plan_document)
    weights = staticmethod(random_weights)
    update_of = staticmethod(update_of)
    write_safetensors = staticmethod(write_safetensors)

    def update(self, seed: int, **options) -> Update:
        return update_of(random_weights(seed, 0.01), **options)

    def configure(self, *runs: dict, **changes) -> ServerConfig:
        write_safetensors(self.root / "initial.safetensors", random_weights(0))
        document = {
            "state_dir": "state",
            "listen": "127.0.0.1:0",
            "enroll_listen": "127.0.0.1:0",
            "public_address": "localhost:7400",
            "public_enroll_address": "localhost:7401",
            "runs": [{"initial_model": "initial.safetensors"} | run for run in runs or [plan_document()]],
        }
        self.config_path.write_text(yaml.safe_dump(document | changes))
        return load_server_config(self.config_path)

    def start(self, *runs: dict, **changes) -> RunningDaemon:
        daemon = RunningDaemon(self.configure(*runs, **changes), self.config_path)
        self.running.append(daemon)
        return daemon

    def caller(self, site: str) -> Caller:
        address = f"localhost:{self.running[-1].ports.main}"
        caller = Caller(enroll_in_database(self.state_dir, Holder("site", site), address))
        self.callers.append(caller)
        return caller

    def again(self, caller: Caller, port: int | None = None) -> Caller:
        """The same site, calling the daemon that was started last; by another port, where one is named."""
        address = f"localhost:{port or self.running[-1].ports.main}"
        moved = dataclasses.replace(caller.identity, address=address)
        fresh = Caller(moved)
        self.callers.append(fresh)
        return fresh

    def record(self, run: str = "demo") -> dict:
        return json.loads((self.state_dir / "runs" / run / "run.json").read_text())

    def close(self) -> None:
        for caller in self.callers:
            caller.channel.close()
        for daemon in self.running:
            daemon.stop()


class ServerProcess:
    """`adpfl-server` as an operator starts it; its log is JSON lines."""

    def __init__(self, consortium, *runs, descriptors=None, **limits):
        consortium.configure(*runs, limits=limits)
        self.log = consortium.root / "log"
        command = [sys.executable, "-m", "adpfl_server", "--config", str(consortium.config_path)]
        if descriptors is not None:
            command = ["/bin/sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                command,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.port = self.wait_for(lambda: self.lines("serving"))[0]["port"]

    def lines(self, event):
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return [line for line in found if line.get("event", "").startswith(event)]

    def wait_for(self, found):
        deadline = time.monotonic() + SERVER_PATIENCE_SECONDS
        while not (answer := found()):
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        return answer

    def stop(self):
        self.process.terminate()
        assert self.process.wait(30) == 0


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    (tmp_path / "consortium").mkdir()
    made = Consortium(tmp_path / "consortium")
    yield made
    made.close()


@pytest.fixture
def serve(consortium):
    """Start the server as a process of its own."""
    started = []

    def start(*runs, **options):
        started.append(ServerProcess(consortium, *runs, **options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def enrolled():
    """Enrol a holder of any role, past the enrolment port."""
    return enroll_in_database


@pytest.fixture
def revoke():
    def end(state_dir: Path, site: str) -> None:
        database = open_database(state_dir / DATABASE_FILE)
        enrollment.revoke(database, Holder("site", site), now=datetime.now(UTC))
        database.close()

    return end


@pytest.fixture
def caller_at(consortium):
    """A caller at an address, for a site to be enrolled now or an identity that exists."""

    def call(site: str | CallerIdentity, address: str) -> Caller:
        known = isinstance(site, CallerIdentity)
        identity = (
            dataclasses.replace(site, address=address)
            if known
            else enroll_in_database(consortium.state_dir, Holder("site", site), address)
        )
        caller = Caller(identity)
        consortium.callers.append(caller)
        return caller

    return call


@pytest.fixture
def running(consortium):
    consortium.start()
    return consortium


@pytest.fixture
def joined(running):
    """Three sites that joined a run whose first round is open."""
    callers = [running.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    return callers


@pytest.fixture
def small_chunks(consortium, monkeypatch):
    """Three sites in an open round of a model of four chunks, of which every second one is a check."""
    monkeypatch.setattr("adpfl_server.storage.weights.DEFAULT_CHUNK_SIZE", limits.CHUNK_SIZE_MIN)
    monkeypatch.setattr("adpfl_server.service.CHUNKS_PER_CHECK", 2)
    consortium.start()
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    return consortium, callers[0]
