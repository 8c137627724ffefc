"""A real daemon on a disk that is full or read-only: it says so, loses nothing, and recovers by itself.

Where the system lets an ordinary user mount things in a namespace of its own, the disk is a small one that is
filled, or whose chunks are made read-only. Everywhere, a limit on the size of files makes the kernel refuse
what the daemon writes.
"""

import json
import os
import resource
import signal
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adpfl.security.certificates import Holder
from adpfl.wire.messages import TaskKind

pytestmark = pytest.mark.process

SITES = ("hospital1", "hospital2", "hospital3")
DISK_MIB = 24
PATIENCE_SECONDS = 120.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Daemon:
    """`adpfl-server` on a disk that can be brought into trouble and out of it."""

    def __init__(self, consortium, kind, shell):
        self.kind = kind
        self.consortium = consortium
        self.shell = shell
        if kind != "limit":
            self.shell.run(
                f"mkdir disk && mount -t tmpfs -o size={DISK_MIB}m tmpfs disk && cp -a state disk/"
            )
            self.log_inside = (
                "disk/server.log"  # on the very disk: a lost line must not cost more than itself
            )
        else:
            self.log_inside = "server.log"
        self.shell.run(f"touch {self.log_inside}")
        self.pid = None

    def start(self):
        state = "disk/state" if self.kind != "limit" else "state"
        plan = self.consortium.plan(rounds=2, cohort={"sites": list(SITES), "quorum": 3})
        self.consortium.configure(plan, state_dir=state, metrics_listen="127.0.0.1:0")
        self.shell.run(f"{sys.executable} -m adpfl_server --config server.yaml >>{self.log_inside} 2>&1 &")
        self.pid = int(self.shell.run("echo $!"))
        self.ports = None
        self.wait_until(self._serving, "the daemon to serve")

    def _serving(self):
        lines = [json.loads(line) for line in self.logged().splitlines() if '"serving"' in line]
        started = [line for line in lines if line["event"] == "serving"]
        if len(started) == getattr(self, "_starts", 0):
            return False
        self._starts = len(started)
        self.ports = started[-1]
        return True

    def logged(self):
        return self.shell.run(f"cat {self.log_inside}")

    def command(self, *arguments):
        return self.shell.run(f"{sys.executable} -m adpfl_server {' '.join(arguments)} --config server.yaml")

    def metrics(self):
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.ports['metrics_port']}/metrics", timeout=10
        ) as page:
            lines = page.read().decode().splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    def break_disk(self):
        match self.kind:
            case "limit":
                self._limit(1024)
            case "full":
                self.shell.run("cat /dev/zero >disk/filler 2>/dev/null || true")
            case "read_only":
                self.shell.run(
                    "mount --bind disk/state/blobs disk/state/blobs && "
                    "mount -o remount,bind,ro disk/state/blobs"
                )

    def mend_disk(self):
        match self.kind:
            case "limit":
                self._limit(resource.RLIM_INFINITY)
            case "full":
                self.shell.run("rm disk/filler")
            case "read_only":
                self.shell.run("umount disk/state/blobs")

    def _limit(self, most):
        hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (most, hard))

    def wait_until(self, ready, what):
        until = time.monotonic() + PATIENCE_SECONDS
        while not ready():
            assert Path(f"/proc/{self.pid}").exists(), self.logged()
            assert time.monotonic() < until, f"{what}\n{self.logged()}"
            time.sleep(0.1)

    def kill(self):
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            self.shell.run(f"wait {self.pid} || true")
            self.pid = None


@pytest.fixture(params=["limit", "full", "read_only"])
def daemon(request, consortium, open_shell):
    consortium.configure()
    made = Daemon(consortium, request.param, open_shell(consortium.root, namespace=request.param != "limit"))
    yield made
    made.kill()


@pytest.fixture
def callers(daemon, consortium, enrolled, caller_at):
    """Enrolled before the state moves to its own disk."""
    identities = [enrolled(consortium.state_dir, Holder("site", site), "localhost:1") for site in SITES]
    if daemon.kind != "limit":
        daemon.shell.run("cp -a state disk/")
    daemon.start()
    return [caller_at(identity, f"localhost:{daemon.ports['port']}") for identity in identities]


def health_of(caller):
    stub = health_pb2_grpc.HealthStub(caller.channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=10).status


def test_trouble_is_said_nothing_acknowledged_is_lost_and_the_daemon_recovers(
    daemon, callers, consortium, caller_at
):
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    base = callers[0].next_task().base_digest
    updates = [consortium.update(seed) for seed in range(3)]
    acknowledged = callers[0].send(1, base, updates[0])
    asked = callers[1].offer(1, base, updates[1])

    daemon.break_disk()
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as refusal:
            callers[1].push(1, updates[1], asked)
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE, refusal.value.details()
        assert "nothing was changed" in refusal.value.details()
    daemon.wait_until(lambda: health_of(callers[0]) == NOT_SERVING, "the health check to say so")
    metrics = daemon.metrics()
    assert float(metrics["adpfl_serving"]) == 0.0
    assert float(metrics["adpfl_storage_errors_total"]) >= 3.0
    if daemon.kind != "limit":  # which binds the daemon alone
        reason = {"full": "No space left on device", "read_only": "Read-only file system"}[daemon.kind]
        told = daemon.command("status")
        assert f"storage: {reason}" in told
        assert "1 of 3 updates" in told
    assert callers[0].next_task(0).kind is TaskKind.WAIT  # reading goes on

    daemon.mend_disk()
    daemon.wait_until(lambda: health_of(callers[0]) == SERVING, "the health check to say that it works")
    assert '"storage works"' in daemon.logged()
    again = callers[0].commit(1, base, updates[0].manifest.digest)
    assert again.signature == acknowledged.signature
    for caller, update in zip(callers[1:], updates[1:], strict=True):
        caller.send(1, base, update)
    assert callers[0].next_task(20).round == 2

    daemon.kill()
    daemon.start()
    revived = caller_at(callers[0].identity, f"localhost:{daemon.ports['port']}")
    assert revived.next_task().round == 2
    assert "ok: the database" in daemon.command("verify-store")


def test_the_daemon_refuses_to_start_on_a_disk_that_refuses(daemon, callers):
    daemon.kill()
    if daemon.kind == "limit":
        command = f'(ulimit -f 4; {sys.executable} -m adpfl_server --config server.yaml 2>&1; echo "rc $?")'
    else:
        if daemon.kind == "full":
            daemon.break_disk()
        else:
            daemon.shell.run("mount -o remount,ro disk")
        command = f'({sys.executable} -m adpfl_server --config server.yaml 2>&1; echo "rc $?")'
    lines = daemon.shell.run(command).splitlines()
    assert lines[-1] == "rc 1", lines
    assert lines[-2].startswith("error: "), lines
    if daemon.kind != "limit":
        assert "1 of 3" in daemon.command("status") or "waiting" in daemon.command("status")
