"""A small Federation service over real mutual TLS, with one site, whose every answer a test can spoil."""

# ruff: noqa: N802, ARG002 - the contract and gRPC's servicer give the names and the parameters

import hashlib
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization

from adpfl.data.synthetic.dermoscopy import write_clinic
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.initial_model import build_network
from adpfl.learning.networks import weights_of
from adpfl.security.certificates import (
    Holder,
    create_authority,
    create_request,
    issue_client_certificate,
    issue_server_certificate,
    new_key,
)
from adpfl.security.identity import CallerIdentity, ServerIdentity
from adpfl.security.tls import CHANNEL_OPTIONS, SERVER_OPTIONS, channel_credentials, server_credentials
from adpfl.tasks.registry import get_task
from adpfl.wire import limits, messages, receipts, transfers
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl.wire.chunks import Manifest, iter_chunks, manifest_of_arrays, sha256_hex
from adpfl_client.agent import Agent
from adpfl_client.config import SiteConfig
from adpfl_client.connection import Connection
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.link.backoff import Backoff
from adpfl_client.local_site import Site
from adpfl_client.rounds.models import ModelStore
from adpfl_client.rounds.site_data import load_site_data
from adpfl_client.spool import Spool
from tests.client.spending import DIGEST, NOW, POLICY, REQUEST

SITE = "hospital1"
CHUNK_SIZE = 65_536


@dataclass(frozen=True)
class StoredObject:
    manifest: Manifest
    chunks: dict[str, bytes]

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "StoredObject":
        chunks = {sha256_hex(chunk): chunk for chunk in iter_chunks(arrays, CHUNK_SIZE)}
        return cls(manifest_of_arrays(arrays, chunk_size=CHUNK_SIZE), chunks)

    def arrays(self) -> dict[str, np.ndarray]:
        payload = b"".join(self.chunks[digest] for digest in self.manifest.chunk_digests)
        flat, start, arrays = np.frombuffer(payload, dtype="<f4"), 0, {}
        for tensor in self.manifest.tensors:
            arrays[tensor.name] = flat[start : start + tensor.elements].reshape(tensor.shape)
            start += tensor.elements
        return arrays


@dataclass
class FederationStandIn(rpc.FederationServicer):
    """A coordinator for one site, without storage. `faults` holds the next answers' codes, by method."""

    key: Any
    plan: RunPlan | None = None
    base: StoredObject | None = None
    round: int = 1
    rounds: int = 1
    offered: dict[str, Manifest] = field(default_factory=dict)
    received: dict[str, bytes] = field(default_factory=dict)
    committed: dict[tuple[str, int, str], receipts.Receipt] = field(default_factory=dict)
    faults: dict[str, list[grpc.StatusCode]] = field(default_factory=dict)
    pushbacks: dict[str, list[str]] = field(default_factory=dict)
    """By method: what the next answers say of when to try again, with RESOURCE_EXHAUSTED."""
    chunks_before_cut: dict[str, list[int]] = field(default_factory=dict)
    """By method: how many chunks the next streams let through before the link breaks."""
    stall: set[str] = field(default_factory=set)
    withholds: bool = False
    """Fetch ends without a chunk."""
    forgets: bool = False
    """What a push brought is asked for again."""
    pause_seconds: float = 0.0
    """Before each chunk of a fetch."""
    """Methods whose next stream moves no further, once."""
    swap_chunk: bytes | None = None
    spoiled_join: pb.JoinResponse | None = None
    newest_receipt: receipts.SignedReceipt | None = None
    """What to say instead of the truth."""
    outcome: receipts.CommitOutcome = receipts.CommitOutcome.ACCEPTED
    calls: list[str] = field(default_factory=list)
    joins: list[messages.JoinRequest] = field(default_factory=list)
    heartbeats: list[messages.HeartbeatRequest] = field(default_factory=list)
    commits: list[transfers.CommitUpdateRequest] = field(default_factory=list)
    pushed_bytes: int = 0
    obsolete: bool = False
    failed: str = ""
    instance_id: str = "0" * 32

    def _enter(self, method: str, context: grpc.ServicerContext) -> None:
        self.calls.append(method)
        if self.faults.get(method):
            context.abort(self.faults[method].pop(0), "as the test wants it")

        if self.pushbacks.get(method):
            context.set_trailing_metadata(((limits.RETRY_AFTER_METADATA, self.pushbacks[method].pop(0)),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")

    def _cut(self, method: str) -> int | None:
        pending = self.chunks_before_cut.get(method)
        return pending.pop(0) if pending else None

    def Join(self, request, context):
        self._enter("Join", context)
        self.joins.append(messages.JoinRequest.from_wire(request))
        if self.spoiled_join is not None:
            return self.spoiled_join
        runs = ()
        if self.plan is not None:
            text = self.plan.canonical_json()
            digest = hashlib.sha256(text).hexdigest()
            runs = (messages.RunOffer(self.plan.run, text, digest, messages.RunStatus.RUNNING),)
        return messages.JoinResponse(runs, "test", self.instance_id, self._newest_receipt()).to_wire()

    def _newest_receipt(self) -> receipts.SignedReceipt | None:
        if self.newest_receipt is None and self.committed:
            receipt = list(self.committed.values())[-1]
            return receipts.SignedReceipt(receipt, receipts.sign_receipt(receipt, self.key))
        return self.newest_receipt

    def NextTask(self, request, context):
        self._enter("NextTask", context)
        if self.base is None or (self.plan is not None and request.run != self.plan.run):
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no run {request.run}")
        if self.failed:
            return messages.NextTaskResponse(messages.TaskKind.FAILED, detail=self.failed).to_wire()
        over = self.round > self.rounds
        kind = messages.TaskKind.FINISHED if over else messages.TaskKind.TRAIN
        return messages.NextTaskResponse(kind, self.round, self.base.manifest.digest).to_wire()

    def Have(self, request, context):
        self._enter("Have", context)
        assert self.base is not None
        return transfers.HaveResponse(self.base.manifest, tuple(self.base.chunks)).to_wire()

    def Fetch(self, request, context):
        self._enter("Fetch", context)
        cut = self._cut("Fetch")
        assert self.base is not None
        digests = () if self.withholds else transfers.FetchRequest.from_wire(request).digests
        for index, digest in enumerate(digests):
            if index == cut:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the link broke")
            if "Fetch" in self.stall and index == 1:
                self.stall.discard("Fetch")
                while context.is_active():
                    time.sleep(0.02)
                return
            time.sleep(self.pause_seconds)
            data = self.swap_chunk or self.base.chunks[digest]
            yield transfers.Chunk(digest, data).to_fetch()
        if cut == len(digests):
            context.abort(grpc.StatusCode.UNAVAILABLE, "the link broke at the end")

    def Offer(self, request, context):
        self._enter("Offer", context)
        offer = transfers.OfferRequest.from_wire(request)
        self.offered[offer.manifest.digest] = offer.manifest
        return transfers.OfferResponse(self._lacking(offer.manifest)).to_wire()

    def _lacking(self, manifest: Manifest) -> tuple[str, ...]:
        return tuple(digest for digest in manifest.indices_of if digest not in self.received)

    def Push(self, request_iterator, context):
        self._enter("Push", context)
        cut = self._cut("Push")
        header = transfers.push_part_from_wire(next(request_iterator))
        assert isinstance(header, transfers.PushHeader)
        for index, message in enumerate(request_iterator):
            if index == cut:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the link broke")
            chunk = transfers.push_part_from_wire(message)
            assert isinstance(chunk, transfers.Chunk)
            assert sha256_hex(chunk.data) == chunk.digest
            assert chunk.digest not in self.received
            self.received[chunk.digest] = chunk.data
            self.pushed_bytes += len(chunk.data)
        if self.forgets:
            self.received.clear()
        return transfers.PushResponse(self._lacking(self.offered[header.update_digest])).to_wire()

    def CommitUpdate(self, request, context):
        self._enter("CommitUpdate", context)
        commit = transfers.CommitUpdateRequest.from_wire(request)
        self.commits.append(commit)
        place = (commit.run, commit.round, commit.base_digest)
        if place not in self.committed:
            self.committed[place] = receipts.Receipt(
                run=commit.run,
                round=commit.round,
                site=SITE,
                base_digest=commit.base_digest,
                update_digest=commit.update_digest,
                ledger_head=commit.ledger_head,
                outcome=self.outcome,
                received_unix_millis=1,
            )
            self._aggregate(commit)
        receipt = self.committed[place]
        if self.faults.get("CommitUpdate.answer"):
            context.abort(self.faults["CommitUpdate.answer"].pop(0), "the answer was lost")
        return transfers.CommitUpdateResponse(receipt, receipts.sign_receipt(receipt, self.key)).to_wire()

    def _aggregate(self, commit: transfers.CommitUpdateRequest) -> None:
        assert self.base is not None
        update = StoredObject(self.offered[commit.update_digest], self.received).arrays()
        base = self.base.arrays()
        self.base = StoredObject.of({name: base[name] + update[name] for name in base})
        self.round += 1

    def Heartbeat(self, request, context):
        self._enter("Heartbeat", context)
        self.heartbeats.append(messages.HeartbeatRequest.from_wire(request))
        return pb.HeartbeatResponse(obsolete=self.obsolete)


@dataclass(frozen=True)
class Consortium:
    """A server's and a site's identity, as enrolment makes them, and a folder that holds the site's."""

    server: ServerIdentity
    authority: Any
    site_key: Any
    site_certificate: Any

    def site(self, address: str) -> CallerIdentity:
        return CallerIdentity(
            holder=Holder("site", SITE),
            authority=self.server.authority,
            certificate=self.site_certificate,
            server_certificate=self.server.certificate,
            address=address,
            key=self.site_key,
        )


def _consortium() -> Consortium:
    now = datetime.now(UTC)
    authority = create_authority("Test consortium", now=now)
    server_key, site_key = new_key(), new_key()
    certificate = issue_server_certificate(authority, server_key.public_key(), ["127.0.0.1"], now=now)
    request = create_request(site_key, SITE).public_bytes(serialization.Encoding.DER)
    return Consortium(
        server=ServerIdentity(authority.certificate, certificate, server_key),
        authority=authority,
        site_key=site_key,
        site_certificate=issue_client_certificate(authority, request, Holder("site", SITE), now=now),
    )


@pytest.fixture(scope="session")
def consortium() -> Consortium:
    return _consortium()


@pytest.fixture(scope="session")
def foreign_consortium() -> Consortium:
    return _consortium()


@dataclass
class RunningStandIn:
    """The service on a loopback port; can be stopped and started again on the same port."""

    service: FederationStandIn
    identity: ServerIdentity
    port: int = 0
    server: grpc.Server | None = None

    def start(self) -> None:
        self.server = grpc.server(futures.ThreadPoolExecutor(8), options=SERVER_OPTIONS)
        rpc.add_FederationServicer_to_server(self.service, self.server)
        self.port = self.server.add_secure_port(f"127.0.0.1:{self.port}", server_credentials(self.identity))
        self.server.start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop(0).wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@pytest.fixture
def federation(consortium: Consortium) -> Iterator[RunningStandIn]:
    running = RunningStandIn(FederationStandIn(key=consortium.server.key), consortium.server)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def stopping() -> threading.Event:
    return threading.Event()


@pytest.fixture
def pauses() -> list[float]:
    """What the connection would have waited, in seconds."""
    return []


@pytest.fixture
def connection(
    consortium: Consortium, federation: RunningStandIn, stopping: threading.Event, pauses: list[float]
) -> Iterator[Connection]:
    identity = consortium.site(federation.address)
    channel = grpc.secure_channel(federation.address, channel_credentials(identity), options=CHANNEL_OPTIONS)
    opened = Connection(
        channel,
        stopping,
        backoff=Backoff(first_seconds=0.5, uniform=lambda _low, high: high),
        pause=pauses.append,
        progress_seconds=1.0,
    )
    yield opened
    opened.close()


@pytest.fixture
def make_object():
    """Named float32 arrays as the stand-in stores them: several chunks, the last one short."""

    def make(seed: int = 0) -> StoredObject:
        draws = np.random.default_rng(seed)
        return StoredObject.of(
            {
                "weight": draws.standard_normal((3, 20_000), dtype=np.float32),
                "bias": draws.standard_normal(7, dtype=np.float32),
            }
        )

    return make


@pytest.fixture
def make_plan():
    """A run of two rounds that learns in well under a second."""

    def make(**changes: Any) -> RunPlan:
        document = {
            "run": "derm",
            "task": "skin_lesion",
            "image_size": [32, 32],
            "rounds": 2,
            "local": {"steps": 2, "learning_rate": 0.1},
            "cohort": {"sites": [SITE], "quorum": 1},
            "privacy": {
                "mode": "paper",
                "reading": "multiplier",
                "threshold": {"method": "percentile", "percentile": 50, "window_steps": 1},
                "sampling": {"mode": "partition", "probability": 0.25},
            },
        }
        return RunPlan.model_validate(document | changes)

    return make


@pytest.fixture(scope="session")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data folder of generated images."""
    folder = tmp_path_factory.mktemp("clinic") / "images"
    write_clinic(folder, "A", images=12, seed=3, size=(48, 48))
    return folder


@pytest.fixture
def make_config(clinic: Path, tmp_path: Path):
    """A site's configuration; `changes` go to the policy."""

    def make(**changes: Any) -> SiteConfig:
        policy = {
            "data_set_id": "set1",
            "allowed_tasks": ["skin_lesion"],
            "minimum_patients": 3,
            "accept_unbounded": [{"run": "derm", "reason": "a test", "by": "the tester"}],
        }
        document = {
            "site": SITE,
            "state_dir": tmp_path / "state",
            "data": {"skin_lesion": {"path": clinic, "held_out_fraction": 0.25}},
            "policy": policy | changes,
            "evaluate_every_rounds": 1,
        }
        return SiteConfig.model_validate(document)

    return make


@pytest.fixture
def serve(federation: RunningStandIn):
    """Let the stand-in offer a run, with the initial weights that its plan gives."""

    def serve(plan: RunPlan) -> FederationStandIn:
        service = federation.service
        network = build_network(plan, get_task(plan.task))
        service.plan, service.rounds = plan, plan.rounds
        service.base = StoredObject.of({name: value.numpy() for name, value in weights_of(network).items()})
        return service

    return serve


@pytest.fixture
def open_agent(consortium: Consortium, federation: RunningStandIn):
    """One agent process: its site, its link and the agent. Opening it again is a restart."""

    @contextmanager
    def open_agent(config: SiteConfig, stopping: threading.Event | None = None):
        stopping = stopping or threading.Event()
        identity = consortium.site(federation.address)
        channel = grpc.secure_channel(
            federation.address, channel_credentials(identity), options=CHANNEL_OPTIONS
        )
        connection = Connection(channel, stopping, pause=lambda _seconds: None)
        spool = Spool(config.state_dir / "spool")
        spool.discard_unsealed()
        with LedgerStore.open(config.state_dir, time.time()) as ledger:
            site = Site(
                config=config,
                identity=identity,
                data={task: load_site_data(task, entry) for task, entry in config.data.items()},
                connection=connection,
                ledger=ledger,
                spool=spool,
                models=ModelStore(config.state_dir / "models"),
                clock=time.time,
                stopping=stopping,
            )
            try:
                yield Agent(site, instance_id=uuid.uuid4().hex, pause=lambda _seconds: None)
            finally:
                connection.close()

    return open_agent


@pytest.fixture
def spent_state(tmp_path: Path) -> Path:
    """A closed ledger with two rounds, the first committed."""
    with LedgerStore.open(tmp_path, NOW) as store:
        made = store.reserve(REQUEST, POLICY, now=NOW)
        store.seal(made.id, DIGEST, now=NOW + 1)
        store.commit(made.id, '{"run":"first"}', now=NOW + 2)
        store.reserve(replace(REQUEST, round_number=2, first_step=5), POLICY, now=NOW + 3)
    return tmp_path
