"""An agent whose disk fills up: it says so, spends nothing for what it cannot keep, and goes on by itself."""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

SITE = "hospital1"
ROUNDS = 3
DISK_MIB = 14
SMALL_FILE_BYTES = 100_000
"""Below a model's size, above that of the ledger and the log."""


class AgentOnADisk:
    """The agent of one site on a small disk of its own, or under a limit on the size of its files."""

    def __init__(self, federation, shell, kind):
        self.federation, self.shell, self.kind = federation, shell, kind
        self.state = f"state/{SITE}"
        if kind == "full":
            self.shell.run(
                f"cp -a {self.state} kept && mount -t tmpfs -o size={DISK_MIB}m tmpfs {self.state} "
                f"&& cp -a kept/. {self.state}/"
            )
        self.shell.run(f"{sys.executable} -m adpfl_client --site {SITE} --until-finished >{SITE}.log 2>&1 &")
        self.pid = int(self.shell.run("echo $!"))

    def fill(self):
        if self.kind == "full":
            self.shell.run(f"cat /dev/zero >{self.state}/filler 2>/dev/null || true")
        else:
            self._limit(SMALL_FILE_BYTES)

    def make_room(self):
        if self.kind == "full":
            self.shell.run(f"rm {self.state}/filler")
        else:
            self._limit(resource.RLIM_INFINITY)

    def _limit(self, most):
        hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (most, hard))

    def events(self):
        return [entry["event"] for entry in self.federation.logged(SITE)]

    def wait_for(self, event, count=1):
        until = time.monotonic() + 120
        while self.events().count(event) < count:
            assert time.monotonic() < until, f"{event}\n{self.federation.log(SITE)}"
            assert Path(f"/proc/{self.pid}").exists(), self.federation.log(SITE)
            time.sleep(0.02)

    def reservations(self):
        text = self.shell.run(f"{sys.executable} -m adpfl_client ledger --site {SITE} --json")
        return [(row["round"], row["attempt"], row["status"]) for row in json.loads(text)["reservations"]]


@pytest.fixture(params=["limit", "full"])
def agent(request, federation, open_shell):
    shell = open_shell(federation.root, namespace=request.param == "full")
    cohort = {"sites": [SITE], "quorum": 1, "round_deadline_seconds": 300}
    federation.sites = (SITE,)
    federation.prepare(
        federation.plan(rounds=ROUNDS, cohort=cohort, local={"steps": 12, "learning_rate": 0.1})
    )
    federation.command("adpfl_server", "pause", federation.plan()["run"])
    made = AgentOnADisk(federation, shell, request.param)
    yield made
    if Path(f"/proc/{made.pid}").exists():
        os.kill(made.pid, signal.SIGKILL)


def test_a_full_disk_costs_nothing_is_said_and_waited_for(agent):
    run = agent.federation.plan()["run"]
    agent.wait_for("run joined")
    agent.fill()
    agent.federation.command("adpfl_server", "resume", run)
    agent.wait_for("the disk refuses; nothing is spent until it works again")
    told = next(one for one in agent.federation.logged(SITE) if one["event"].startswith("the disk refuses"))
    assert told["level"] == "error"
    assert "the disk refuses: " in told["reason"]
    assert agent.reservations() == []
    agent.make_room()
    agent.wait_for("the disk works again")
    if agent.kind == "full":
        agent.wait_for("training")
        agent.fill()  # in the middle of a round: its room is held already
        agent.wait_for("update committed")
        agent.wait_for("the disk refuses; nothing is spent until it works again", 2)
        agent.make_room()
    agent.shell.run(f"wait {agent.pid}")
    expected = [(number, 1, "committed") for number in range(1, ROUNDS + 1)]
    assert agent.reservations() == expected
    record = agent.federation.server_record()
    assert (record["status"], len(record["rounds"])) == ("finished", ROUNDS)
