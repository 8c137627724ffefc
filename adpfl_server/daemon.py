"""The aggregator daemon: ports, runs, signals. Started by `adpfl-server --config server.yaml`.

Order of a start: everything that can be wrong is checked first (configuration, keys, state, ports, initial
models), then the ports open. SIGTERM and SIGINT stop it cleanly; after `kill -9` the next start goes on from
the database.
"""

import asyncio
import fcntl
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from adpfl import __version__
from adpfl.errors import ConfigError, StateError
from adpfl.federated.coordinator import new_run
from adpfl.federated.run_plan import RunPlan
from adpfl.kill_points import reach
from adpfl.learning.trainable import trainable_names
from adpfl.security.identity import PeerCertificate, ServerIdentity
from adpfl.security.private_files import make_folder
from adpfl.security.tls import (
    ENROLLMENT_SERVER_OPTIONS,
    SERVER_OPTIONS,
    RenewedIdentity,
    enrollment_server_credentials,
    server_credentials,
)
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl.wire.receipts import sign_receipt
from adpfl_server.config import ServerConfig, split_address
from adpfl_server.enrollment import EnrollmentService
from adpfl_server.identity.certificate_table import check_not_revoked
from adpfl_server.identity.pki import WatchedIdentity, find_authority, load_server_identity
from adpfl_server.interceptors import IdentityInterceptor
from adpfl_server.limits.allocator import settle_allocator
from adpfl_server.limits.descriptors import DescriptorWatch, connections_within, take_descriptors
from adpfl_server.limits.enrollment_port import PatienceInterceptor
from adpfl_server.operating.certificate_view import ending_soon
from adpfl_server.operating.health import StorageHealth
from adpfl_server.operating.metrics import MetricsPort, ServerCollector
from adpfl_server.operating.privacy_notice import privacy_warning
from adpfl_server.operations import IdentityService, OperationsService
from adpfl_server.rounds.intake import Intake
from adpfl_server.rounds.steering import Steering
from adpfl_server.runner import Runner
from adpfl_server.service import FederationService, add_to_server
from adpfl_server.storage.database import open_database
from adpfl_server.storage.trouble import STORAGE_ERRORS, storage_reason
from adpfl_server.storage.weights import check_description, import_weights, plan_of, read_header
from adpfl_server.store import DATABASE_FILE, Store

STOP_GRACE_SECONDS = 5.0
ENROLLMENT_THREADS = 2
"""Threads of the enrolment port alone: what strangers ask for never queues before a site's chunks."""
ENROLLMENTS_AT_ONCE = 32
"""Calls that the enrolment port holds; gRPC turns further ones away with RESOURCE_EXHAUSTED."""
LOCK_FILE = "server.lock"
SERVICE_NAME = pb.DESCRIPTOR.services_by_name["Federation"].full_name

_log = structlog.get_logger()


@dataclass(frozen=True)
class Ports:
    """The ports that were bound; they differ from the configured ones where those are 0."""

    main: int
    enrollment: int
    metrics: int | None = None
    """None where the configuration names none."""


def serve(config: ServerConfig, config_path: Path) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Raises:
        AdpflError: something stands in the way of a start, and nothing was served; or work failed that the
            runs need, and the server stopped as if it had been told to.
    """
    settle_allocator()
    with _only_server(config.state_dir):
        asyncio.run(_serve(config, config_path))


async def _serve(config: ServerConfig, config_path: Path) -> None:
    identity = load_server_identity(config.state_dir, now=_now())
    _require_free("listen", config.listen)
    _require_free("enroll_listen", config.enroll_listen)
    if config.metrics_listen is not None:
        _require_free("metrics_listen", config.metrics_listen)
    store = Store(config.state_dir)
    try:
        try:
            store.prepare(config.keep_models)
        except STORAGE_ERRORS as error:
            raise StateError(
                f"the stored chunks cannot be looked through: {storage_reason(error)}"
            ) from error
        daemon = Daemon(config, config_path, identity, store)
        stop = asyncio.Event()
        # Before the start: a signal that comes while ports open or weights are made must also end in a clean
        # stop.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await daemon.start()
        await _first_of(stop, daemon.runner.broken)
        _log.info("stopping")
        await daemon.stop()
        _log.info("stopped")
        if daemon.runner.broken.is_set():
            raise StateError("background work that every run needs has failed; the log says why")
    finally:
        store.close()


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


class Daemon:
    """The two ports and the runs behind them, in one event loop."""

    def __init__(
        self, config: ServerConfig, config_path: Path, identity: ServerIdentity, store: Store
    ) -> None:
        """Put the parts together; nothing is bound or started yet."""
        self._config = config
        self._config_path = config_path
        self._identity = identity
        self.runner = Runner(
            store,
            config.state_dir / "runs",
            clock=time.time,
            site_silence_seconds=config.site_silence_seconds,
            keep_models=config.keep_models,
        )
        self._health = HealthServicer()
        self._storage_health = StorageHealth(self.runner, self._health, config.state_dir, ("", SERVICE_NAME))
        self._metrics: MetricsPort | None = None
        limits = config.limits
        self._descriptors = take_descriptors()
        connections = connections_within(limits.connections, self._descriptors)
        self._admission = IdentityInterceptor(self._check_certificate, self.runner.heard, time.time, limits)
        self._steering = Steering(self.runner, self._admission.drop, partial(ending_soon, config.state_dir))
        self._main = grpc.aio.server(
            interceptors=[self._admission],
            options=(*SERVER_OPTIONS, *limits.main_port_options(connections)),
        )
        self._enrollment = grpc.aio.server(
            interceptors=[PatienceInterceptor()],
            options=(*ENROLLMENT_SERVER_OPTIONS, *limits.port_options(connections)),
            maximum_concurrent_rpcs=ENROLLMENTS_AT_ONCE,
        )
        self._enrollment_pool = ThreadPoolExecutor(ENROLLMENT_THREADS, thread_name_prefix="enrollment")

    async def start(self) -> Ports:
        """Check everything, then serve.

        Raises:
            AdpflError: a port is in use, a run cannot be prepared, or a key is unusable.
        """
        self._add_services()
        ports = Ports(
            _bind(
                self._main,
                "listen",
                self._config.listen,
                server_credentials(self._identity, self._watched()),
            ),
            _bind(
                self._enrollment,
                "enroll_listen",
                self._config.enroll_listen,
                enrollment_server_credentials(self._identity, self._watched()),
            ),
        )
        ports = self._with_metrics(ports)
        try:
            await self._prepare_runs()
        except STORAGE_ERRORS as error:
            raise StateError(f"the runs cannot be prepared: {storage_reason(error)}") from error
        self.runner.start()
        self.runner.spawn(self._steering.watch(), vital=True)
        await self._main.start()
        await self._enrollment.start()
        await self._storage_health.look()
        self.runner.spawn(self._storage_health.watch(), vital=True)
        self.runner.spawn(DescriptorWatch(self._descriptors).watch(self.runner.stopping))
        _log.info(
            "serving",
            version=__version__,
            port=ports.main,
            enroll_port=ports.enrollment,
            metrics_port=ports.metrics,
            runs=sorted(self.runner.states),
        )
        return ports

    async def stop(self) -> None:
        """Answer the waiting polls, let calls in flight finish, write the records."""
        await self._health.enter_graceful_shutdown()
        self.runner.stopping.set()
        self.runner.wake_all()
        await asyncio.gather(self._main.stop(STOP_GRACE_SECONDS), self._enrollment.stop(STOP_GRACE_SECONDS))
        self._enrollment_pool.shutdown()
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
        await self.runner.stop()

    def _with_metrics(self, ports: Ports) -> Ports:
        if self._config.metrics_listen is None:
            return ports
        collector = ServerCollector(self.runner, self._storage_health, self._config.state_dir)
        self._metrics = MetricsPort(self._config.metrics_listen, collector)
        return replace(ports, metrics=self._metrics.port)

    def _add_services(self) -> None:
        service = FederationService(
            self.runner,
            Intake(self.runner.book, partial(sign_receipt, key=self._identity.key)),
            version=__version__,
            instance_id=secrets.token_hex(16),
        )
        authority = find_authority(self._config.state_dir, now=_now())
        if authority is None:
            _log.info("the authority's key is not on this machine: enrolments and renewals wait to be signed")
        add_to_server(service, self._main)
        rpc.add_IdentityServicer_to_server(  # type: ignore[no-untyped-call]
            IdentityService(self.runner, authority), self._main
        )
        rpc.add_OperationsServicer_to_server(  # type: ignore[no-untyped-call]
            OperationsService(self.runner, self._steering), self._main
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._main)
        if self._config.reflection:
            reflection.enable_server_reflection((SERVICE_NAME, reflection.SERVICE_NAME), self._main)
        database = self._config.state_dir / DATABASE_FILE
        enrollment = EnrollmentService(
            authority,
            connect=lambda: open_database(database),
            clock=_now,
            executor=self._enrollment_pool,
            limits=self._config.limits,
        )
        rpc.add_EnrollmentServicer_to_server(enrollment, self._enrollment)  # type: ignore[no-untyped-call]

    def _watched(self) -> RenewedIdentity:
        """Each port looks for itself: what one has seen, the other has not."""
        return WatchedIdentity(self._config.state_dir, _now).renewed

    async def _check_certificate(self, peer: PeerCertificate) -> None:
        await self.runner.in_database(check_not_revoked, self.runner.store.connection, peer.serial)

    async def _prepare_runs(self) -> None:
        """Resume the runs that the database knows, and create the others from their initial models."""
        known = await self.runner.in_database(self.runner.store.plan_digests)
        plans = {entry.run: await self.runner.in_files(plan_of, entry) for entry in self._config.runs}
        for entry in self._config.runs:
            digest = plans[entry.run].digest()
            if known.get(entry.run, digest) != digest:
                raise ConfigError(
                    f"runs: the plan of {entry.run} differs from the one it was started with "
                    f"(digest {digest[:12]}, was {known[entry.run][:12]}); a changed plan needs a new name"
                )
        for entry in self._config.runs:
            warning = privacy_warning(entry.privacy)
            if warning is not None:
                _log.warning(warning, run=entry.run, arm=entry.arm)
            if entry.run in known:
                await self.runner.in_database(self.runner.book.resume, entry.run)
            else:
                await self._create_run(plans[entry.run])
        await self.runner.in_database(self._say_unnamed, [run for run in known if run not in plans])

    def _say_unnamed(self, runs: list[str]) -> None:
        """Warn of stored runs that are not over and are not served: their sites hear NOT_FOUND."""
        for run in runs:
            try:
                state = self.runner.store.state(run)
            except StateError as error:
                # Of another version: nothing that this start serves needs it.
                _log.warning("a run that the configuration no longer names cannot be read", reason=str(error))
                continue
            if not state.over:
                _log.warning(
                    "run is not over, but the configuration no longer names it under runs: it is not served",
                    run=run,
                    rounds_closed=state.rounds_closed,
                    rounds=state.plan.rounds,
                )

    async def _create_run(self, plan: RunPlan) -> None:
        path = self._config.initial_model_path(plan.run)
        if not path.exists():
            _log.info("making initial weights", run=plan.run, path=str(path))
            await _make_initial_model(self._config_path, plan.run)
        header = read_header(path)
        check_description(path, header, plan)
        trainable_names(plan.network, [tensor.name for tensor in header.tensors])
        if header.description is None:
            _log.warning("initial weights do not say what they are for", run=plan.run, path=str(path))
        manifest = await self.runner.in_files(import_weights, path, self.runner.store.blobs)
        reach("server.run_creating")
        created = new_run(plan, manifest.digest, time.time())
        await self.runner.in_database(self.runner.book.add, created, manifest)


async def _make_initial_model(config_path: Path, run: str) -> None:
    """Make a run's weights in a process of its own: this one never loads torch.

    Raises:
        StateError: the process failed; its last line says why.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "adpfl_server",
        "init-model",
        run,
        "--config",
        str(config_path),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no message"]
        raise StateError(f"initial weights of run {run} cannot be made: {lines[-1].removeprefix('error: ')}")


def _require_free(key: str, address: str) -> None:
    """Refuse an address that cannot be listened on before anything is written.

    gRPC finds it out too, but later, and prints a line of its own beside our message.

    Raises:
        StateError: the port is taken or the host is not this machine's.
    """
    host, port = split_address(key, address)
    try:
        family, _, _, _, place = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        socket.create_server(place[:2], family=family).close()
    except OSError as error:
        raise StateError(
            f"{key}: cannot listen on {address}; is the port in use or the host not ours?"
        ) from error


def _bind(server: Any, key: str, address: str, credentials: Any) -> int:
    try:
        port = int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise StateError(
            f"{key}: cannot listen on {address}; is the port in use or the host not ours?"
        ) from error
    if port == 0:
        raise StateError(f"{key}: cannot listen on {address}; is the port in use or the host not ours?")
    return port


@contextmanager
def _only_server(state_dir: Path) -> Iterator[None]:
    """Hold the state folder for this process alone; the lock goes with the process, however it ends.

    Raises:
        StateError: another server holds it, or it cannot be made.
    """
    try:
        make_folder(state_dir)
        descriptor = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"state_dir is {state_dir}; cannot be used: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(f"state_dir is {state_dir}; another adpfl-server is using it") from error
        yield
    finally:
        os.close(descriptor)


def _now() -> datetime:
    return datetime.now(UTC)
