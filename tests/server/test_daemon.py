"""The daemon's life: starts, restarts, kills, stops, and everything that can stand in the way of a start."""

import errno
import functools
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from adpfl.errors import ConfigError, IntegrityError, ModelMismatchError, StateError
from adpfl.wire.messages import NextTaskRequest, TaskKind
from adpfl.wire.receipts import verify_receipt
from adpfl_server.daemon import SERVICE_NAME, serve
from adpfl_server.operating.overview import open_store
from adpfl_server.store import DATABASE_FILE
from tests.server.patience import eventually

ROOT = Path(__file__).parents[2]
SITES = ("hospital1", "hospital2", "hospital3")


def test_a_restart_goes_on_where_the_run_was(consortium):
    consortium.start()
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    base = callers[0].next_task().base_digest
    update = consortium.update(1)
    receipt = callers[0].send(1, base, update)
    consortium.running[0].stop()

    consortium.start()
    callers = [consortium.again(caller) for caller in callers]
    assert callers[0].next_task().kind is TaskKind.WAIT
    assert callers[1].next_task().base_digest == base
    assert callers[0].commit(1, base, update.manifest.digest) == receipt
    for seed, caller in enumerate(callers[1:], start=2):
        caller.send(1, base, consortium.update(seed))
    assert callers[0].next_task(10).round == 2
    consortium.running[1].stop()
    record = consortium.record()
    assert "server_restarted" in [entry["kind"] for entry in record["timeline"]]
    assert record["rounds"][0]["sites"] == list(SITES)


def test_a_round_that_was_being_added_up_is_added_up_after_a_restart(consortium, monkeypatch):
    consortium.start()
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    base = callers[0].next_task().base_digest

    async def never(self, run, action):
        """A server that dies before the sum is stored."""

    monkeypatch.setattr("adpfl_server.runner.Runner._aggregate", never)
    for seed, caller in enumerate(callers):
        caller.send(1, base, consortium.update(seed))
    assert callers[0].next_task().kind is TaskKind.WAIT
    consortium.running[0].stop()
    monkeypatch.undo()
    consortium.start()
    assert consortium.again(callers[0]).next_task(10).round == 2


def test_a_changed_plan_needs_a_new_name(consortium):
    consortium.start()
    consortium.running[0].stop()
    with pytest.raises(ConfigError, match="plan of demo differs"):
        consortium.start(consortium.plan(rounds=3))
    consortium.start(consortium.plan(rounds=3, run="demo-2"))


def test_a_silent_site_is_not_waited_for(consortium):
    consortium.start(site_silence_seconds=1.5)
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    base = callers[0].next_task().base_digest
    for seed, caller in enumerate(callers[:2]):
        caller.send(1, base, consortium.update(seed))
    # Both wait for longer than a silent site is given: who waits is not silent.
    waiting = callers[1].stub.NextTask.future(NextTaskRequest("demo", 20).to_wire(), timeout=40)
    task = callers[0].next_task(20)
    assert waiting.result().kind == TaskKind.TRAIN
    assert (task.kind, task.round) == (TaskKind.TRAIN, 2)
    callers[2].next_task()
    consortium.running[0].stop()
    record = consortium.record()
    assert record["rounds"][0]["missing"] == ["hospital3"]
    kinds = [entry["kind"] for entry in record["timeline"] if entry["site"] == "hospital3"]
    assert kinds[:3] == ["site_joined", "site_lost", "site_returned"]


def test_a_clean_stop_answers_the_waiting_polls(consortium):
    consortium.start()
    caller = consortium.caller("hospital1")
    caller.join()
    call = caller.stub.NextTask.future(NextTaskRequest("demo", 30).to_wire(), timeout=40)
    time.sleep(0.3)
    started = time.monotonic()
    consortium.running[0].stop()
    assert call.result().kind == TaskKind.WAIT
    assert time.monotonic() - started < 20  # it had asked to wait for 30


def test_health_is_served_on_the_main_port(consortium):
    consortium.start()
    caller = consortium.caller("hospital1")
    stub = health_pb2_grpc.HealthStub(caller.channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("reflection", [False, True])
def test_reflection_is_off_unless_asked_for(consortium, reflection):
    consortium.start(reflection=reflection)
    stub = reflection_pb2_grpc.ServerReflectionStub(consortium.caller("hospital1").channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    if reflection:
        (answer,) = stub.ServerReflectionInfo(asked, timeout=10)
        assert SERVICE_NAME in {service.name for service in answer.list_services_response.service}
    else:
        with pytest.raises(grpc.RpcError) as error:
            list(stub.ServerReflectionInfo(asked, timeout=10))
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_port_in_use_is_one_clear_error(consortium):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StateError, match=rf"listen: cannot listen on 127.0.0.1:{port}"):
            consortium.start(listen=f"127.0.0.1:{port}")


def test_an_initial_model_of_another_plan_stops_the_start(consortium):
    plan = consortium.plan() | {"initial_model": "other.safetensors"}
    description = json.dumps({"task": "kidney_tumor", "architecture": "unet", "size": "tiny"})
    consortium.write_safetensors(
        consortium.root / "other.safetensors", consortium.weights(0), {"adpfl": description}
    )
    with pytest.raises(ModelMismatchError, match="task is 'kidney_tumor'; run demo has 'skin_lesion'"):
        consortium.start(plan)
    (consortium.root / "other.safetensors").write_bytes(b"damaged file")
    with pytest.raises(IntegrityError):
        consortium.start(plan)


UNSAFE = {"privacy": {"mode": "none", "sampling": {"mode": "full"}}}


def paper(threshold):
    sampling = {"mode": "poisson", "probability": 0.25}
    return {
        "privacy": {"mode": "paper", "reading": "multiplier", "threshold": threshold, "sampling": sampling}
    }


@pytest.mark.parametrize("restart", [False, True], ids=["new", "resumed"])
def test_a_start_warns_of_every_run_without_a_finite_guarantee(consortium, restart):
    runs = [
        consortium.plan(run="bare", **UNSAFE),
        consortium.plan(run="adaptive", **paper({"method": "percentile"})),
        consortium.plan(run="fixed", **paper({"method": "fixed", "clip_norm": 1.0})),
    ]
    if restart:
        consortium.start(*runs)
        consortium.running[0].stop()
    with capture_logs() as logs:
        consortium.start(*runs)
    warnings = {
        entry["run"]: entry["event"]
        for entry in logs
        if entry["log_level"] == "warning" and "epsilon" in entry["event"]
    }
    assert set(warnings) == {"bare", "adaptive"}
    assert warnings["bare"].startswith("unsafe: privacy.mode is none")
    assert warnings["adaptive"].startswith("no finite guarantee")
    assert all("epsilon is infinite" in text for text in warnings.values())


def unnamed(logs):
    return [entry["run"] for entry in logs if "no longer names" in entry["event"]]


def test_a_start_warns_of_an_unfinished_run_that_the_configuration_no_longer_names(consortium):
    consortium.start(consortium.plan(), consortium.plan(run="second"))
    consortium.running[0].stop()
    with capture_logs() as logs:
        daemon = consortium.start(runs=[])
    assert unnamed(logs) == ["demo", "second"]
    assert {entry["log_level"] for entry in logs if "no longer names" in entry["event"]} == {"warning"}
    daemon.stop()
    with capture_logs() as logs:
        consortium.start(consortium.plan(run="second"))
    assert unnamed(logs) == ["demo"]


def store_state(consortium, state_json):
    with closing(sqlite3.connect(consortium.state_dir / DATABASE_FILE)) as database, database:
        database.execute("UPDATE runs SET state_json = ?", (state_json,))


def test_an_unnamed_run_that_cannot_be_read_hinders_no_start(consortium):
    consortium.start().stop()
    store_state(consortium, "{}")
    with capture_logs() as logs:
        consortium.start(runs=[])
    assert len([entry for entry in logs if "cannot be read" in entry["event"]]) == 1


def test_a_run_that_is_over_may_be_taken_out_of_the_configuration(consortium):
    daemon = consortium.start()
    daemon.stop()
    with open_store(daemon.config) as store:
        over = store.state("demo").model_copy(update={"status": "cancelled"})
    store_state(consortium, over.model_dump_json())
    with capture_logs() as logs:
        consortium.start(runs=[])
    assert unnamed(logs) == []


def test_a_disk_that_is_full_at_the_start_is_one_clear_error(consortium, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("adpfl_server.storage.blobs.os.fsync", full)
    with pytest.raises(StateError, match="No space left"):
        consortium.start()


def test_a_full_disk_delays_a_round_and_never_fails_it(consortium, monkeypatch):
    monkeypatch.setattr("adpfl_server.runner.RETRY_SECONDS", 0.2)
    consortium.start()
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    base = callers[0].next_task().base_digest
    for seed, caller in enumerate(callers[:2]):
        caller.send(1, base, consortium.update(seed))
    last = consortium.update(2)
    callers[2].push(1, last, callers[2].offer(1, base, last))

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("adpfl_server.storage.blobs.os.fsync", full)
        callers[2].commit(1, base, last.manifest.digest)
        assert callers[0].next_task(1).kind is TaskKind.WAIT
    assert callers[0].next_task(10).round == 2


# --- processes ------------------------------------------------------------------------------------


class Process:
    """A daemon started as a person starts it."""

    def __init__(self, consortium):
        self.consortium = consortium
        self.child = subprocess.Popen(
            [sys.executable, "-m", "adpfl_server", "--config", str(consortium.config_path)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines = []
        started = time.monotonic()
        for line in self.child.stderr:
            self.lines.append(line)
            if '"serving"' in line:
                self.ports = json.loads(line)
                break
        else:
            raise AssertionError(f"the daemon did not start: {self.lines}")
        self.start_seconds = time.monotonic() - started

    @property
    def address(self):
        return f"localhost:{self.ports['port']}"

    def kill(self):
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(10)
        self.child.stderr.close()


@contextmanager
def process(consortium):
    daemon = Process(consortium)
    try:
        yield daemon
    finally:
        daemon.kill()


class Play:
    """A whole run of three sites as a list of steps, each acknowledged by the daemon before it ends."""

    def __init__(self, consortium):
        self.updates = [consortium.update(seed) for seed in range(3)]
        self.receipts = {}
        self.base = None
        self.steps = [functools.partial(self.join, number) for number in range(3)]
        for round_number in (1, 2):
            for number in range(3):
                for part in (self.offer, self.push, self.commit):
                    self.steps.append(functools.partial(part, number, round_number))

    def join(self, number, callers):
        callers[number].enter(str(number))

    def offer(self, number, round_number, callers):
        self.base = callers[number].next_task(20).base_digest
        callers[number].offer(round_number, self.base, self.updates[number])

    def push(self, number, round_number, callers):
        update = self.updates[number]
        assert callers[number].push(round_number, update, update.manifest.chunk_digests) == ()

    def commit(self, number, round_number, callers):
        digest = self.updates[number].manifest.digest
        self.receipts[number, round_number] = (
            self.base,
            callers[number].commit(round_number, self.base, digest),
        )

    def check_receipts(self, callers):
        for (number, round_number), (base, receipt) in self.receipts.items():
            caller, digest = callers[number], self.updates[number].manifest.digest
            assert caller.commit(round_number, base, digest) == receipt
            verify_receipt(receipt.receipt, receipt.signature, caller.identity.server_certificate)


@pytest.mark.process
def test_nothing_acknowledged_is_lost_to_kill_9(consortium, caller_at):
    """Killed after every acknowledged step, the run ends as if nothing had happened."""
    consortium.configure()
    play = Play(consortium)
    sites = SITES
    for work in play.steps:
        with process(consortium) as daemon:
            callers = [caller_at(site, daemon.address) for site in sites]
            sites = [caller.identity for caller in callers]
            work(callers)
            play.check_receipts(callers)
    with process(consortium) as daemon:
        caller = caller_at(sites[0], daemon.address)
        deadline = time.monotonic() + 20
        while (task := caller.next_task(5)).kind is not TaskKind.FINISHED:
            assert time.monotonic() < deadline
    record = consortium.record()
    assert record["summary"] == "finished: 2 of 2 rounds; 3 of 3 sites in every round"
    assert record["rounds"][-1]["result_digest"] == task.base_digest
    assert sum(entry["kind"] == "server_restarted" for entry in record["timeline"]) == len(play.steps) - 1


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_with_exit_code_0(consortium, number):
    consortium.configure()
    with process(consortium) as daemon:
        daemon.child.send_signal(number)
        assert daemon.child.wait(15) == 0
    assert consortium.record()["status"] == "waiting"


@pytest.mark.process
def test_the_daemon_starts_quickly(consortium):
    consortium.configure()
    with process(consortium) as daemon:
        assert daemon.start_seconds < 5.0  # about one second on an idle machine


@pytest.mark.process
def test_one_state_folder_has_one_server(consortium):
    consortium.configure()
    with process(consortium):
        second = subprocess.run(
            [sys.executable, "-m", "adpfl_server", "--config", str(consortium.config_path)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert second.returncode == 1
    assert second.stderr == f"error: state_dir is {consortium.state_dir}; another adpfl-server is using it\n"


@pytest.mark.process
def test_initial_weights_are_made_where_they_are_absent(consortium):
    consortium.configure(consortium.plan(seed=5) | {"initial_model": None})
    with process(consortium) as daemon:
        daemon.child.send_signal(signal.SIGTERM)
        assert daemon.child.wait(15) == 0
    path = consortium.state_dir / "initial" / "demo.safetensors"
    assert path.is_file()
    assert consortium.record()["status"] == "waiting"


@pytest.mark.process
def test_a_failure_to_make_initial_weights_says_why(consortium):
    consortium.configure(consortium.plan(task="no_such_task") | {"initial_model": None})
    done = subprocess.run(
        [sys.executable, "-m", "adpfl_server", "--config", str(consortium.config_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: initial weights of run demo cannot be made:")
    assert "no_such_task" in last


def test_the_daemon_never_loads_torch():
    program = (
        "import sys, adpfl_server.daemon, adpfl_server.operating.overview, adpfl_server.cli\n"
        "print([name for name in ('torch', 'monai', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "work",
    [
        "adpfl_server.rounds.silence.Silence.look",
        "adpfl_server.rounds.housekeeping.Housekeeping.examine",
        "adpfl_server.rounds.steering.Steering._apply_wanted",
    ],
)
def test_a_server_without_work_that_its_runs_need_ends_and_says_so(consortium, monkeypatch, work):
    """Deadlines that no longer pass would look like a run that waits."""

    def broken(*_, **__):
        raise RuntimeError("a mistake")

    config = consortium.configure()
    monkeypatch.setattr("adpfl_server.daemon.settle_allocator", lambda: None)  # this process is no server
    monkeypatch.setattr(work, broken)
    with capture_logs() as logs, pytest.raises(StateError, match="background work that every run needs"):
        serve(config, consortium.config_path)
    events = [line["event"] for line in logs]
    assert events.index("background work failed") < events.index("stopping") < events.index("stopped")


def test_a_row_that_cannot_be_read_is_said_and_ends_nothing(consortium, monkeypatch):
    async def damaged(*_, **__):
        raise IntegrityError("manifest: not canonical")

    monkeypatch.setattr("adpfl_server.rounds.housekeeping.Housekeeping.examine", damaged)
    with capture_logs() as logs:
        runner = consortium.start().daemon.runner
        eventually(lambda: any(line["event"] == "stored models cannot be read" for line in logs))
        consortium.caller("hospital1").enter("0")
        assert not runner.broken.is_set()
    assert [line["reason"] for line in logs if "reason" in line] == ["manifest: not canonical"]
