"""A whole federation as a person would start it: real commands, real TLS on loopback, generated hospitals."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adpfl.data.synthetic.ct import write_hospital
from adpfl.data.synthetic.dermoscopy import write_clinic

ROOT = Path(__file__).parents[2]
SITES = ("hospital1", "hospital2", "hospital3")
RUN = "survivor"
PATIENCE_SECONDS = 120.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Federation:
    """A folder with one server and its sites, and the processes started from it."""

    sites = SITES
    task = "skin_lesion"
    evaluate_every_rounds = 0

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port, self.enrollment_port = free_port(), free_port()
        self.dialled_port = self.port  # what sites are told; a test may put a relay there
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        (root / "sites").mkdir()
        self.interpreter = (sys.executable, "-m")
        # A shell's environment: what this process has set for its own grpc must not help theirs.
        shell = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
        self.environment = shell | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def plan(self, **changes: Any) -> dict[str, Any]:
        plan = {
            "run": RUN,
            "task": self.task,
            "image_size": [64, 64],
            "rounds": 4,
            "local": {"steps": 8, "learning_rate": 0.1},
            "cohort": {"sites": list(self.sites), "quorum": len(self.sites), "round_deadline_seconds": 300},
            "privacy": {
                "mode": "paper",
                "reading": "multiplier",
                "threshold": {"method": "percentile", "window_steps": 2},
                "sampling": {"mode": "partition", "probability": 0.5},
            },
        }
        return plan | changes

    def configure(self, plan: dict[str, Any]) -> None:
        document = {
            "state_dir": "server",
            "listen": f"127.0.0.1:{self.port}",
            "enroll_listen": f"127.0.0.1:{self.enrollment_port}",
            "public_address": f"127.0.0.1:{self.dialled_port}",
            "public_enroll_address": f"127.0.0.1:{self.enrollment_port}",
            "runs": [plan],
        }
        (self.root / "server.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        accepted = {"run": plan["run"], "reason": "a test on generated images", "by": "the test"}
        for site in self.sites:
            document = {
                "site": site,
                "state_dir": f"../state/{site}",
                "data": {self.task: {"path": f"../data/{site}", "held_out_fraction": 0.25}},
                "policy": {
                    "data_set_id": f"{site}-{self.task.replace('_', '-')}",
                    "allowed_tasks": [self.task],
                    "minimum_patients": 2,
                    "accept_unbounded": [accepted],
                },
                "evaluate_every_rounds": self.evaluate_every_rounds,
                "threads": 1,
            }
            path = self.root / "sites" / f"{site}.yaml"
            path.write_text(yaml.safe_dump(document), encoding="utf-8")

    def prepare(self, plan: dict[str, Any]) -> None:
        """Make data, keys and enrolments, and start the server."""
        for seed, (site, profile) in enumerate(zip(self.sites, "ABC", strict=False)):
            self.write_data(self.root / "data" / site, profile, seed)
        self.configure(plan)
        self.command("adpfl_server", "init", "--config", "server.yaml")
        self.start_server()
        for site in self.sites:
            bundle = f"{site}.bundle.json"
            self.command("adpfl_server", "enroll", site, "--config", "server.yaml", "--output", bundle)
            self.command("adpfl_client", "enroll", bundle, "--site", site)

    def write_data(self, folder: Path, profile: str, seed: int) -> None:
        write_clinic(folder, profile, images=12, seed=seed, size=(96, 128))

    def command(self, module: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.interpreter, module, *arguments],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, (
            f"{module} {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def start_server(self) -> None:
        self._start("server", "adpfl_server", "--config", "server.yaml")
        for port in (self.port, self.enrollment_port):
            self.wait_until(lambda port=port: listens(port), "the server to listen")

    def start_agent(self, site: str) -> None:
        self._start(site, "adpfl_client", "--site", site, "--until-finished")

    def _start(self, name: str, module: str, *arguments: str) -> None:
        with self.log_path(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*self.interpreter, module, *arguments],
                cwd=self.root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self, name: str) -> None:
        """SIGKILL: nothing is flushed, nothing is closed."""
        process = self.running.pop(name)
        assert process.poll() is None, f"{name} had ended by itself\n{self.log(name)}"
        process.kill()
        process.wait()

    def terminate(self, name: str) -> int:
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=60)

    def finish(self, name: str, seconds: float = PATIENCE_SECONDS) -> int:
        return self.running.pop(name).wait(timeout=seconds)

    def log_path(self, name: str) -> Path:
        return self.root / f"{name}.log"

    def log(self, name: str) -> str:
        return self.log_path(name).read_text(encoding="utf-8") if self.log_path(name).exists() else ""

    def logged(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log(name).splitlines() if line.startswith("{")]

    def trains(self, site: str, round_number: int) -> bool:
        """Whether the site's newest log entry is the start of training in this round."""
        entries = [one for one in self.logged(site) if one.get("event") in {"training", "update committed"}]
        return bool(entries) and entries[-1]["event"] == "training" and entries[-1]["round"] == round_number

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            for name, process in self.running.items():
                assert process.poll() in {None, 0}, f"{name} ended: {process.returncode}\n{self.log(name)}"
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            time.sleep(0.05)

    def server_record(self) -> dict[str, Any]:
        path = self.root / "server" / "runs" / RUN / "run.json"
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record

    def site_record(self, site: str) -> dict[str, Any]:
        path = self.root / "state" / site / "runs" / RUN / "site.json"
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


class KidneyFederation(Federation):
    """Two hospitals of a few coarse CTs each."""

    sites = SITES[:2]
    task = "kidney_tumor"
    evaluate_every_rounds = 1

    def plan(self, **changes: Any) -> dict[str, Any]:
        small = {
            "image_size": [16, 16, 16],
            "spacing_mm": [8.0, 8.0, 8.0],
            "rounds": 2,
            "local": {"steps": 2, "learning_rate": 0.1},
        }
        return super().plan(**(small | changes))

    def write_data(self, folder: Path, profile: str, seed: int) -> None:
        write_hospital(folder, profile, cases=4, seed=seed, extent_mm=(200.0, 208.0, 272.0), pixel_mm=6.0)


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    yield from started(Federation(tmp_path))


@pytest.fixture
def kidney_federation(tmp_path: Path) -> Iterator[Federation]:
    yield from started(KidneyFederation(tmp_path))


def started(made: Federation) -> Iterator[Federation]:
    try:
        yield made
    finally:
        made.close()
